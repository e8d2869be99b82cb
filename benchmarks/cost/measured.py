"""What a result of `benchmarks.engine` says about the speed of an owned GPU. Reads its JSON, knows no price."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.child import BenchmarkError

CONTENDERS: Final = ("gateway", "serve", "bare")  # of what a user would run, the whole way first
NOT_GIVEN: Final = "None"  # as that benchmark's record writes an option that was left out


@dataclass(frozen=True, slots=True)
class Measured:
    """Rates are tokens per second.

    `best`: output tokens of all requests together, at `callers`. `prefill` and `decode`: of reading and of writing
    alone where that run parted them (`--prefill-words`); else `prefill` is None and `decode` has the reading of the
    measured prompts in it. `alone`: of one answer, at the fewest callers there were. `gpu` is
    empty where there was none. `usd_per_hour`: as that run was told, None where it was not.
    """

    best: float
    prefill: float | None
    decode: float
    callers: int
    alone: float
    gpu: str
    usd_per_hour: float | None
    as_of: str
    source: str

    @classmethod
    def read(cls, path: Path) -> Measured:
        """Raises BenchmarkError."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            return cls.of(record, path.name)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as exc:
            wanted = "a result of `python -m benchmarks.engine` with its vLLM part is expected"
            raise BenchmarkError(f"{path} cannot be used ({exc!r}): {wanted}") from exc

    @classmethod
    def of(cls, record: Mapping[str, Any], name: str) -> Measured:
        """From the gateway's rows, else the best placed contender's. Raises LookupError, TypeError or ValueError."""
        found = [row for row in record["vllm"]["results"] if row["kind"] == "stream"]
        contender = next(c for c in (*CONTENDERS, None) if c is None or any(row["contender"] == c for row in found))
        ours = [row for row in found if row["contender"] == contender and row.get("tokens") is None]
        rates = {int(row["clients"]): _rate(row) for row in ours}
        if not rates:
            raise LookupError("no streams of vLLM in it")
        callers = max(rates, key=lambda clients: rates[clients])
        config, machine = record["config"], record["machine"]
        gpu = str(machine["gpus"][0]).partition(",")[0] if machine["gpus"] else ""
        weights = " with random weights" if config.get("dummy") is True else ""
        source = (
            f"measured: {rates[callers]:,.0f} output tokens/s, {contender}, {callers} callers, prompts of "
            f"{config['prompt_words']} words, answers of {config['tokens']} tokens, {config['model']}{weights} on "
            f"{gpu or machine['cpu']} ({name}, commit {machine['commit']}, {record['date'][:10]})"
        )
        stated = config.get("usd_per_hour", NOT_GIVEN)
        usd = None if stated in (None, NOT_GIVEN) else float(stated)
        card = record["vllm"].get("rate_card", {}).get(contender, {})
        prefill, decode = card.get("prefill_tokens_per_s"), card.get("decode_tokens_per_s", rates[callers])
        fewest = min(rates)
        alone = rates[fewest] / fewest
        return cls(rates[callers], prefill, decode, callers, alone, gpu, usd, record["date"][:10], source)


def _rate(row: Mapping[str, Any]) -> float:
    rate = float(row["output_tokens_per_s"]["median"])
    if not rate > 0:
        raise ValueError(f"{rate} tokens/s")
    return rate
