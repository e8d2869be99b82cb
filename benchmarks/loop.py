"""The loop of the learned router, each command once, on recorded answers through the running service.

    python -m benchmarks.loop --zeroeval FILE [--questions 1200] [--out FOLDER]

A transcript on stdout: instrument, profile, label, train, calibrate, check, shadow, a tenth, all, back out, an earlier
version, explain, watch. Replayed: what the models say, and how fast. Real: everything else. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks import service
from benchmarks.child import ROOT, BenchmarkError, Nursery, guarded, python
from benchmarks.cost import mixing, zeroeval
from benchmarks.cost.accounting import Judge, Scored
from benchmarks.cost.architectures import ENGINE_MODULE, FRONTIER, RTX_4090, SMALL, Architecture
from benchmarks.cost.drive import Target
from benchmarks.cost.options import FRONTIER_MODEL, SMALL_MODEL
from benchmarks.cost.prices import Prices
from benchmarks.cost.replay import Speed
from benchmarks.cost.replayed import Speeds, Stage, belongs_to, drive_phases, routed_as, scored_by, tenant_of
from benchmarks.cost.workload import Request, Workload
from benchmarks.cost.zeroeval import Question
from benchmarks.load import positive
from models.errors import UnknownPrice
from models.local.engine import MODULE_VARIABLE
from router.calibrate import MIN_ROWS
from router.grading import grade

RPS: Final = 20.0
FAST: Final = Speeds({FRONTIER: Speed(0.02, 5000.0)}, gpu_answer_tokens_per_s=5000.0, gpu_running=256)
GPUS: Final = replace(RTX_4090, count=100)  # priced as one each, and in no one's way
HEAD_LINES: Final = 60
BACK_OUT_LIMIT_S: Final = 3.0
WATCHED: Final = ("farthing_router_", "farthing_texts_total")


@dataclass(frozen=True, slots=True)
class Asked:
    """One pass over some questions: what was answered by whom, and what the ledger has of it."""

    scored: Sequence[Scored]
    ledger: Sequence[Mapping[str, Any]]

    def summary(self, all_strong: Mapping[str, float]) -> dict[str, Any]:
        """`wanted`: the learned router's choice where it did not act. Quality: of the frontier's, same questions."""
        right = sum(bool(s.right) for s in self.scored)
        return {
            "requests": len(self.scored),
            "routes": dict(Counter(s.route for s in self.scored)),
            "decided by the learned router": sum(bool(row["artifact"] and not row["shadow"]) for row in self.ledger),
            "wanted": dict(Counter(row["shadow"] for row in self.ledger if row["shadow"])),
            "quality kept": round(right / sum(all_strong[s.request.question] for s in self.scored), 4),
            "usd per 1k": round(sum(s.nusd for s in self.scored) / 1e6 / len(self.scored), 4),
        }


class Transcript:
    """Runs the product's own commands and prints them with what they say, long output cut."""

    def __init__(self, folder: Path, hide: Sequence[str]) -> None:
        self.folder, self._hide = folder, (str(folder) + "/", *hide)

    def run(self, *command: str, lines: int = HEAD_LINES, progress: int = 0) -> str:
        """`progress`: the last lines of stderr that are shown as well. Raises BenchmarkError."""
        print(f"\n$ python -m {' '.join(shlex.quote(self._short(part)) for part in command)}", flush=True)
        done = subprocess.run(python(*command), cwd=ROOT, capture_output=True, text=True, check=False)
        aside = done.stderr.rstrip().splitlines()
        shown = aside if done.returncode else aside[max(0, len(aside) - progress) :]
        told = [*shown, *done.stdout.rstrip().splitlines()]
        for line in told[:lines]:
            print(self._short(line))
        if len(told) > lines:
            print(f"... {len(told) - lines} more lines")
        if done.returncode:
            raise BenchmarkError(f"`{' '.join(command[:3])}` ended with {done.returncode}")
        return done.stdout

    def say(self, text: str) -> None:
        print(f"\n-- {self._short(text)}", flush=True)

    def _short(self, text: str) -> str:
        for part in self._hide:
            text = text.replace(part, "")
        return text


