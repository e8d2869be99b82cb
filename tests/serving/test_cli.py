"""`python -m serving`: what the documents promise can be typed, and mistakes are one line and exit code 2."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from models.types import Usage
from serving.__main__ import main
from serving.cache.store import Entry
from serving.cache.store import Store as CacheStore
from serving.config import Config
from serving.ledger import keys
from serving.ledger.row import Row
from serving.ledger.store import Store, epoch_ms

ROOT = Path(__file__).parents[2]
CONFIG = """
state_dir: {state}
tiers: [{{name: small, backends: [{{kind: engine, profile: embedded}}]}}]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(state=tmp_path / "state"))
    return path


def fill(config: Path, *tenants: str) -> None:
    """A row and a cached answer for each tenant."""
    state = config.parent / "state"
    store = Store.open(f"sqlite:///{state / 'ledger.db'}")
    rows = [
        Row(request_id=f"req_{t}", at_ms=epoch_ms(), tenant=t, status="answered", route="small", cost_nusd=1_500_000)
        for t in tenants
    ]
    with store.write() as connection:
        store.put(connection, rows)
    store.close()
    with CacheStore(state / "cache.db", 1 << 20, 3600.0) as cache:
        for t in tenants:
            entry = Entry(t.encode(), t, "small", "m", "chat/completions", b"{}", Usage(), time.time(), 0)
            cache.write([(entry, cache.epoch())])


