"""`python -m serving keys add | list | revoke`: arguments and printing; `keys.py` does the work."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from pathlib import Path

import orjson

from models.errors import BadRequest
from serving.ledger.costs import parse_since, usd
from serving.ledger.keys import ApiKey, Limits, add, all_keys, revoke
from serving.ledger.store import Store, epoch_ms, utc
from serving.wire.options import MODES, Options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True)
    new = verbs.add_parser("add", help="make a key; its secret is shown once")
    new.add_argument("--tenant", required=True)
    new.add_argument("--role", choices=["user", "admin"], default="user")
    new.add_argument("--requests-per-minute", type=int, metavar="N")
    new.add_argument("--tokens-per-minute", type=int, metavar="N")
    new.add_argument("--usd-per-day", type=_nusd, metavar="USD", help="for hosted models; 0 forbids them")
    new.add_argument("--max-parallel", type=int, metavar="N")
    new.add_argument("--models", type=_names, metavar="A,B", help="models, tiers or aliases it may name (default: all)")
    new.add_argument("--expires", metavar="WHEN", help="a date, or 90d from now")
    default = new.add_argument_group("defaults", "the caller's options where a request says nothing")
    default.add_argument("--cache", choices=MODES)
    default.add_argument("--tags", type=_names, default=(), metavar="A,B")
    default.add_argument("--local-only", action="store_true", help="never send this key's requests to a hosted model")
    default.add_argument("--no-texts", action="store_true", help="never keep this key's prompts and answers")
    default.add_argument("--deadline-ms", type=int, metavar="MS")
    listing = verbs.add_parser("list", help="every key, without its secret")
    listing.add_argument("--json", action="store_true")
    revoking = verbs.add_parser("revoke", help="refuse a key from now on")
    revoking.add_argument("id")
    for verb in (new, listing, revoking):  # before the verb or after it, as one happens to write it
        verb.add_argument("--config", type=Path, default=argparse.SUPPRESS, help="the service's configuration")


def run(args: argparse.Namespace, store: Store) -> int:
    return {"add": _add, "list": _list, "revoke": _revoke}[args.verb](args, store)


def _add(args: argparse.Namespace, store: Store) -> int:
    limits = Limits(
        args.requests_per_minute, args.tokens_per_minute, args.usd_per_day, args.max_parallel, args.models or None
    )
    defaults = {
        "cache": args.cache,
        "tags": list(args.tags),
        "local_only": args.local_only,
        "keep_text": not args.no_texts,
        "deadline_ms": args.deadline_ms,
    }
    expires_ms = None if args.expires is None else _future(args.expires)
    _, secret = add(store, args.tenant, args.role, limits, Options.parse(defaults, where="defaults"), expires_ms)
    sys.stdout.write(secret + "\n")
    sys.stderr.write("keep it now: it is not stored and cannot be shown again\n")
    return 0


def _list(args: argparse.Namespace, store: Store) -> int:
    for key in all_keys(store):
        sys.stdout.write((orjson.dumps(asdict(key)).decode() if args.json else _line(key)) + "\n")
    return 0


def _revoke(args: argparse.Namespace, store: Store) -> int:
    if revoke(store, args.id):
        return 0
    sys.stderr.write(f"there is no valid key '{args.id}': see `keys list`\n")
    return 2


def _line(key: ApiKey) -> str:
    now_ms = epoch_ms()
    expired = key.expires_ms is not None and key.expires_ms <= now_ms
    state = "revoked" if key.revoked_ms is not None else "expired" if expired else "valid"
    parts = [f"{key.id}  {state:7}  {key.role:5}  {key.tenant}  since {utc(key.created_ms)}"]
    if key.expires_ms is not None:
        parts.append(f"until {utc(key.expires_ms)}")
    silent = asdict(Limits()) | asdict(Options())
    for name, said in [*asdict(key.limits).items(), *asdict(key.defaults).items()]:
        if said != silent[name]:
            shown = ",".join(said) if isinstance(said, tuple) else said
            parts.append(f"usd_per_day={usd(said)}" if name == "nusd_per_day" else f"{name}={shown}")
    return "  ".join(parts)


def _nusd(text: str) -> int:
    try:
        nusd = Decimal(text) * 10**9
    except InvalidOperation:
        raise argparse.ArgumentTypeError(f"'{text}' is no amount of USD") from None
    if not nusd.is_finite() or nusd < 0 or nusd != int(nusd):
        raise argparse.ArgumentTypeError(f"'{text}' is no amount of USD of at most nine decimals")
    return int(nusd)


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _future(text: str) -> int:
    """`90d` is 90 days from now; a date is that day."""
    now_ms = epoch_ms()
    moment_ms = parse_since(text, now_ms)
    if moment_ms < now_ms and text.strip()[-1] in "smhdw":
        moment_ms = 2 * now_ms - moment_ms
    if moment_ms <= now_ms:
        raise BadRequest(f"'{text}' is in the past: a key expires in the future", param="expires")
    return moment_ms
