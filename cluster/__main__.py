"""`python -m cluster COMMAND FILE`: rented boxes, from offers to down. Progress on stderr, results on stdout.

Exit codes: 0 done; 1 the command found something wrong (a plan with gaps, a box that does not serve); 2 it could not be
done, with the reason; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from cluster import commands
from cluster.errors import ClusterError
from models.errors import FarthingError


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        status = int(args.run(args))
        sys.stdout.flush()
        return status
    except FarthingError as error:
        return commands.fail(error, as_json=args.json)
    except BrokenPipeError:  # `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return commands.fail(ClusterError(f"this machine: {error}"), as_json=args.json)
    except KeyboardInterrupt:
        print(
            "\ninterrupted. Boxes that were rented go on billing: python -m cluster down FILE ends them",
            file=sys.stderr,
        )
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cluster", description=__doc__)
    sub = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("file", type=Path, help="the cluster file (docs/cluster.md)")
    common.add_argument("--json", action="store_true", help="one JSON document on stdout")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = sub.add_parser(name, help=text, parents=[common])
        made.set_defaults(run=getattr(commands, name))
        return made

    offers = command("offers", "what could be rented, cheapest for a thousand requests first")
    offers.add_argument("--limit", type=_from_one, default=15)
    command("plan", "what `up` would rent and cost, and what is missing; rents nothing")
    command("up", "rent, boot, load, measure until all boxes serve; run it again after any failure")
    command("status", "boxes, their state, what they cost")
    logs = command("logs", "what a box printed")
    logs.add_argument("--slot", type=int, default=0)
    logs.add_argument("--tail", type=_from_one, default=200)
    ssh = command("ssh", "how to log in to a box rented with ssh: true")
    ssh.add_argument("--slot", type=int, default=0)
    ssh.add_argument("--exec", action="store_true", help="log in instead of printing how")
    ports = command("ports", "what strangers can reach of each box; exit code 1 if it is more than its TLS port")
    ports.add_argument("--scan", type=int, nargs=2, metavar=("FROM", "TO"), help="also knock on these TCP ports")
    cost = command("cost", "accrued, by day, for 1k requests, and held against the provider's charges")
    cost.add_argument("--days", type=_from_one, default=30, help="UTC days, today included (default: 30)")
    cost.add_argument("--service", type=Path, metavar="CONFIG", help="the service whose ledger counts the requests")
    restart = command("restart", "restart a box's container where it is")
    restart.add_argument("--slot", type=int, default=0)
    command("upgrade", "replace all boxes, one after the other, with the image the file names now")
    watch = command("watch", "keep the boxes as the file says, until stopped; runs as a service")
    watch.add_argument("--metrics-port", type=_port, help="show the cluster's metrics at 127.0.0.1:PORT/metrics")
    watch.add_argument("--systemd", action="store_true", help="print a unit file for it instead")
    command("down", "end all boxes and verify that nothing bills")
    return parser


def _from_one(text: str) -> int:
    """Ten thousand is more lines, offers or days than there are."""
    if not 1 <= int(text) <= 10_000:
        raise ValueError
    return int(text)


def _port(text: str) -> int:
    if not 0 <= int(text) <= 65_535:
        raise ValueError
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