def run(capsys: pytest.CaptureFixture[str], config: Path, command: str, *more: str) -> tuple[int, str, str]:
    code = main([command, "--config", str(config), *more])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_a_key_is_shown_once_listed_without_its_secret_and_revoked(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, secret, _ = run(capsys, config, "keys", "add", "--tenant", "acme", "--usd-per-day", "5", "--expires", "90d")
    assert code == 0 and secret.startswith("fk-")
    _, listed, _ = run(capsys, config, "keys", "list")
    assert "acme" in listed and "usd_per_day=$5" in listed and secret.strip() not in listed
    key_id = secret.split("-")[1]
    assert run(capsys, config, "keys", "revoke", key_id)[0] == 0
    assert "revoked" in run(capsys, config, "keys", "list")[1]
    assert "keep_text" not in listed
    run(capsys, config, "keys", "add", "--tenant", "b", "--no-texts", "--usd-per-day", "0")
    assert "usd_per_day=$0.000000  keep_text=False" in run(capsys, config, "keys", "list")[1]
    code, _, err = run(capsys, config, "keys", "revoke", key_id)
    assert code != 0 and "no valid key" in err
    for file in (config.parent / "state").rglob("*"):
        assert not file.is_file() or secret.strip().encode() not in file.read_bytes()


def test_costs_and_export_are_of_the_rows(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(config, "a", "b")
    code, text, _ = run(capsys, config, "costs", "--since", "1h")
    assert code == 0 and re.search(r"total\s+2\b.*\$0\.003", text)
    _, text, _ = run(capsys, config, "costs", "--since", "1h", "--json")
    assert json.loads(text)["total"] == json.loads(text)["routes"]["small"] | {"requests": 2}
    _, text, _ = run(capsys, config, "export", "--tenant", "a", "--output", str(config.parent / "rows.jsonl"))
    (row,) = [json.loads(line) for line in (config.parent / "rows.jsonl").read_text().splitlines()]
    assert (row["request_id"], row["cost_nusd"]) == ("req_a", 1_500_000)
    _, text, _ = run(capsys, config, "export", "--tenant", "b", "--texts")
    assert json.loads(text)["messages"] is None


def test_cache_and_forget_delete_what_they_say(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(config, "a", "b", "c")
    assert run(capsys, config, "cache", "show")[1].startswith("exact: 3 answers")
    assert run(capsys, config, "cache", "delete", "--tenant", "a")[1] == "1 answers deleted\n"
    assert "1 rows and 1 cached answers" in run(capsys, config, "forget", "b")[1]
    assert run(capsys, config, "cache", "show")[1].startswith("exact: 1 answers")
    assert run(capsys, config, "cache", "delete", "--all")[1] == "1 answers deleted\n"
    store = Store.open(f"sqlite:///{config.parent / 'state' / 'ledger.db'}")
    assert keys.all_keys(store) == []
    store.close()
    assert len(run(capsys, config, "export")[1].splitlines()) == 2


@pytest.mark.parametrize("in_service", [False, True])
def test_forget_takes_the_keys_before_the_answers_and_waits_until_no_gateway_takes_them(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, in_service: bool
) -> None:
    run(capsys, config, "keys", "add", "--tenant", "a")
    seen: list[object] = []

    def delete(_config: Config, kind: str, name: str) -> int:
        store = Store.open(f"sqlite:///{config.parent / 'state' / 'ledger.db'}")
        seen.append((kind, name, keys.all_keys(store)))
        store.close()
        return 0

    monkeypatch.setattr("serving.cache.cli.delete", delete)
    monkeypatch.setattr("serving.cache.cli.running", lambda _config: "http://here" if in_service else None)
    monkeypatch.setattr(time, "sleep", seen.append)
    assert run(capsys, config, "forget", "a")[0] == 0
    assert seen == [*([2.0] if in_service else []), ("tenant", "a", [])]


def test_the_ledger_can_be_cared_for_from_the_command_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(config, "a", "b")
    assert run(capsys, config, "ledger", "migrate")[0] == 0
    assert run(capsys, config, "ledger", "retain", "1")[1].startswith("0 requests")
    assert run(capsys, config, "ledger", "delete-tenant", "a")[1].startswith("1 requests")


@pytest.mark.parametrize(
    ("command", "more", "says"),
    [
        ("costs", ["--since", "yesterday-ish"], "write 1h"),
        ("keys", ["add", "--tenant", ""], "tenant"),
        ("keys", ["add", "--tenant", "a", "--requests-per-minute", "0"], "at least 1"),
        ("keys", ["add", "--tenant", "a", "--expires", "2001-01-01"], "in the past"),
        ("keys", ["add", "--tenant", "a", "--deadline-ms", "-5"], "deadline_ms"),
        ("keys", ["revoke", "nobody"], "no valid key"),
        ("cache", ["delete"], "--namespace NAME or --all"),
        ("ledger", ["retain", "0"], "at least 1"),
        ("export", ["--output", "/nowhere/x.jsonl"], "cannot write"),
        ("label", ["/nowhere/x.jsonl", "--out", "o", "--max-usd", "1"], "cannot read"),
        ("run", ["--port", "99999999"], "port"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    config: Path, capsys: pytest.CaptureFixture[str], command: str, more: list[str], says: str
) -> None:
    code, out, err = run(capsys, config, command, *more)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err and "Traceback" not in err


@pytest.mark.parametrize("text", ["tiers: []", "tears: 5", ":", "[", "tiers: [{name: a, backends: [{kind: x}]}]"])
def test_a_bad_config_is_one_line_too(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    code, _, err = run(capsys, path, "costs")
    assert code == 2 and err.startswith("farthing: ") and str(path) in err and err.count("\n") == 1
    assert run(capsys, tmp_path / "none.yaml", "costs")[0] == 2


def test_every_command_the_documents_name_exists(capsys: pytest.CaptureFixture[str]) -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "Makefile"]
    named = {m for d in documents for m in re.findall(r"python -m serving ([a-z]+(?: [a-z][a-z-]*)?)", d.read_text())}
    assert len(named) >= 5
    for words in named:
        with pytest.raises(SystemExit) as caught:
            main([*words.split(), "--help"])
        assert caught.value.code == 0, words
    capsys.readouterr()


@pytest.mark.parametrize("words", [["keys", "list"], ["ledger", "migrate"], ["ledger", "retain", "3"]])
def test_the_configuration_may_be_named_before_the_verb_or_after_it(
    config: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main([*words, "--config", str(config)]) == 0
    assert main([words[0], "--config", str(config), *words[1:]]) == 0
    assert (config.parent / "state" / "ledger.db").exists()
