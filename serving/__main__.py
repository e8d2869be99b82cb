"""The service: `python -m serving run | node | keys | costs | explain | export | label | ledger | cache | forget`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from models.errors import ConfigError, FarthingError
from serving import node as node_module
from serving.config import Config, load, parsed
from serving.label.arguments import add_arguments as label_arguments

DEFAULT_CONFIG = Path("configs/default.yaml")
MAX_PORT = 65535
NODE = "Run this machine as a node of a Ray cluster, in the foreground, until Ctrl-C (docs/cluster.md, topology 3)."


def main(argv: list[str] | None = None) -> int:
    """Errors that are the user's to mend are one line on stderr and exit code 2."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except FarthingError as exc:
        print(f"farthing: {exc.message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=text, description=text)
        found.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help=f"default: {DEFAULT_CONFIG}")
        return found

    run = command("run", "serve in the foreground until Ctrl-C or SIGTERM")
    run.add_argument("--port", type=int, help="instead of listen.port")
    run.add_argument("--ray-address", metavar="ADDRESS", help="instead of ray.address: the cluster to run on")
    run.set_defaults(command=_run)
    node = commands.add_parser("node", help="make this machine a node of a Ray cluster", description=NODE)
    node_module.add_arguments(node)
    node.set_defaults(command=node_module.become_node)
    _mount(command("keys", "add, list and revoke API keys"), "serving.ledger.keys_cli")
    _mount(command("costs", "what requests cost, by route, and beside the alternatives"), "serving.ledger.costs")
    _mount(command("explain", "why a past request went where it went"), "serving.ledger.explain")
    _mount(command("export", "logged traffic as JSONL"), "serving.ledger.export")
    _mount(command("ledger", "care for the database: migrate, retain, delete-tenant"), "serving.ledger.maintain")
    label = command("label", "a sample of prompts through two tiers, scored: outcome rows for the router")
    label_arguments(label)
    label.set_defaults(command=_label)
    cache = command("cache", "stored answers, exact and semantic: sizes, and deletion")
    cache.add_argument("action", choices=["show", "delete"])
    which = cache.add_mutually_exclusive_group()
    which.add_argument("--entry", help="with delete: one answer, by its x-farthing-cache-entry")
    which.add_argument("--tenant", help="with delete: this tenant's answers only")
    which.add_argument("--namespace", help="with delete: what is in this shared namespace")
    which.add_argument("--all", action="store_true", help="with delete: every answer")
    cache.set_defaults(command=_cache)
    forget = command("forget", "delete a tenant: its keys, its rows, its cached answers")
    forget.add_argument("tenant")
    forget.set_defaults(command=_forget)
    return parser


def _mount(parser: argparse.ArgumentParser, module_name: str) -> None:
    """The ledger's own commands define their arguments beside their code."""
    import importlib

    module = importlib.import_module(module_name)
    module.add_arguments(parser)

    def command(arguments: argparse.Namespace) -> int:
        from serving.ledger.store import Store

        store = Store.open(load(arguments.config).ledger_url)
        try:
            return int(module.run(arguments, store))
        finally:
            store.close()

    parser.set_defaults(command=command)


def _label(arguments: argparse.Namespace) -> int:
    from serving.label.cli import run

    if arguments.url is None:
        listen = load(arguments.config).listen
        arguments.url = f"http://{f'[{listen.host}]' if ':' in listen.host else listen.host}:{listen.port}"
    return run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    from serving.backends import check_prices
    from serving.run import run, say

    config = load(arguments.config)
    if arguments.port is not None:
        config = _with_port(config, arguments.port)
    if arguments.ray_address is not None:
        cluster = {**config.ray.model_dump(), "address": arguments.ray_address}
        config = parsed({**config.model_dump(), "ray": cluster}, source="--ray-address")
    check_prices(config)
    return run(config, say)


def _with_port(config: Config, port: int) -> Config:
    if not 1 <= port <= MAX_PORT:
        raise ConfigError(f"--port {port}: ports are 1 to {MAX_PORT}")
    listen = {**config.listen.model_dump(), "port": port}
    return parsed({**config.model_dump(), "listen": listen}, source="--port")


def _cache(arguments: argparse.Namespace) -> int:
    from serving.cache.cli import delete, show

    config = load(arguments.config)
    if arguments.action == "show":
        for line in show(config):
            print(line)
        return 0
    asked = [(kind, getattr(arguments, kind)) for kind in ("entry", "tenant", "namespace", "all")]
    said = [(kind, "true" if value is True else value) for kind, value in asked if value]
    if not said:
        print("farthing: say what to delete: --entry ID, --tenant NAME, --namespace NAME or --all", file=sys.stderr)
        return 2
    print(f"{delete(config, *said[0])} answers deleted")
    return 0


def _forget(arguments: argparse.Namespace) -> int:
    from serving.cache.cli import delete, running
    from serving.ledger.store import KEYS_LINGER_MS, Store

    config = load(arguments.config)
    in_service = running(config) is not None
    ledger = Store.open(config.ledger_url)
    try:
        rows = ledger.delete_tenant(arguments.tenant)
    finally:
        ledger.close()
    if in_service:  # what is still answered by its keys would be stored after its answers were deleted
        time.sleep(KEYS_LINGER_MS / 1000)
    answers = delete(config, "tenant", arguments.tenant)
    print(f"tenant {arguments.tenant}: {rows} rows and {answers} cached answers deleted, its keys too")
    return 0


if __name__ == "__main__":
    sys.exit(main())
