"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# How long an example may take is a matter of the machine: performance is measured in benchmarks/.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
