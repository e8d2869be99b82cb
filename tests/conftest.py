"""What holds for every test."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # each worker with a thread for each core would wait for the others
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example may take is a matter of the machine: performance is measured in benchmarks/.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

FAULT = "fault injected"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table of injected faults, when their tests were run; from the reports, which come from workers
    too. Here and not beside those tests, because a run's own process, with workers, reads no other conftest."""
    table: dict[str, list[int]] = {}
    reports = [one for found in terminalreporter.stats.values() for one in found]
    for report in reports:
        if getattr(report, "when", None) == "call":
            for fault, leaked in [told for name, told in report.user_properties if name == FAULT]:
                table.setdefault(fault, []).append(leaked)
    if table:
        terminalreporter.section("faults injected")
        terminalreporter.write_line(f"{'fault':58} {'runs':>5} {'leaked rentals':>15}")
        for fault, leaked in sorted(table.items()):
            terminalreporter.write_line(f"{fault:58} {len(leaked):>5} {sum(leaked):>15}")
