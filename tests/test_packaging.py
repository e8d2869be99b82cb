"""What is installed, what is locked, and what the documents promise."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("models", "router", "serving", "benchmarks", "cluster")
REQUIREMENTS = ROOT / "requirements"


def pins(lock: str) -> dict[str, str]:
    found = re.findall(r"^([a-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", (REQUIREMENTS / lock).read_text(), re.MULTILINE)
    return dict(found)


def wanted(source: str) -> set[str]:
    names = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?[=<>]", (REQUIREMENTS / source).read_text(), re.MULTILINE)
    return {name.lower() for name in names}


def test_no_dependency_claims_our_names() -> None:
    assert not set(OURS) & set(packages_distributions())


def test_nothing_below_tests_is_a_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize(("source", "lock"), [("cpu.in", "cpu.txt"), ("gpu.in", "gpu.txt"), ("dev.in", "dev.txt")])
def test_everything_wanted_is_locked_with_hashes(source: str, lock: str) -> None:
    names = wanted(source) | (wanted("serve.in") if source != "dev.in" else set())
    apart = {"torch"} if source == "cpu.in" else set()  # installed before, from PyTorch's CPU index
    assert names - apart <= set(pins(lock))
    text = (REQUIREMENTS / lock).read_text()
    assert text.count("--hash=sha256:") >= len(pins(lock))


def test_tests_run_with_what_is_served() -> None:
    dev = pins("dev.txt")
    for lock in ("cpu.txt", "gpu.txt"):
        other = pins(lock)
        assert {n: v for n, v in dev.items() if n in other and other[n] != v} == {}


def test_locks_name_no_registry() -> None:
    for lock in REQUIREMENTS.glob("*.txt"):
        assert "://" not in lock.read_text(), lock.name


def test_make_targets_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), re.MULTILINE))
        assert named and named <= targets, document.name


def test_help_lists_every_target() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert {t for t in phony[1].split() if f"make {t} " not in shown} == set()


@pytest.mark.parametrize("document", sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]), ids=lambda p: p.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target
