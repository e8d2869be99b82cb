"""Stored answers from the command line while no service runs: both files, by each way of saying what."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from models.errors import ConfigError
from models.types import Usage
from router.cache.entries import Entry, Scope, id_of, public
from router.cache.entry_store import Batch, EntryStore
from serving.__main__ import main
from serving.cache import cli
from serving.cache.store import Entry as ExactEntry
from serving.cache.store import Store
from serving.config import Config, parse

DIM = 4


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A state folder with an answer of each of two tenants in both caches."""
    found = parse(f"state_dir: {tmp_path}\ntiers: [{{name: small, backends: [{{kind: engine, profile: embedded}}]}}]")
    now_s = time.time()
    with Store(tmp_path / "cache.db", 1 << 20, 3600.0) as store:
        exact = [
            ExactEntry(bytes([n]) * 32, tenant, "small", "m", "chat/completions", b"{}", Usage(), now_s, 5)
            for n, tenant in enumerate(("a", "b"))
        ]
        store.write([(entry, store.epoch()) for entry in exact], set())
    semantic = EntryStore(tmp_path / "semantic.db", "encoder", DIM)
    puts = {}
    for tenant, namespace in (("a", ""), ("b", "faq")):
        scope = Scope(tenant, b"p", namespace)
        entry = Entry(id_of(tenant), scope, "auto", "small", "m", "why?", b"{}", Usage(), 5, now_s, 3600.0)
        puts[entry.id] = (entry, np.ones(DIM, np.float16))
    semantic.write(Batch(puts=puts))
    semantic.close()
    return found


def left(config: Config) -> list[str]:
    return [line.split(",")[0] for line in cli.show(config)]


@pytest.mark.parametrize(
    ("kind", "name", "deleted", "after"),
    [
        ("tenant", "a", 2, ["exact: 1 answers", "semantic: 1 answers"]),
        ("namespace", "faq", 1, ["exact: 2 answers", "semantic: 1 answers"]),
        ("all", "true", 4, ["exact: 0 answers", "semantic: 0 answers"]),
        ("entry", public(id_of("a")), 1, ["exact: 2 answers", "semantic: 1 answers"]),
        ("entry", (bytes([1]) * 32).hex(), 1, ["exact: 1 answers", "semantic: 2 answers"]),
        ("tenant", "nobody", 0, ["exact: 2 answers", "semantic: 2 answers"]),
    ],
)
def test_what_is_named_is_deleted_and_no_more(
    config: Config, kind: str, name: str, deleted: int, after: list[str]
) -> None:
    assert cli.delete(config, kind, name) == deleted
    assert left(config) == after


def test_what_is_no_entry_is_said(config: Config) -> None:
    with pytest.raises(ConfigError, match="x-farthing-cache-entry"):
        cli.delete(config, "entry", "nonsense")


def test_the_command_line_wants_to_know_what(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"state_dir: {tmp_path}\ntiers: [{{name: small, backends: [{{kind: engine, profile: embedded}}]}}]")
    assert main(["cache", "delete", "--config", str(file)]) == 2
    assert "--namespace" in capsys.readouterr().err
    assert main(["cache", "delete", "--tenant", "b", "--config", str(file)]) == 0
    assert capsys.readouterr().out == "2 answers deleted\n"
    assert main(["forget", "a", "--config", str(file)]) == 0
    assert "2 cached answers" in capsys.readouterr().out
