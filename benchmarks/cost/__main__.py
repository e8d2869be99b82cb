"""What do 1,000 requests cost? One workload through the whole service, one architecture after the other.

    python -m benchmarks.cost --zeroeval FILE [--questions 500] [--repeat-rate 0.2] [--out FOLDER]

docs/cost-benchmark.md says what is compared, what is real and what is replayed. The last line on stdout is one JSON
object.
"""

from __future__ import annotations

import sys

from benchmarks.child import guarded
from benchmarks.cost import command, options


def main(argv: list[str] | None = None) -> int:
    chosen = options.parse(argv)
    return guarded("benchmarks.cost", lambda folder: command.run(chosen, folder))


if __name__ == "__main__":
    sys.exit(main())
