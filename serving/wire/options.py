"""The caller's own options: the `farthing` object of a body, the defaults of a key, and the Cache-Control header.

They are stripped before a backend sees the request. Knows no key store and no pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

from models.errors import BadRequest
from serving.wire.fields import is_int, refuse

CacheMode = Literal["semantic", "exact", "only", "bypass", "off"]
# semantic: word for word, then by meaning; exact: word for word; only: like semantic, and no model is asked on a miss;
# bypass: do not read but store the fresh answer; off: neither.
MODES: Final[tuple[CacheMode, ...]] = get_args(CacheMode)

MAX_TAGS = 16
MAX_LABEL_CHARS = 128


@dataclass(frozen=True, slots=True)
class Options:
    """`cache` None is "nothing said": cached as usual; a spoken mode that reads also opts in for sampled answers."""

    cache: CacheMode | None = None
    tags: tuple[str, ...] = ()
    local_only: bool = False
    deadline_ms: int | None = None
    conversation: str = ""
    prompt: str = ""
    keep_text: bool = True  # where this service keeps texts at all

    @classmethod
    def parse(cls, given: Any, where: str = "farthing") -> Options:
        """Read the JSON object; unknown keys are refused, since a misspelt `local_only` must not send text away."""
        if given is None:
            return cls()
        if not isinstance(given, dict):
            refuse(where, "an object")
        for name in given:
            if name not in cls.__slots__:
                known = ", ".join(cls.__slots__)
                raise BadRequest(f"'{where}.{name}' is not an option; the options are {known}", param=f"{where}.{name}")
        said = {name: value for name, value in given.items() if value is not None}
        if said.get("cache", "off") not in MODES:
            refuse(f"{where}.cache", "one of " + ", ".join(f"'{mode}'" for mode in MODES))
        for name in ("local_only", "keep_text"):
            if not isinstance(said.get(name, False), bool):
                refuse(f"{where}.{name}", "true or false")
        if "deadline_ms" in said and not (is_int(said["deadline_ms"]) and said["deadline_ms"] > 0):
            refuse(f"{where}.deadline_ms", "a positive number of milliseconds (an integer)")
        for name in ("conversation", "prompt"):
            if not _is_label(said.get(name, "")):
                refuse(f"{where}.{name}", f"a string of at most {MAX_LABEL_CHARS} printable characters")
        tags = said.get("tags", [])
        if not isinstance(tags, list) or len(tags) > MAX_TAGS or not all(_is_label(tag) and tag for tag in tags):
            refuse(f"{where}.tags", f"a list of at most {MAX_TAGS} short strings")
        return cls(**{**said, "tags": tuple(dict.fromkeys(tags))})

    def merged(self, defaults: Options) -> Options:
        """These over a key's defaults: `local_only` and `keep_text: false` of either hold, tags add up, else what the
        request says wins."""
        if defaults == NOTHING_SAID:
            return self
        return Options(
            cache=self.cache or defaults.cache,
            tags=tuple(dict.fromkeys(defaults.tags + self.tags)),
            local_only=self.local_only or defaults.local_only,
            deadline_ms=self.deadline_ms or defaults.deadline_ms,
            conversation=self.conversation or defaults.conversation,
            prompt=self.prompt or defaults.prompt,
            keep_text=self.keep_text and defaults.keep_text,
        )

    def limited(self, header: CacheMode | None) -> Options:
        """These options under a Cache-Control header, which can forbid but never opts in."""
        both = {header, self.cache}
        if "only" in both and both & {"bypass", "off"}:
            raise BadRequest(
                "Cache-Control and farthing.cache exclude each other: one allows the cache only, the other forbids it",
                param="farthing.cache",
            )
        return self if header is None or self.cache == "off" else replace(self, cache=header)


NOTHING_SAID: Final = Options()


def _is_label(value: Any) -> bool:
    """Labels reach the ledger and the log: no control characters, which PostgreSQL or a terminal would trip over."""
    return isinstance(value, str) and len(value) <= MAX_LABEL_CHARS and (value.isprintable() or not value)


def cache_control(header: str | None) -> CacheMode | None:
    """`no-store`: neither read nor store. `no-cache`, `max-age=0`: do not read, but store the fresh answer.
    `only-if-cached`: ask no model.

    Other directives ask for nothing that a cache with a bound age would do otherwise, and are passed over.
    """
    if not header:
        return None
    directives = {part.strip().lower() for part in header.split(",")}
    if "no-store" in directives:
        return "off"
    if directives & {"no-cache", "max-age=0"}:
        return "bypass"
    return "only" if "only-if-cached" in directives else None
