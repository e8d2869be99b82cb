"""`python -m serving label` against a gateway: right labels, what is paid for is kept, nothing is asked twice."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.errors import ContextExceeded, Unavailable
from models.fake import FakeBackend, Step
from router import profile
from router.__main__ import main as router
from router.outcomes import Pair, read
from serving.ledger import export, keys
from serving.texts.settings import Texts
from serving.wire.options import Options
from tests.serving.conftest import Setup, running
from tests.serving.label.conftest import Pupil, read_lines, sums, write_lines

Command = Callable[..., Any]


def asked(setup: Setup) -> int:
    return len(setup.small.calls) + len(setup.frontier.calls)


async def test_references_make_labels_that_the_router_reads(classroom: Setup, label: Command, tmp_path: Path) -> None:
    file, out = write_lines(tmp_path / "in.jsonl", sums(40)), tmp_path / "outcomes.jsonl"
    async with running(classroom) as gateway:
        code, told = await label(str(file), "--out", str(out), "--url", gateway.url, "--max-usd", "5")
        rows = await gateway.rows(80)
    assert code == 0, told
    assert "40 labels; small 50.0%" in told and "frontier 100.0%" in told
    found = read([out], Pair("small", "frontier"))
    assert len(found) == 40 and set(found.groups) == {"rivers", "metals", "verbs", "stars"}
    assert [found.weak[i] for i in range(40)] == [float(2 * int(name.split("/")[1]) + 1 < 41) for name in found.ids]
    assert found.strong.tolist() == [1.0] * 40
    (one,) = [row for row in read_lines(out) if row["id"] == "sum/3"]
    assert one["scored_by"] == "number" and one["reference"] == "7" and one["prompt"].startswith("About stars")
    answer = one["models"]["frontier"]
    assert (answer["text"], answer["model"]) == ("The answer is 7.", "huge")
    assert answer["completion_tokens"] > 0 and answer["cost_usd"] > 0 and one["prompt_tokens"] > 0
    assert {row["cache"] for row in rows} == {"bypass"} and {tuple(row["tags"]) for row in rows} == {("label",)}
    spent = sum(row["cost_nusd"] for row in rows) / 1e9
    assert sum(a["cost_usd"] for row in read_lines(out) for a in row["models"].values()) == pytest.approx(spent)


async def test_a_second_run_asks_nothing_and_a_larger_sample_only_what_is_new(
    classroom: Setup, label: Command, tmp_path: Path
) -> None:
    file, out = write_lines(tmp_path / "in.jsonl", sums(40)), tmp_path / "outcomes.jsonl"
    async with running(classroom) as gateway:
        words = [str(file), "--out", str(out), "--url", gateway.url, "--max-usd", "5"]
        assert (await label(*words, "--sample", "10"))[0] == 0
        first = out.read_bytes()
        assert asked(classroom) == 20
        assert (await label(*words, "--sample", "10"))[0] == 0
        assert (asked(classroom), out.read_bytes()) == (20, first)
        assert (await label(*words))[0] == 0
        assert (asked(classroom), len(read_lines(out))) == (80, 40)
        code, told = await label(*words, "--fields", '{"max_tokens": 5}')
        assert code == 2 and "other settings" in told


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
async def test_killed_at_any_moment_it_goes_on_where_it_was(
    classroom: Setup, label: Command, tmp_path: Path, kill: signal.Signals
) -> None:
    file, out = write_lines(tmp_path / "in.jsonl", sums(30)), tmp_path / "outcomes.jsonl"
    work = tmp_path / "outcomes.jsonl.work"
    async with running(classroom) as gateway:
        words = [str(file), "--out", str(out), "--url", gateway.url, "--max-usd", "5", "--parallel", "2"]
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "serving", "label", *words, stderr=asyncio.subprocess.DEVNULL
        )
        while not work.exists() or work.read_bytes().count(b"\n") < 12:
            await asyncio.sleep(0.005)
        child.send_signal(kill)
        assert await child.wait() == (-9 if kill == signal.SIGKILL else 130)
        paid = work.read_bytes().count(b"\n") - 1
        assert out.exists() == (kill == signal.SIGINT) and 11 <= paid < 60
        with work.open("ab") as file_:
            file_.write(b'{"key": "half a li')
        before = asked(classroom)
        assert (await label(*words))[0] == 0
        assert asked(classroom) - before == 60 - paid  # what was in flight when it was killed is asked again
        assert len(read_lines(out)) == 30


async def test_the_money_is_a_bound_over_all_runs(classroom: Setup, label: Command, tmp_path: Path) -> None:
    file, out = write_lines(tmp_path / "in.jsonl", sums(40)), tmp_path / "outcomes.jsonl"
    async with running(classroom) as gateway:
        words = [str(file), "--out", str(out), "--url", gateway.url, "--parallel", "1"]
        code, told = await label(*words, "--max-usd", "0.02")
        spent = sum(row["cost_nusd"] for row in await gateway.rows()) / 1e9
        assert code == 1 and "raise --max-usd" in told and "is not asked again" in told
        assert 0.01 < spent <= 0.02
        done = len(read_lines(out))
        assert 0 < done < 40
        before = asked(classroom)
        assert (await label(*words, "--max-usd", "0.02"))[0] == 1
        assert asked(classroom) == before and len(read_lines(out)) == done
        assert (await label(*words, "--max-usd", "5"))[0] == 0
        assert asked(classroom) == 80 and len(read_lines(out)) == 40


async def test_a_gateway_that_goes_away_leaves_what_is_done(
    classroom: Setup, label: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.label.client.WAITS_S", (0.01, 0.01))
    file, out = write_lines(tmp_path / "in.jsonl", sums(30)), tmp_path / "outcomes.jsonl"
    classroom.small.script = [Step(word_s=0.02)]
    async with running(classroom) as gateway:
        words = [str(file), "--out", str(out), "--url", gateway.url, "--max-usd", "5", "--parallel", "2"]
        task = asyncio.create_task(label(*words))
        while asked(classroom) < 20:
            await asyncio.sleep(0.005)
    code, told = await task
    assert code == 1 and "does not answer" in told and "run the same command again" in told
    assert 5 <= len(read_lines(out)) < 30


async def test_a_wrong_key_an_unknown_tier_and_another_server_stop_it_at_once(
    classroom: Setup, label: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, key_file = write_lines(tmp_path / "in.jsonl", sums(10)), tmp_path / "key"
    classroom.required = True
    async with running(classroom) as gateway:
        _, secret = keys.add(gateway.store, "acme")
        await gateway.table.refresh()
        words = [str(file), "--url", gateway.url, "--max-usd", "5", "--parallel", "1"]
        monkeypatch.setenv("FARTHING_API_KEY", "fk-no")
        code, told = await label(*words, "--out", str(tmp_path / "a"))
        assert code == 1 and "refuses the key" in told and asked(classroom) == 0
        key_file.write_text(secret + "\n")
        words += ["--key-file", str(key_file)]
        code, told = await label(*words, "--out", str(tmp_path / "b"), "--strong", "gpt-99")
        assert code == 1 and "gpt-99" in told and asked(classroom) == 1
        assert not (tmp_path / "b").exists()
        assert (await label(*words, "--out", str(tmp_path / "c")))[0] == 0


async def test_an_answer_of_another_tier_is_no_label(classroom: Setup, label: Command, tmp_path: Path) -> None:
    """`best` is an alias: its answers say that they come from `frontier`."""
    file, out = write_lines(tmp_path / "in.jsonl", sums(3)), tmp_path / "outcomes.jsonl"
    async with running(classroom) as gateway:
        words = [str(file), "--out", str(out), "--url", gateway.url, "--max-usd", "5", "--strong", "best"]
        code, told = await label(*words)
    assert code == 1 and "'best' was asked for and 'frontier' answered" in told and "3 degraded" in told
    assert not out.exists()


async def test_an_absent_tier_ends_the_run_after_a_few(
    classroom: Setup, label: Command, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("serving.label.client.WAITS_S", (0.0,))
    classroom.frontier = None
    file, out = write_lines(tmp_path / "in.jsonl", sums(30)), tmp_path / "outcomes.jsonl"
    async with running(classroom) as gateway:
        words = [str(file), "--out", str(out), "--url", gateway.url, "--max-usd", "5", "--parallel", "1"]
        code, told = await label(*words)
    assert code == 1 and "5 prompts in a row failed" in told and "no key" in told
    assert len(classroom.small.calls) == 5 and not out.exists()


async def test_a_prompt_that_is_refused_costs_that_label_alone_and_is_not_asked_again(
    classroom: Setup, label: Command, tmp_path: Path
) -> None:
    class Short(Pupil):
        async def complete(self, call: Any) -> Any:
            if "What is 2 + 3?" in call.body["messages"][-1]["content"]:
                self.calls.append(call)
                raise ContextExceeded("too long for it")
            return await super().complete(call)

    classroom.small = Short("small/0", "tiny", 41)
    file, out = write_lines(tmp_path / "in.jsonl", sums(6)), tmp_path / "outcomes.jsonl"
    async with running(classroom) as gateway:
        words = [str(file), "--out", str(out), "--url", gateway.url, "--max-usd", "5"]
        code, told = await label(*words)
        assert code == 0 and "no label for sum/2: context_length_exceeded" in told and "1 refused" in told
        assert len(read_lines(out)) == 5
        before = asked(classroom)
        assert (await label(*words))[0] == 0 and asked(classroom) == before


async def test_what_passes_is_asked_again(classroom: Setup, label: Command, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("serving.label.client.WAITS_S", (0.0, 0.0))
    errors = iter([Unavailable("a moment")] * 3)

    class Shaky(Pupil):
        async def complete(self, call: Any) -> Any:
            if (error := next(errors, None)) is not None:
                raise error
            return await super().complete(call)

    classroom.small = Shaky("small/0", "tiny", 41)
    file, out = write_lines(tmp_path / "in.jsonl", sums(2)), tmp_path / "outcomes.jsonl"
    async with running(classroom) as gateway:
        words = [str(file), "--out", str(out), "--url", gateway.url, "--max-usd", "5", "--parallel", "1"]
        assert (await label(*words))[0] == 0
    assert len(read_lines(out)) == 2


class Judge(FakeBackend):
    """Prefers the answer with more exclamation marks, or always the first place, or says nothing clear."""

    manner = "fair"
    judged = 0

    async def complete(self, call: Any) -> Any:
        text = call.body["messages"][-1]["content"]
        if "<answer_1>" in text:
            first, second = (text.split(f"<answer_{n}>")[1].split("</answer")[0].count("!") for n in (1, 2))
            self.judged += 1
            fair = "tie" if first == second else "1" if first > second else "2"
            self.script = [
                Step(text={"fair": f"So. Verdict: {fair}", "first": "Verdict: 1", "vague": "hm"}[self.manner])
            ]
        else:
            self.script = [Step(text="yes" if "same" in text else "no!!")]
        return await super().complete(call)


class Small(FakeBackend):
    async def complete(self, call: Any) -> Any:
        text = call.body["messages"][-1]["content"]
        self.script = [Step(text={"a": "no", "b": "no!!!", "same": "yes"}[text])]
        return await super().complete(call)


QUARRELS = [{"id": name, "prompt": name} for name in ("a", "b", "same")]


@pytest.mark.parametrize(
    ("manner", "scores", "told_of"),
    [("fair", {"a": (0.0, 1.0), "b": (1.0, 0.0), "same": (0.5, 0.5)}, "by position in 0 of 2"),
     ("first", {"a": (0.5, 0.5), "b": (0.5, 0.5), "same": (0.5, 0.5)}, "by position in 2 of 2"),
     ("vague", {"same": (0.5, 0.5)}, "no verdict")],
)  # fmt: skip
async def test_a_judge_is_asked_in_both_orders(
    setup: Setup, label: Command, tmp_path: Path, manner: str, scores: dict[str, Any], told_of: str
) -> None:
    setup.small, setup.frontier = Small("small/0", "tiny"), Judge("frontier/0", "huge")
    setup.frontier.manner = manner
    file, out = write_lines(tmp_path / "in.jsonl", QUARRELS), tmp_path / "outcomes.jsonl"
    async with running(setup) as gateway:
        words = [str(file), "--out", str(out), "--url", gateway.url, "--max-usd", "5"]
        code, told = await label(*words)
        assert code == 2 and "3 of 3 prompts have no reference" in told
        code, told = await label(*words, "--judge", "frontier")
        assert code == 0 and told_of in told, told
        before = asked(setup)
        assert (await label(*words, "--judge", "frontier"))[0] == 0
        assert asked(setup) - before == (2 if manner == "vague" else 0)  # the verdicts that were none, and only those
    found = {row["id"]: row for row in read_lines(out)}
    assert {
        n: (r["models"]["small"]["correct"], r["models"]["frontier"]["correct"]) for n, r in found.items()
    } == scores
    assert {row["scored_by"] for row in found.values()} == {"judge:frontier"}
    if manner == "fair":
        assert found["a"]["judge_cost_usd"] > 0 and "judge_cost_usd" not in found["same"]


async def test_a_verdict_that_was_none_is_asked_for_again_and_paid_for(
    setup: Setup, label: Command, tmp_path: Path
) -> None:
    setup.small, judge = Small("small/0", "tiny"), Judge("frontier/0", "huge")
    setup.frontier, judge.manner = judge, "vague"
    file, out = write_lines(tmp_path / "in.jsonl", QUARRELS), tmp_path / "outcomes.jsonl"
    async with running(setup) as gateway:
        words = [str(file), "--out", str(out), "--url", gateway.url, "--judge", "frontier", "--parallel", "1"]
        code, told = await label(*words, "--max-usd", "5")
        assert code == 0 and "2 unjudged" in told and "but for verdicts that were none" in told
        spent = sum(row["cost_nusd"] for row in await gateway.rows()) / 1e9
        code, told = await label(*words, "--max-usd", f"{spent:.6f}")
        assert code == 1 and judge.judged == 2 and "raise --max-usd" in told  # it is for all runs together
        judge.manner = "fair"
        answers = asked(setup) - judge.judged
        code, told = await label(*words, "--max-usd", "5")
        assert code == 0 and "run the same" not in told and judge.judged == 6  # both in both orders
        assert asked(setup) - judge.judged == answers
        assert (await label(*words, "--max-usd", "5"))[0] == 0 and judge.judged == 6
    assert {row["id"] for row in read_lines(out)} == {"a", "b", "same"}


async def test_what_cannot_have_a_label_is_not_to_be_tried_again(setup: Setup, label: Command, tmp_path: Path) -> None:
    setup.small = FakeBackend("small/0", "tiny", script=[Step(text="")])
    setup.frontier = FakeBackend("frontier/0", "huge", script=[Step(text="")])
    file, out = write_lines(tmp_path / "in.jsonl", QUARRELS), tmp_path / "outcomes.jsonl"
    async with running(setup) as gateway:
        words = [str(file), "--out", str(out), "--url", gateway.url, "--max-usd", "5", "--judge", "frontier"]
        code, told = await label(*words)
    assert code == 1 and "3 empty" in told and "run the same" not in told


async def test_traffic_is_exported_labelled_and_learned_from(
    classroom: Setup, label: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loop, with the commands' own files: kept texts, export, profile, label, train, calibrate."""
    classroom.texts = Texts(enabled=True)
    file, again, out = tmp_path / "traffic.jsonl", tmp_path / "again.jsonl", tmp_path / "outcomes.jsonl"
    async with running(classroom) as gateway:
        for row in sums(110):
            await gateway.ask(row["prompt"], farthing={"prompt": row["group"]})
        await gateway.ask("What is 1 + 1?", farthing={"keep_text": False})
        await gateway.ask("Mail a@b.org: What is 1 + 2?")
        await gateway.ask(sums(1)[0]["prompt"])  # a hit
        await gateway.rows(113)
        await gateway.texts.flush()
        export.to_file(export.lines(gateway.store, with_texts=True), file)
        words = [str(file), "--out", str(out), "--url", gateway.url, "--max-usd", "50", "--small", "small"]
        words += ["--strong", "frontier", "--judge", "frontier", "--sample", "105"]
        code, told = await label(*words)
        assert code == 0, told
        assert "1 rows are passed over: without a kept text" in told
        assert "1 rows are passed over: asked before word for word" in told
        await gateway.texts.flush()
        export.to_file(export.lines(gateway.store, with_texts=True), again)
    found = read([out], Pair("small", "frontier"))
    assert len(found) == 105 and set(found.groups) >= {"rivers", "metals", "verbs", "stars"}
    assert len([row for row in read_lines(again) if row["messages"]]) == 112  # none of the run's own
    profiled = profile.read(again)
    assert len(profiled) == 113 and len([text for text in profiled.texts if text]) == 112
    artifacts = str(tmp_path / "artifacts")
    pair = ["--outcomes", str(out), "--pair", "small,frontier"]
    assert await asyncio.to_thread(router, ["train", *pair, "--out", artifacts, "--resamples", "20"]) == 0
    assert (
        await asyncio.to_thread(router, ["calibrate", *pair, "--artifact", artifacts, "--frontier-share", "0.3"]) == 0
    )
    assert "is current" in capsys.readouterr().out


def test_keys_that_keep_no_text_say_so(tmp_path: Path) -> None:
    assert Options.parse({"keep_text": False}).merged(Options()).keep_text is False
    assert Options().merged(Options(keep_text=False)).keep_text is False
