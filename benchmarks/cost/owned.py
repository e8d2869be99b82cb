"""The GPU that is owned: what its hour costs and how fast it is, each from the first that says so, and who said it.

    hour's price   command line, market file (its median), configuration, the engine's result, assumed
    speeds         command line, the engine's result, configuration, assumed

What is assumed is an RTX 4090, so for another card somebody has to say. Knows no request.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.child import BenchmarkError
from benchmarks.cost import breakeven
from benchmarks.cost.architectures import RTX_4090, Gpu
from benchmarks.cost.breakeven import HourPrice
from benchmarks.cost.market import Market, same_card
from benchmarks.cost.measured import Measured
from benchmarks.cost.replayed import Speeds
from models.prices import RateCard

ASSUMED_CARD: Final = "rtx4090"
HALF_AND_DOUBLE: Final = (0.5, 2.0)


@dataclass(frozen=True, slots=True)
class Owned:
    """`hours`: those that break-even is worked out for, the run's own among them, ascending."""

    gpu: Gpu
    hours: Sequence[HourPrice]
    engine: Measured | None = None

    def speeds(self) -> Speeds:
        """The replayed engine's: of one answer, and how many at once, as measured where that was."""
        usual = Speeds.usual()
        if self.engine is None:
            return usual
        return replace(usual, gpu_answer_tokens_per_s=self.engine.alone, gpu_running=self.engine.callers)


def of_options(options: argparse.Namespace, card: RateCard | None = None, config: str = "") -> Owned:
    """card: of the configuration's own tier, `config` its name. Raises BenchmarkError where nobody says."""
    engine = None if options.engine is None else Measured.read(options.engine)
    name = _card(options, engine, card)
    if card is not None and card.gpu and not same_card(card.gpu, name):
        card = None  # of another card than the one that is asked about
    market = None if options.market is None else Market.read(options.market, name)
    hour = _hour(options, market, engine, (card, config), name)
    gpu = _speeds(options, engine, (card, config), name)
    gpu = replace(gpu, usd_per_hour=hour.usd_per_hour, price_source=f"{hour.source} ({hour.as_of})")
    return Owned(gpu, breakeven.hours(hour, _others(hour, market, name)), engine)


def _card(options: argparse.Namespace, engine: Measured | None, card: RateCard | None) -> str:
    """Which card it is. A price of one and the speed of another would be nobody's cost."""
    if engine is not None and options.gpu is not None and not same_card(engine.gpu, options.gpu):
        raise BenchmarkError(f"--engine was measured on {engine.gpu or 'a CPU'}, --gpu is {options.gpu}: name one card")
    if options.gpu is not None:
        return str(options.gpu)
    if engine is not None:
        return engine.gpu
    return ASSUMED_CARD if card is None else card.gpu or ""


def _hour(
    options: argparse.Namespace,
    market: Market | None,
    engine: Measured | None,
    configured: tuple[RateCard | None, str],
    name: str,
) -> HourPrice:
    card, config = configured
    if options.gpu_usd_per_hour is not None:
        return HourPrice(options.gpu_usd_per_hour, "stated on the command line", _today())
    if market is not None:
        return market.median()
    if card is not None:
        return HourPrice(float(card.usd_per_hour), f"{card.source} ({config})", str(card.as_of))
    if engine is not None and engine.usd_per_hour is not None:
        return HourPrice(engine.usd_per_hour, "stated when the engine was measured", engine.as_of)
    if same_card(name, ASSUMED_CARD):
        return HourPrice(RTX_4090.usd_per_hour, RTX_4090.price_source, "2026-11-22")
    raise BenchmarkError(
        f"what does an hour of one {name or 'such machine'} cost? --gpu-usd-per-hour, --market or --config"
    )


def _speeds(
    options: argparse.Namespace, engine: Measured | None, configured: tuple[RateCard | None, str], name: str
) -> Gpu:
    """Where the engine's result does not part reading from writing, prompts are read at the card's speed.

    Some of that reading is then counted twice, against the GPU.
    """
    card, config = configured
    prefill, decode = options.gpu_prefill_tokens_per_s, options.gpu_decode_tokens_per_s
    if card is not None:
        rates = float(card.prefill_tokens_per_s), float(card.decode_tokens_per_s)
        known = Gpu(0.0, *rates, source=f"{card.source} ({config})")
    elif engine is not None or same_card(name, ASSUMED_CARD) or (prefill and decode):
        known = RTX_4090
    else:
        raise BenchmarkError(f"how fast is a {name}? --engine, --config, or both --gpu-...-tokens-per-s")
    if engine is not None:
        reading = prefill or engine.prefill or known.prefill_tokens_per_s
        told = "stated" if prefill else "measured too" if engine.prefill else known.source
        known = replace(known, prefill_tokens_per_s=reading, decode_tokens_per_s=engine.decode)
        known = replace(known, source=f"{engine.source}; prompts are read at {reading:g} tokens/s ({told})")
    stated = replace(
        known,
        prefill_tokens_per_s=prefill or known.prefill_tokens_per_s,
        decode_tokens_per_s=decode or known.decode_tokens_per_s,
    )
    if decode or (prefill and engine is None):
        return replace(stated, source=f"speeds stated on the command line, the rest: {known.source}")
    return stated


def _others(own: HourPrice, market: Market | None, name: str) -> Sequence[HourPrice]:
    """The market where it is known; three prices that were seen of an RTX 4090; else half and double, for the feel."""
    if market is not None:
        return market.hours()
    if same_card(name, ASSUMED_CARD):
        return breakeven.RTX_4090
    return [
        HourPrice(own.usd_per_hour * by, f"{by:g} times the run's own price: nobody's offer", _today())
        for by in HALF_AND_DOUBLE
        if own.usd_per_hour
    ]


def _today() -> str:
    return str(datetime.datetime.now(datetime.UTC).date())


def sentences(gpu: Gpu) -> list[str]:
    """For the run's assumptions."""
    return [
        f"GPU's hour: ${gpu.usd_per_hour:g}. {gpu.price_source}",
        f"GPU's speed at full load: {gpu.prefill_tokens_per_s:g} prompt and {gpu.decode_tokens_per_s:g} output "
        f"tokens/s. {gpu.source}",
    ]
