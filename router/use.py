"""`python -m router use`: which artifact is current and how far it acts, and the instant way to another: earlier ones,
shadow, a share of conversations."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from models.errors import ConfigError
from router import rollout, tables
from router.artifacts import current_version, point_to
from router.rollout import MODES, Rollout

CONFIGURED = "configured"
WHERE = (
    "so do only services whose configuration has routing.decider 'learned' and this folder as routing.artifacts; "
    "with decider 'rules', the default, nothing here has any effect"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--artifact", type=Path, required=True, metavar="DIR", help="where the artifacts live")
    parser.add_argument("version", nargs="?", help="make this one current; without it, list them")
    parser.add_argument(
        "--mode",
        choices=(*MODES, CONFIGURED),
        help="what running services with routing.decider 'learned' do from now on, whatever their routing.learned "
        "says; 'configured': as that says",
    )
    parser.add_argument("--rollout", type=float, metavar="SHARE", help="with --mode act: of conversations (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    root: Path = arguments.artifact
    if not root.is_dir():
        raise ConfigError(f"{root} is no folder; --artifact is what routing.artifacts names")
    turned = _wanted(arguments)
    if arguments.version is not None:
        point_to(root, arguments.version)
    if arguments.mode is not None:
        rollout.write(root, turned)
    print(tables.text_table(listing(root)))
    print(in_force(root))
    return 0


def _wanted(arguments: argparse.Namespace) -> Rollout | None:
    """Raises ConfigError before anything is changed."""
    if arguments.rollout is not None and arguments.mode != "act":
        raise ConfigError("--rollout is how far it acts: give --mode act with it")
    if arguments.mode in (None, CONFIGURED):
        return None
    return Rollout(arguments.mode, 1.0 if arguments.rollout is None else arguments.rollout)


def in_force(root: Path) -> str:
    """What services that follow this folder do with its router. Which do is in their configurations, unknown here."""
    turned = rollout.read(root)
    if turned is None:
        return f"acts as each service's configuration says (routing.learned)\n{WHERE}"
    does = (
        f"acts on {turned.share:.4g} of conversations" if turned.mode == "act" else "shadow: decides, acts on nothing"
    )
    return f"{does}, whatever routing.learned says; --mode {CONFIGURED} ends that\n{WHERE}"


def listing(root: Path) -> list[list[str]]:
    """Version, creation, threshold and how it was chosen; the current one marked."""
    current = current_version(root)
    rows = [["version", "created", "threshold", "by", ""]]
    for path in sorted(root.glob("*/policy.json"), key=lambda path: path.stat().st_mtime):
        if path.parent.is_symlink():
            continue
        mark = "◄ current" if path.parent.name == current else ""
        rows.append([path.parent.name, *_described(path), mark])
    return rows


def _described(path: Path) -> list[str]:
    """A damaged one must not hide the others: who looks wants to go back to one of them."""
    try:
        policy = json.loads(path.read_text(encoding="utf-8"))
        created = json.loads((path.parent / "manifest.json").read_text(encoding="utf-8"))["created"]
        chosen = policy["chosen"]
        by = " ".join([chosen["by"], *(f"{k}={v}" for k, v in chosen.get("target", {}).items())])
        return [created, f"{policy['threshold']:+.4f}", by]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ["-", "-", "damaged"]
