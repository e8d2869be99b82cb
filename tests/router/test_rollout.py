"""How far a running router acts: told by a file beside the artifacts, in force within a second, a damaged one never."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from models.errors import ConfigError
from router import rollout
from router.__main__ import main
from router.decision import Facts
from router.deployed import Deployed
from router.hot import HotArtifact
from router.learned import LearnedDecider, Settings
from router.policy import RuleDecider
from router.rollout import Rollout
from tests.router.test_learned import ENCODER, FRONTIER, SMALL, Clock, facts, vector


@pytest.fixture
def root(tmp_path: Path, deployed: Deployed) -> Path:
    deployed.write(tmp_path)
    return tmp_path


def use(root: Path, *arguments: str) -> int:
    return main(["use", "--artifact", str(root), *arguments])


def test_a_running_router_is_turned_on_by_degrees_and_off_again(root: Path) -> None:
    clock, tiers = Clock(), [SMALL, FRONTIER]
    hot = HotArtifact(root, ENCODER, clock)
    made = LearnedDecider(tiers, hot, RuleDecider(tiers), Settings(Rollout("shadow")))
    asked: list[Facts] = [facts(f"question {i}", tenant=f"t{i}") for i in range(200)]

    def acted_on() -> int:
        clock.now_s += 1.0
        return sum(not made.decide_with(one, vector(3)).shadow for one in asked)

    configured = made.version
    assert acted_on() == 0
    assert use(root, "--mode", "act", "--rollout", "0.3") == 0
    some = acted_on()
    assert 30 < some < 90 and made.version != configured
    assert use(root, "--mode", "act") == 0
    assert acted_on() == 200
    assert use(root, "--mode", "shadow") == 0
    assert acted_on() == 0
    assert use(root, "--mode", "configured") == 0
    assert acted_on() == 0 and made.version == configured


def test_a_damaged_file_leaves_what_was_in_force(root: Path) -> None:
    clock = Clock()
    turned = HotArtifact(root, ENCODER, clock).rollout(Rollout("shadow"))
    rollout.write(root, Rollout("act", 0.5))
    clock.now_s += 1.0
    assert turned.get() == Rollout("act", 0.5)
    for damaged in (
        "",
        "[1]",
        '{"mode": "on"}',
        '{"mode": "act", "share": 7}',
        '{"mode": "act", "share": "all"}',
        '{"mode": "act", "share": 1' + "0" * 400 + "}",
        "null",
    ):
        (root / "rollout.json").write_text(damaged)
        clock.now_s += 1.0
        assert turned.get() == Rollout("act", 0.5) and "rollout.json" in turned.error
        with pytest.raises(ConfigError, match="set it anew"):
            HotArtifact(root, ENCODER).rollout(Rollout("shadow"))  # at start there is nothing to keep
    rollout.write(root, None)
    clock.now_s += 1.0
    assert turned.get() == Rollout("shadow") and turned.error == ""


def test_a_folder_that_is_taken_away_leaves_what_was_in_force(root: Path, tmp_path: Path) -> None:
    clock = Clock()
    hot = HotArtifact(root, ENCODER, clock)
    rollout.write(root, Rollout("shadow"))
    turned, version = hot.rollout(Rollout("act")), hot.get().manifest.version
    away = tmp_path.with_name("away")
    root.rename(away)
    for _ in range(2):
        clock.now_s += 1.0
        assert turned.get() == Rollout("shadow") and "cannot be read" in turned.error  # not what is configured
        assert hot.get().manifest.version == version and "cannot be read" in hot.error  # nor the prior
    away.rename(root)
    clock.now_s += 1.0
    assert turned.get() == Rollout("shadow") and turned.error == ""
    rollout.write(root, None)
    clock.now_s += 1.0
    assert turned.get() == Rollout("act")


def test_a_file_that_could_not_be_read_once_is_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    turned = HotArtifact(root, ENCODER, clock).rollout(Rollout("act"))
    rollout.write(root, Rollout("shadow"))
    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(OSError("too many open files")))
        clock.now_s += 1.0
        assert turned.get() == Rollout("act") and "too many open files" in turned.error
    clock.now_s += 1.0
    assert turned.get() == Rollout("shadow") and turned.error == ""


def test_use_says_what_is_in_force(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert use(root) == 0
    assert "as each service's configuration says" in capsys.readouterr().out
    assert use(root, "--mode", "act", "--rollout", "0.25") == 0
    assert "acts on 0.25 of conversations" in capsys.readouterr().out
    assert use(root) == 0  # looking changes nothing
    assert "acts on 0.25 of conversations" in capsys.readouterr().out
    assert use(root, "--mode", "shadow") == 0
    assert "acts on nothing" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--mode", "act"], ["--mode", "shadow"], ["--mode", "configured"]])
def test_use_promises_nothing_of_services_that_decide_by_rules(
    root: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Which those are the command cannot know: the folder is named in their configurations, not they in the folder."""
    assert use(root, *arguments) == 0
    told = capsys.readouterr().out.splitlines()
    assert "only services whose configuration has routing.decider 'learned'" in told[-1]
    assert "with decider 'rules', the default, nothing here has any effect" in told[-1]
    assert not any("whatever configurations say" in line for line in told)


def test_a_damaged_artifact_does_not_hide_the_others(
    root: Path, deployed: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    other = deployed.with_policy(replace(deployed.policy, threshold=0.7), {}).write(root)
    (other / "policy.json").write_text("{")
    assert use(root) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 5 and sum("damaged" in line for line in listed) == 1


def test_a_folder_that_takes_no_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert use(Path("/proc"), "--mode", "shadow") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_makes_no_sense_is_refused_and_changes_nothing(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = [
        ("give --mode act", ["--rollout", "0.2"]),
        ("give --mode act", ["--mode", "shadow", "--rollout", "0.2"]),
        ("0 to 1", ["--mode", "act", "--rollout", "1.5"]),
        ("0 to 1", ["--mode", "act", "--rollout", "nan"]),
        ("there is no artifact v9", ["v9", "--mode", "act"]),
    ]
    for words, arguments in refused:
        assert use(root, *arguments) == 2
        assert words in capsys.readouterr().err
    assert rollout.read(root) is None
    assert use(tmp_path / "nowhere", "--mode", "act") == 2
    assert "is no folder" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
