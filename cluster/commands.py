"""What each command prints. The work is in `operate`, `plan`, `cost`; here are words, tables and JSON."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import getpass
import json
import os
import shlex
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster import config as configs
from cluster import cost as costs
from cluster import operate
from cluster.alarms import Webhook
from cluster.boot import TLS_PORT
from cluster.deck import Deck
from cluster.errors import ClusterError, ProviderError
from cluster.exposition import Exposition
from cluster.members import FILE
from cluster.offers import query, rank, why_none
from cluster.outside import CLOSED, LISTED, door_faults, open_ports
from cluster.plan import make_plan
from cluster.served import answered_by_day
from cluster.state import Rental, watched
from cluster.vast_types import Instance
from models.errors import FarthingError

SYSTEMD = """\
[Unit]
Description=Farthing: keeps the boxes of {file} as the file says
Wants=network-online.target
After=network-online.target

[Service]
# not root: what it writes must be readable for the gateway, and for the other commands
User={user}
WorkingDirectory={root}
EnvironmentFile=-{root}/.farthing/cluster.env
ExecStart={python} -m cluster watch {quoted} --metrics-port 9105
Restart=always
RestartSec=10
# the account key and the boxes' keys are this user's alone
UMask=0077
NoNewPrivileges=yes
ProtectSystem=full
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
"""


def fail(error: FarthingError, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": {"code": error.code, "message": error.message}}))
    said = f"error: {error.message}"
    print(json.dumps({"at": _clock(), "say": said}) if as_json else said, file=sys.stderr)
    return 2


def offers(args: argparse.Namespace) -> int:
    deck = _deck(args)
    found = deck.client.search(query(deck.config, deck.profile))
    ranked = rank(found, deck.config, deck.profile)[: args.limit]
    if args.json:
        seen_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        print(json.dumps([{**c.to_json(), "seen_at": seen_at} for c in ranked], indent=2))
    elif not ranked:
        print(why_none(deck.config, found))
    else:
        _offer_table([c.to_json() for c in ranked])
        basis = {c.speed.basis for c in ranked if c.speed}
        print(f"\n$/1k requests of {_shape(deck.config.workload)}; speeds: {'; '.join(sorted(basis)) or 'not known'}")
    return 0 if ranked else 1


def plan(args: argparse.Namespace) -> int:
    deck = _deck(args)
    made = make_plan(deck)
    document = made.to_json()
    if args.json:
        print(json.dumps(document, indent=2))
        return 1 if made.missing else 0
    print(f"cluster '{deck.config.name}': {deck.config.boxes} x {deck.config.profile}")
    if document["would_rent"]:
        print("would rent (offers go fast; `up` asks again):")
        _offer_table(document["would_rent"])
    for box in made.standing:
        print(f"  slot {box['slot']} stands: {box['gpu']} {box['phase']} ${box['usd_per_hour']:.3f}/h")
    print(
        f"${document['usd_per_hour']:.3f}/h, ${document['usd_per_day']:.2f}/day; at most "
        f"${document['usd_per_day_at_most']:.2f}/day. Credit ${document['credit_usd']:.2f}"
        + (f", lasts {document['credit_lasts_h']} h" if document["credit_lasts_h"] else "")
    )
    print(
        "here: gateway, router, ledger, frontier and provider keys. "
        "On each box: TLS door, vLLM, weights; none of your keys"
    )
    for note in made.notes:
        print(f"note: {note}")
    for gap in made.missing:
        print(f"missing: {gap}")
    return 1 if made.missing else 0


def up(args: argparse.Namespace) -> int:
    deck = _deck(args)
    began_s = time.monotonic()
    operate.up(deck)
    members = deck.config.folder / FILE
    serving = [_box(r, None) for r in deck.store.state.live]
    if args.json:
        print(json.dumps({"ready_s": round(time.monotonic() - began_s, 1), "members": str(members), "boxes": serving}))
        return 0
    for rental in deck.store.state.live:
        address = deck.address(rental)
        print(f"slot {rental.slot}: {address.url}/v1  {rental.gpu}, {rental.tokens_per_s or 0:.0f} tokens/s")
    first = next(iter(deck.store.state.live))
    vault, address = deck.vault, deck.address(first)
    body = json.dumps({"model": deck.model(first), "messages": [{"role": "user", "content": "What is a farthing?"}]})
    print(f"members file for the gateway: {members}")
    print(
        f"try:  curl -s --cacert {vault.ca_file} {address.url}/v1/chat/completions -H 'content-type: application/json' "
        f'-H "Authorization: Bearer $(cat {vault.key_file(first.label)})" -d {shlex.quote(body)}'
    )
    print(
        f"next: python -m cluster watch {args.file}   (nobody holds the budget, and boxes end themselves after "
        f"{deck.config.timing.dead_man_hours:g} h, without it)"
    )
    return 0


def status(args: argparse.Namespace) -> int:
    deck = _deck(args)
    listed = {i.contract_id: i for i in deck.client.instances() if i.label.startswith(deck.config.label_prefix)}
    live = deck.store.state.live
    boxes = [_box(r, listed.pop(r.contract_id or 0, None)) for r in live]
    strays = [{"contract_id": i.contract_id, "label": i.label, "usd_per_hour": i.usd_per_hour} for i in listed.values()]
    rises: dict[int | None, float] = {}
    with contextlib.suppress(ProviderError):  # of the calls here the one that can be done without
        rises = {p.contract_id: p.usd_per_hour for p in deck.client.price_increases()}
    for box in boxes:
        box["host_asks_usd_per_hour"] = rises.get(box["contract_id"])
    spent = deck.store.state.spent_today_usd(deck.now_s())
    document = {
        "cluster": deck.config.name,
        "serving": sum(r.serves for r in live),
        "wanted": 0 if deck.store.state.closed else deck.config.boxes,
        "boxes": boxes,
        "strays": strays,
        "spent_today_usd": round(spent, 4),
        "budget_usd_per_day": deck.config.budget_usd_per_day,
        "clock_off_s": round(-deck.client.skew_s, 1),
        "watched": watched(deck.config.folder),
    }
    if args.json:
        print(json.dumps(document, indent=2))
    else:
        print(
            f"{document['serving']} of {document['wanted']} serve; "
            f"${spent:.2f} of ${deck.config.budget_usd_per_day} today"
        )
        for box in boxes:
            print("  " + "  ".join(f"{k}={v}" for k, v in box.items() if v not in (None, "")))
        for stray in strays:
            print(f"  no slot's: contract {stray['contract_id']} {stray['label']}; down destroys it")
        if live and not document["watched"]:
            print(f"  no watch runs here: nobody holds the budget. python -m cluster watch {args.file}")
    return 0 if document["serving"] == document["wanted"] and not strays else 1


def logs(args: argparse.Namespace) -> int:
    deck = _deck(args)
    text = deck.client.logs(_contract(deck, args.slot), tail=args.tail)
    print(json.dumps({"slot": args.slot, "log": text}) if args.json else text)
    return 0


def ssh(args: argparse.Namespace) -> int:
    deck = _deck(args)
    if not deck.config.ssh:
        raise ClusterError(
            "boxes of this cluster have no SSH: set ssh: true and rent them anew (it opens a second port)"
        )
    instance = deck.client.instance(_contract(deck, args.slot))
    if instance is None or not instance.ssh_host:
        raise ClusterError(f"slot {args.slot} has no SSH address yet")
    direct = instance.ports.get("22/tcp")
    host, port = (instance.host, direct) if direct else (instance.ssh_host, instance.ssh_port)
    command = ["ssh", "-p", str(port), f"root@{host}"]
    if args.exec:
        os.execvp(command[0], command)
    print(json.dumps({"slot": args.slot, "command": command}) if args.json else shlex.join(command))
    return 0


def ports(args: argparse.Namespace) -> int:
    deck = _deck(args)
    if args.scan is not None and not 1 <= args.scan[0] <= args.scan[1] <= 65535:
        raise ClusterError("--scan: two ports from 1 to 65535, the lower first")
    boxes = [r for r in deck.store.state.live if r.contract_id and r.port]
    if not boxes:
        raise ClusterError("no box of this cluster has an address to look at")
    seen = [_seen_from_outside(deck, rental, args.scan) for rental in boxes]
    if args.json:
        print(json.dumps({"boxes": seen}, indent=2))
    else:
        for box in seen:
            tried = "" if box["open"] is None else f"; open of {args.scan[0]}-{args.scan[1]}: {box['open'] or 'none'}"
            print(f"slot {box['slot']} {box['address']}: published {', '.join(box['published'])}{tried}")
            well = f"{len(LISTED)} paths ask for the key, {len(CLOSED)} do not exist, no plain HTTP, no TLS 1.2"
            print("  " + ("; ".join(box["faults"]) or well))
    return 1 if any(box["faults"] for box in seen) else 0


def _seen_from_outside(deck: Deck, rental: Rental, scan: list[int] | None) -> dict[str, Any]:
    """What the provider publishes, what is open, and what is wrong with either or with the door."""
    instance = deck.client.instance(rental.contract_id or 0)
    published = dict(instance.ports) if instance else {}
    wanted = {f"{TLS_PORT}/tcp", *(["22/tcp"] if deck.config.ssh else [])}
    faults = [f"the provider publishes {name}" for name in sorted(published.keys() - wanted)]
    faults += door_faults(deck.address(rental), deck.vault.ca_file, deck.vault.key(rental.label))
    found = None if scan is None else open_ports(rental.host, range(scan[0], scan[1] + 1))
    faults += [f"port {port} is open" for port in found or () if port not in published.values()]
    return {
        "slot": rental.slot,
        "address": f"{rental.host}:{rental.port}",
        "published": sorted(published),
        "open": found,
        "faults": faults,
    }


def cost(args: argparse.Namespace) -> int:
    deck = _deck(args)
    answered = None
    if args.service is not None:
        answered = answered_by_day(args.service, deck.config.folder / FILE, costs.first_day(deck, args.days))
    document = costs.report(deck, args.days, answered)
    if args.json:
        print(json.dumps(document, indent=2))
        return 0
    print(
        f"${document['usd_per_hour_now']:.3f}/h now; {args.days} days: counted ${document['accrued_usd']:.3f}, ", end=""
    )
    print(
        f"charged ${document['charged_usd']:.3f} (charges lag by hours), difference ${document['difference_usd']:.3f}"
    )
    by_day = document.get("by_day", {})
    for day, usd in document["spent_usd_by_day"].items():
        print(f"  {day}  ${usd:.3f} of ${document['budget_usd_per_day']}{_served(by_day.get(day))}")
    if by_day:
        charged = document["charged_usd_per_1k_requests"]
        print(f"  all days{_served(document)}" + (f"; by the provider's charges ${charged:.4f}" if charged else ""))
    for row in document["boxes"]:
        print("  " + "  ".join(f"{k}={v}" for k, v in row.items() if v not in (None, {})))
    for row in document["charged_but_unknown_here"]:
        print(f"  charged, not in the state file: contract {row['contract_id']} ${row['charged_usd']:.3f}")
    return 0


def _served(counted: dict[str, Any] | None) -> str:
    if counted is None:
        return ""
    rate = counted["usd_per_1k_requests"]
    return f"  {counted['requests']:,} requests" + ("" if rate is None else f", ${rate:.4f} per 1k")


def restart(args: argparse.Namespace) -> int:
    deck = _deck(args)
    operate.restart(deck, args.slot)
    return _serving(args, deck)


def upgrade(args: argparse.Namespace) -> int:
    deck = _deck(args)
    operate.upgrade(deck)
    return _serving(args, deck)


def _serving(args: argparse.Namespace, deck: Deck) -> int:
    boxes = [_box(rental, None) for rental in deck.store.state.live]
    print(json.dumps({"boxes": boxes}) if args.json else f"{len(boxes)} serve")
    return 0


def watch(args: argparse.Namespace) -> int:
    if args.systemd:
        print(_unit(args.file.resolve(), Path.cwd()), end="")
        return 0
    deck = _deck(args)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    alarms = deck.config.alarms
    exposition = None if args.metrics_port is None else Exposition(args.metrics_port)
    webhook = None if alarms.url is None else Webhook(alarms.url, alarms.timeout_s, deck.tell)
    try:
        operate.Watcher(deck if webhook is None else replace(deck, alarm=webhook), stop, exposition).run()
    finally:
        for part in (exposition, webhook):
            if part is not None:
                part.close()
    return 0


def _unit(file: Path, root: Path) -> str:
    def quoted(path: str) -> str:
        """As one word of a command line: systemd reads quotes, backslashes, dollars and per cents in it."""
        text = path.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$").replace("%", "%%")
        return f'"{text}"'

    shown = {name: str(path).replace("%", "%%") for name, path in (("file", file), ("root", root))}
    python, user = quoted(sys.executable), getpass.getuser()
    return SYSTEMD.format(**shown, quoted=quoted(str(file)), python=python, user=user)


def down(args: argparse.Namespace) -> int:
    deck = _deck(args)
    ended = operate.down(deck)
    others = sorted({i.label for i in deck.client.instances() if i.label.startswith("farthing:")})
    if args.json:
        print(json.dumps({"ended": ended, "billing": [], "other_clusters": others}))
    else:
        print(f"nothing bills: {len(ended)} contracts ended, none of '{deck.config.name}' is listed")
        for label in others:
            print(f"another cluster's instance stands: {label}")
    return 0


def _deck(args: argparse.Namespace) -> Deck:
    return operate.open_deck(configs.load(args.file), _tell(args))


def _tell(args: argparse.Namespace) -> Any:
    def tell(text: str) -> None:
        line = json.dumps({"at": _clock(), "say": text}) if args.json else f"{_clock()} {text}"
        print(line, file=sys.stderr, flush=True)

    return tell


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def _contract(deck: Deck, slot: int) -> int:
    rental = next((r for r in deck.store.state.live if r.slot == slot and r.contract_id), None)
    if rental is None or rental.contract_id is None:
        raise ClusterError(f"slot {slot} has no box")
    return rental.contract_id


def _box(rental: Rental, instance: Instance | None) -> dict[str, Any]:
    return {
        "slot": rental.slot,
        "phase": rental.phase,
        "gpu": rental.gpu,
        "profile": rental.profile,
        "contract_id": rental.contract_id,
        "address": f"{rental.host}:{rental.port}" if rental.port else None,
        "usd_per_hour": round(rental.billed_usd_per_hour, 4),
        "tokens_per_s": rental.tokens_per_s and round(rental.tokens_per_s, 1),
        "progress": rental.progress,
        "provider_status": instance.status if instance else None,
        "gpu_util": instance.gpu_util if instance else None,
        "unhealthy": rental.unhealthy_since_s is not None,
        "reason": rental.reason,
    }


def _shape(workload: configs.Workload) -> str:
    load = f"at {workload.requests_per_s:g}/s a box" if workload.requests_per_s else "at full load"
    return f"{workload.input_tokens} in, {workload.output_tokens} out, {load}"


def _offer_table(rows: list[dict[str, Any]]) -> None:
    print(f"  {'offer':>10}  {'GPU':14} {'$/h':>7} {'$/1k req':>9} {'req/s':>7} {'KV req':>6} {'Mbit/s':>7}  place")
    for row in rows:
        usd, rate = row["usd_per_1k_requests"], row["requests_per_s"]
        expected = f"{'?' if usd is None else f'{usd:.4f}':>9} {'?' if rate is None else f'{rate:.2f}':>7}"
        print(
            f"  {row['offer_id']:>10}  {row['gpu']:14} {row['usd_per_hour']:>7.3f} {expected} "
            f"{row['concurrent_requests']:>6} {row['down_mbps']:>7.0f}  {row['place']}"
        )