@dataclass(slots=True)
class Loop:
    """`parts`: questions to learn from, to calibrate on, and that nobody saw before they are asked."""

    ours: service.Service
    stage: Stage
    told: Transcript
    parts: Mapping[str, Sequence[Question]]
    artifacts: Path
    strong: Mapping[str, float]

    def go(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self.told.say("instrument: traffic as it comes, kept with its texts; the rules answer, the prior is in shadow")
        known = [*self.parts["learn"], *self.parts["sample"]]
        found["instrument"] = self._show(self.ask("traffic", known))
        self.prepare()
        versions = self.learn()
        fresh = self.parts["fresh"]
        self.told.say(f"shadow: {len(fresh)} questions that were in no file; the rules answer")
        found["shadow"] = self._show(self.ask("shadow", fresh))
        for name, share in (("tenth", "0.1"), ("all", "1")):
            self._use("--mode", "act", "--rollout", share)
            found[name] = self._show(self.ask(name, fresh))
        found["back_out_s"] = self.back_out()
        found["backed_out"] = self._show(self.ask("back", fresh))
        self._use(versions[0])
        self.explain()
        self.watch()
        return found

    def prepare(self) -> None:
        """Exported traffic, its topics, and labels of both samples."""
        traffic = str(self.told.folder / "traffic.jsonl")
        config = str(self.ours.config)
        self.told.run("serving", "export", "--config", config, "--tenant", "traffic.t", "--texts", "-o", traffic)
        page = str(self.told.folder / "topics.html")
        self.told.run("router", "profile", "--traffic", traffic, "--html", page, *self._cache())
        self.told.say("label: the same prompts, with the references that are known for them, through both tiers")
        key = self.told.folder / "key"
        key.write_text(self.ours.add_key("labels"), encoding="utf-8")
        for name, questions in self.parts.items():
            prompts = self.told.folder / f"{name}.jsonl"
            prompts.write_text("".join(json.dumps(_labelled(q)) + "\n" for q in questions), encoding="utf-8")
            out = ["--out", str(self.told.folder / f"{name}-outcomes.jsonl")]
            where = ["--url", self.ours.url, "--key-file", str(key), "--max-usd", "20", "--parallel", "16"]
            self.told.run("serving", "label", str(prompts), *out, *where, progress=4)

    def learn(self) -> list[str]:
        """Versions of the artifacts, oldest first. The running service takes each up as it is written."""
        files = {name: str(self.told.folder / f"{name}-outcomes.jsonl") for name in self.parts}
        pair = ["--pair", "small,frontier"]
        self.told.run(
            "router", "train", "--outcomes", files["learn"], *pair, "--out", str(self.artifacts), *self._cache()
        )
        there = ["--artifact", str(self.artifacts), *pair, *self._cache()]
        self.told.run("router", "calibrate", "--outcomes", files["sample"], *there, "--quality", "0.97")
        self.told.run("router", "calibrate", "--outcomes", files["fresh"], *there, "--check")
        self._use()
        versions = [path.parent for path in self.artifacts.glob("*/manifest.json") if not path.parent.is_symlink()]
        return [folder.name for folder in sorted(versions, key=lambda path: path.stat().st_mtime)]

    def ask(self, name: str, questions: Sequence[Question]) -> Asked:
        """All as model `auto`, each pass as a tenant of its own, from no cache. Raises BenchmarkError."""
        row = Architecture(name, name, "auto")
        requests = _requests(questions)
        key = self.ours.add_key(tenant_of(row, "t"), "--cache", "off")
        replies, _ = drive_phases(requests, Target(self.ours.v1, {"t": key}, "auto"), lambda _: None)
        if failed := [reply for reply in replies.values() if reply.error]:
            raise BenchmarkError(f"{len(failed)} requests failed, the first: {failed[0].error}")
        ledger = self.ours.ledger_rows(tenant_of(row, "t"), len(requests))
        return Asked(scored_by(self.stage.judge, requests, routed_as(replies, ledger)), ledger)

    def back_out(self) -> float:
        """Seconds from the command's end to the first request that the rules decided; one after the other meanwhile."""
        key = self.ours.add_key("back-out", "--cache", "off")
        self.told.run("router", "use", "--artifact", str(self.artifacts), "--mode", "shadow")
        ended_s, count = time.time(), 0
        while time.time() - ended_s < BACK_OUT_LIMIT_S:
            _ask(self.ours.v1, key, f"Say {count}.")
            count += 1
        rows = self.ours.ledger_rows("back-out", count)
        by_rules = [float(row["at_ms"]) for row in rows if row["shadow"]]
        if not by_rules:
            raise BenchmarkError(f"after {BACK_OUT_LIMIT_S:g} s the learned router still decides")
        took_s = round(max(0.0, min(by_rules) / 1000 - ended_s), 2)
        self.told.say(f"back out: the rules decide again {took_s} s after the command has ended")
        return took_s

    def explain(self) -> None:
        question = next(q for q in self.parts["fresh"] if q.task == "gsm")
        self.told.run("router", "explain", question.text, "--artifact", str(self.artifacts))
        rows = self.ours.ledger_rows(tenant_of(Architecture("all", "all", "auto"), "t"), 1)
        self.told.run("serving", "explain", "--config", str(self.ours.config), rows[0]["request_id"])

    def watch(self) -> None:
        self.told.say("watch: what a scrape sees")
        with urllib.request.urlopen(f"{self.ours.url}/metrics", timeout=30) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(WATCHED):
                    print(line)

    def _use(self, *arguments: str) -> None:
        self.told.run("router", "use", "--artifact", str(self.artifacts), *arguments)
        time.sleep(1.5)  # services look once a second

    def _show(self, asked: Asked) -> dict[str, Any]:
        summary = asked.summary(self.strong)
        print(json.dumps(summary), flush=True)
        return summary

    def _cache(self) -> list[str]:
        return ["--cache", str(self.told.folder / "embeddings")]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--zeroeval", type=Path, required=True, metavar="FILE", help="outcome rows with texts")
    parser.add_argument("--small", default=SMALL_MODEL, metavar="MODEL", help=f"default: {SMALL_MODEL}")
    parser.add_argument("--frontier", default=FRONTIER_MODEL, metavar="MODEL", help=f"default: {FRONTIER_MODEL}")
    parser.add_argument(
        "--questions",
        type=positive,
        default=1200,
        metavar="N",
        help="a quarter has to be enough to calibrate on (default: 1200)",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep exports, labels, artifacts and the page here")
    options = parser.parse_args(argv)
    return guarded(parser.prog, lambda folder: _run(options, folder))


def _run(options: argparse.Namespace, folder: Path) -> int:
    models = {SMALL: options.small, FRONTIER: options.frontier}
    work = _work(options.out, folder)
    try:
        prices = Prices.of(models, RTX_4090)
    except UnknownPrice as exc:
        raise BenchmarkError(
            f"no price for '{options.frontier}' is known: name a frontier model that is listed"
        ) from exc
    questions = mixing.pick(zeroeval.read(options.zeroeval, list(models.values())), options.questions, 0)
    parts = _parts(questions)
    if (least := min(map(len, parts.values()))) < MIN_ROWS:
        raise BenchmarkError(
            f"of {len(questions)} questions a quarter, {least}, is to calibrate on, which takes {MIN_ROWS}: ask more"
        )
    answers = [answer for q in questions for answer in q.answers.values()]
    workload = Workload("loop", _requests(questions), answers)
    nursery = Nursery(folder)
    stage = Stage(nursery, workload, models, GPUS, FAST, Judge(prices.by_tier, grade, belongs_to(workload), prices.at))
    strong = {q.id: float(grade(q.answers[options.frontier].text, q.reference, q.checker)) for q in questions}
    with _serving(stage, work / "artifacts") as ours:
        told = Transcript(work, [f"{folder}/"])
        print(json.dumps(Loop(ours, stage, told, parts, work / "artifacts", strong).go()))
    return 1 if nursery.left_behind else 0


def _work(out: Path | None, folder: Path) -> Path:
    """Empty: labels, artifacts and a rollout of an earlier run would be gone on with. Raises BenchmarkError."""
    work = out or folder / "work"
    try:
        work.mkdir(parents=True, exist_ok=True)
        if any(work.iterdir()):
            raise BenchmarkError(f"--out: {work} is not empty; give a new folder")
    except OSError as exc:
        raise BenchmarkError(f"--out: {work} is no folder and cannot be made one ({exc.strerror})") from exc
    return work


@contextmanager
def _serving(stage: Stage, artifacts: Path) -> Iterator[service.Service]:
    """Texts kept; the learned router in shadow, with the shipped prior until there is an artifact."""
    artifacts.mkdir(parents=True, exist_ok=True)
    with stage.tiers() as setup:
        config = setup.config((SMALL, FRONTIER), artifacts, None)
        routing = config["routing"] | {"learned": {"mode": "shadow"}}
        config |= {"routing": routing, "texts": {"enabled": True}}
        with service.running(stage.nursery, config, {MODULE_VARIABLE: ENGINE_MODULE}) as ours:
            yield ours


def _parts(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """A half to learn from, a quarter to calibrate on, a quarter that is fresh; every task in each."""
    by_task: dict[str, list[Question]] = {}
    for question in questions:
        by_task.setdefault(question.task, []).append(question)
    parts: dict[str, list[Question]] = {"learn": [], "sample": [], "fresh": []}
    for members in by_task.values():
        for place, question in enumerate(random.Random("loop").sample(members, len(members))):
            parts[("learn", "sample", "learn", "fresh")[place % 4]].append(question)
    return parts


def _requests(questions: Sequence[Question]) -> list[Request]:
    return [
        Request(
            id=q.id,
            arrival_s=place / RPS,
            messages=q.messages(q.text),
            question=q.id,
            tenant="t",
            reference=q.reference,
            checker=q.checker,
            group=q.task,
        )
        for place, q in enumerate(questions)
    ]


def _labelled(question: Question) -> dict[str, Any]:
    known = {"reference": question.reference, "checker": question.checker, "group": question.task}
    return {"id": question.id, "messages": question.messages(question.text), **known}


def _ask(v1: str, key: str, text: str) -> None:
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": text}]}).encode()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{v1}/chat/completions", body, headers), timeout=60) as answer:
        answer.read()


if __name__ == "__main__":
    sys.exit(main())
