"""What holds for every test."""

from __future__ import annotations

import os

from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # each worker with a thread for each core would wait for the others
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example may take is a matter of the machine: performance is measured in benchmarks/.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
