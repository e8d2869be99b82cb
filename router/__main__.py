"""The command line of the router: `python -m router COMMAND`; what the commands are stands below."""

from __future__ import annotations

import argparse
import importlib
import sys

from models.errors import FarthingError

COMMANDS = {
    "train": "fit a router to outcomes, and show it beside the baselines",
    "calibrate": "choose the threshold for a share, a quality or a price, on your own sample",
    "use": "list the artifacts, or make one of them current",
    "profile": "what the traffic is about, what it costs, and what of it looks routine",
    "explain": "why one prompt goes where it goes",
    "train-cascade": "when the small model's first tokens say that its answer will do",
    "tune-cache": "thresholds of the semantic cache from labelled pairs",
}


def main(argv: list[str] | None = None) -> int:
    """Errors that are the user's to mend are one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m router", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        module = importlib.import_module(f"router.{name.replace('-', '_')}")
        command = commands.add_parser(name, help=text, description=text)
        module.add_arguments(command)
        command.set_defaults(command=module.run)
    try:
        arguments = parser.parse_args(argv)
        return int(arguments.command(arguments))
    except FarthingError as exc:
        print(f"farthing: {exc.message}", file=sys.stderr)
        return 2
    except OSError as exc:  # a folder that cannot be written, a full disk
        print(f"farthing: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
