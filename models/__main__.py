"""`python -m models`: list profiles, say what fits a GPU, prepare weights, look up a price."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path

from models.errors import ConfigError, StartError
from models.local.fit import GB, FitReport, fit
from models.local.gpus import GIB, KNOWN_GPUS, Gpu, detect_gpu, gpu_named
from models.local.profiles import Profile, catalogue, resolve
from models.local.weights import DEFAULT_ROOT, prepare, verify
from models.prices import PriceBook


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    profiles = commands.add_parser("profiles", help="list the models we know how to run")
    profiles.set_defaults(run=_profiles)

    fits = commands.add_parser("fit", help="say which profiles fit a GPU, with the numbers")
    fits.add_argument("model", nargs="?", help="a profile, Hugging Face id or folder; default: every profile")
    size = fits.add_mutually_exclusive_group()
    size.add_argument("--gpu", help=f"one of: {', '.join(KNOWN_GPUS)}; default: the GPU of this machine")
    size.add_argument("--gpu-memory-gib", type=float, help="a GPU that is not in the table, by its size")
    fits.add_argument("--context", type=int, help="tokens of one request; default: the profile's max_model_len")
    fits.add_argument("--dir", type=Path, default=DEFAULT_ROOT, help=f"prepared models; default: {DEFAULT_ROOT}")
    fits.add_argument("--json", action="store_true")
    fits.set_defaults(run=_fit)

    prepares = commands.add_parser("prepare", help="convert or download a model's weights, once")
    prepares.add_argument("model", nargs="?", default="embedded", help="a profile, Hugging Face id or folder")
    prepares.add_argument("--dir", type=Path, default=DEFAULT_ROOT, help=f"default: {DEFAULT_ROOT}")
    prepares.add_argument("--verify", action="store_true", help="read every byte and compare checksums")
    prepares.set_defaults(run=_prepare)

    price = commands.add_parser("price", help="the price of a hosted model or a profile, with its date")
    price.add_argument("model")
    price.add_argument("--provider", help="its id in genai-prices: openai, anthropic, google, openrouter ...")
    price.add_argument("--on", type=datetime.date.fromisoformat, help="YYYY-MM-DD; default: today (UTC)")
    price.set_defaults(run=_price)
    return parser


def _profiles(_: argparse.Namespace) -> None:
    for profile in catalogue().values():
        context = f"{profile.engine.max_model_len:,} tokens"
        print(f"{profile.name:16} {profile.weights:24} {profile.quantization:5} {context:14} {profile.licence}")
        print(f"{'':16} {profile.notes}")


def _fit(args: argparse.Namespace) -> None:
    gpu = _gpu(args)
    if args.context is not None and args.context < 1:
        raise ConfigError("--context is a number of tokens, at least 1")
    profiles: list[Profile] = [resolve(args.model, args.dir)] if args.model else list(catalogue().values())
    reports = [fit(profile, gpu, context_tokens=args.context) for profile in profiles]
    if args.json:
        print(json.dumps([report.to_json() for report in reports], indent=2))
        return
    print(f"{gpu.name}: {gpu.total_bytes / GIB:.1f} GiB")
    print(f"{'profile':16} {'weights':>9} {'KV/token':>10} {'KV tokens':>11} {'requests of':>18}")
    for report in reports:
        print(_line(report))


def _line(report: FitReport) -> str:
    if report.reason == "unknown_config":
        return report.explain()
    requests = f"{report.concurrent} x {report.context_tokens:,}"
    numbers = (
        f"{report.weight_bytes / GB:6.1f} GB {report.kv_bytes_per_token:8,} B {report.kv_tokens:11,} {requests:>18}"
    )
    verdict = {"": "fits", "weights": "no: weights too large", "context": "no: not one request"}[report.reason]
    return f"{report.profile:16} {numbers}  {verdict}" + (f" ({report.note})" if report.note else "")


def _gpu(args: argparse.Namespace) -> Gpu:
    if args.gpu:
        return gpu_named(args.gpu)
    if args.gpu_memory_gib is not None:
        if not 0 < args.gpu_memory_gib < 10_000:
            raise ConfigError("--gpu-memory-gib is the card's memory, such as 24")
        return Gpu(f"{args.gpu_memory_gib:g} GiB", int(args.gpu_memory_gib * GIB))
    detected = detect_gpu()
    if detected is None:
        raise ConfigError("no NVIDIA GPU found here; name one with --gpu rtx4090, or its size with --gpu-memory-gib 24")
    return detected


def _prepare(args: argparse.Namespace) -> None:
    folder = prepare(resolve(args.model), args.dir, lambda text: print(text, file=sys.stderr, flush=True))
    if args.verify:
        verify(folder)
    print(folder)


def _price(args: argparse.Namespace) -> None:
    day = args.on or datetime.datetime.now(datetime.UTC).date()
    at = datetime.datetime.combine(day, datetime.time(), datetime.UTC)
    profile = catalogue().get(args.model)
    if profile is not None and profile.rate_card is not None:
        print(profile.rate_card.describe(at))
    else:
        print(PriceBook().price_of(args.model, args.provider).describe(at))


if __name__ == "__main__":
    sys.exit(main())
