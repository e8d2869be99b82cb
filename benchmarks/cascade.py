"""Does a small model's confidence in its own words route better than the prompt alone?

    python -m benchmarks.cascade generate --model DIR --name NAME --style chat|shots --out FILE
    python -m benchmarks.cascade evaluate --small FILE [--strong FILE] [--ratio 20 100] [--png FILE]
    python -m benchmarks.cascade workload --out FOLDER

`generate` answers the tasks of `cascade_tasks.py` greedily, with every token's probabilities; it goes on where it
stopped. `evaluate` reads such files, gzip or plain; without `--strong` a model that is always right stands in for it.
`workload` makes requests of the tasks, for a live run of `benchmarks.cost`, and the answers of such a model.
Figures are out of fold, intervals by a bootstrap over prompts, paired. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks import cascade_evaluate, cascade_generate, cascade_workload
from models.errors import FarthingError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cascade", description=(__doc__ or "").split("\n")[0])
    steps = parser.add_subparsers(required=True, metavar="STEP")
    modules = {"generate": cascade_generate, "evaluate": cascade_evaluate, "workload": cascade_workload}
    for name, module in modules.items():
        step = steps.add_parser(name, help=(module.__doc__ or "").split("\n")[0])
        module.add_arguments(step)
        step.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except FarthingError as exc:
        print(f"farthing: {exc.message}", file=sys.stderr)
        return 2
    except OSError as exc:  # a picture's folder that is not there, a full disk
        print(f"farthing: {exc}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
