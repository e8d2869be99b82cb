"""The caller's own options: the `farthing` object of a body, the defaults of a key, and the Cache-Control header.

They are stripped before a backend sees the request. Knows no key store and no pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from models.errors import BadRequest
from serving.wire.fields import is_int, refuse

CacheMode = Literal["use", "bypass", "no_store"]
# Each forbids more than the one before: `bypass` does not read but stores the fresh answer, `no_store` does neither.
MODES: Final[tuple[CacheMode, ...]] = ("use", "bypass", "no_store")

MAX_TAGS = 16
MAX_LABEL_CHARS = 128


@dataclass(frozen=True, slots=True)
class Options:
    """`cache` None is "nothing said": cached as usual, while a spoken "use" also opts in for sampled answers."""

    cache: CacheMode | None = None
    tags: tuple[str, ...] = ()
    local_only: bool = False
    deadline_ms: int | None = None
    conversation: str = ""
    prompt: str = ""

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
        if said.get("cache", "use") not in MODES:
            refuse(f"{where}.cache", "one of " + ", ".join(f"'{mode}'" for mode in MODES))
        if not isinstance(said.get("local_only", False), bool):
            refuse(f"{where}.local_only", "true or false")
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
        """These over a key's defaults: `local_only` of either holds, tags add up, else what the request says wins."""
        return Options(
            cache=self.cache or defaults.cache,
            tags=tuple(dict.fromkeys(defaults.tags + self.tags)),
            local_only=self.local_only or defaults.local_only,
            deadline_ms=self.deadline_ms or defaults.deadline_ms,
            conversation=self.conversation or defaults.conversation,
            prompt=self.prompt or defaults.prompt,
        )

    def limited(self, mode: CacheMode) -> Options:
        """These options under a Cache-Control header, which can forbid but never opts in."""
        return self if MODES.index(self.cache or "use") >= MODES.index(mode) else replace(self, cache=mode)


def _is_label(value: Any) -> bool:
    """Labels reach the ledger and the log: no control characters, which PostgreSQL or a terminal would trip over."""
    return isinstance(value, str) and len(value) <= MAX_LABEL_CHARS and (value.isprintable() or not value)


def cache_control(header: str | None) -> CacheMode:
    """`no-store`: neither read nor store. `no-cache`, `max-age=0`: do not read, but store the fresh answer.

    Other directives ask for nothing that an exact cache with a bound age would do otherwise, and are passed over.
    """
    if not header:
        return "use"
    directives = {part.strip().lower() for part in header.split(",")}
    if "no-store" in directives:
        return "no_store"
    return "bypass" if directives & {"no-cache", "max-age=0"} else "use"
