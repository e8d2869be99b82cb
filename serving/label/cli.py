"""`python -m serving label`: a sample of prompts through two tiers of the running gateway, scored, as outcome rows.

Reads what `python -m serving export --texts` writes, or a plain file of prompts; writes what `python -m router train`
reads. docs/learned-routing.md shows the whole loop.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import orjson

from models.errors import ConfigError
from serving.label import code, items
from serving.label.arguments import KEY_VARIABLE
from serving.label.client import Client, Stopped
from serving.label.items import PYTHON, Item
from serving.label.labelling import Plan, Run
from serving.label.work import WorkFile
from serving.ledger.export import to_file

NOT_ALL = 1  # exit code: what is done is written, the rest is not


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: every prompt has a label, but for those that cannot have one or got no verdict; 1: not all, or none;
    2: the user's mistake."""
    _check(arguments)
    found = items.read(arguments.prompts, arguments.checker)
    for why, count in found.passed_over.items():
        say(f"{count} rows are passed over: {why}")
    chosen = items.sample(found.items, arguments.sample or len(found.items), arguments.seed)
    _check_scorable(chosen, arguments)
    settings = {name: getattr(arguments, name) for name in ("small", "strong", "judge", "fields")}
    key = _key(arguments.key_file)
    work = WorkFile.open(arguments.out.with_name(arguments.out.name + ".work"), settings)
    try:
        return asyncio.run(_label(arguments, chosen, work, key))
    finally:
        work.close()


async def _label(arguments: argparse.Namespace, chosen: Sequence[Item], work: WorkFile, key: str) -> int:
    if any(item.checker == PYTHON for item in chosen) and not await code.network_is_cut():
        say("what is run here keeps the network, and may leave processes: a container would do better")
    plan = Plan(arguments.small, arguments.strong, arguments.judge, arguments.max_usd, arguments.parallel)
    fields = {"max_tokens": 1024, "temperature": 0, **arguments.fields}
    async with aiohttp.ClientSession(auto_decompress=True) as session:
        run = Run(plan, Client(session, arguments.url.rstrip("/"), key, fields), work, say)
        try:
            stopped = await run.label(chosen)
        finally:  # also on Ctrl-C: what was paid for is written
            write(arguments.out, chosen, run)
    if run.rows:
        say(summary(run))
    return _told(stopped, run, arguments)


def write(path: Path, chosen: Sequence[Item], run: Run) -> None:
    rows = [run.rows[item.id] for item in sorted(chosen, key=lambda item: item.id) if item.id in run.rows]
    if not rows:
        return
    try:
        to_file((orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows), path)
    except OSError as exc:
        raise ConfigError(f"cannot write {path}: {exc.strerror}") from exc


def summary(run: Run) -> str:
    """How the two did, what they cost, and how far the judge can be trusted."""
    told = [f"{len(run.rows)} labels"]
    for tier in (run.plan.small, run.plan.strong):
        answers = [row["models"][tier] for row in run.rows.values()]
        mean = sum(a["correct"] for a in answers) / len(answers)
        cut = sum(a["finish_reason"] == "length" for a in answers)
        cost = sum(a["cost_usd"] for a in answers)
        told.append(f"{tier} {mean:.1%} for ${cost:.4f}" + (f" ({cut} cut off at max_tokens)" if cut else ""))
    judged = [row for row in run.rows.values() if "judge_swapped" in row]
    if judged:
        swapped = sum(row["judge_swapped"] for row in judged)
        told.append(f"the judge went by position in {swapped} of {len(judged)}")
    return "; ".join(told)


def _told(stopped: Stopped | None, run: Run, arguments: argparse.Namespace) -> int:
    if not run.rows:
        say(f"no labels, and no {arguments.out}")
    else:
        pair = f"{arguments.small},{arguments.strong}"
        say(f"{arguments.out} written; python -m router train --outcomes {arguments.out} --pair {pair} --out DIR")
    if stopped is not None:
        say(f"stopped: {stopped.message}")
    unfinished = stopped is not None or run.troubles["degraded"] or run.troubles["failed"]
    if unfinished or run.troubles["unjudged"]:
        say(
            "run the same command again to go on; what was answered is not asked again, but for verdicts that were none"
        )
    return 0 if run.rows and not unfinished else NOT_ALL


def _check(arguments: argparse.Namespace) -> None:
    if arguments.small == arguments.strong:
        raise ConfigError("--small and --strong name the same tier")
    for name in ("sample", "parallel", "max_usd"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise ConfigError(f"--{name.replace('_', '-')} is more than nothing; got {value:g}")
    if not arguments.out.name or arguments.out.is_dir():
        raise ConfigError(f"--out {arguments.out}: a file is expected")
    if arguments.out.resolve() == arguments.prompts.resolve():
        raise ConfigError(f"--out {arguments.out} would replace the prompts; name another file")
    if not arguments.url.startswith(("http://", "https://")):
        raise ConfigError(f"--url '{arguments.url}': an address like http://127.0.0.1:8000 is expected")


def _check_scorable(chosen: Sequence[Item], arguments: argparse.Namespace) -> None:
    unknown = sum(item.reference is None for item in chosen)
    if unknown and arguments.judge is None:
        raise ConfigError(
            f"{unknown} of {len(chosen)} prompts have no reference: name a tier that compares answers with --judge"
        )
    runs = sum(item.checker == PYTHON for item in chosen)
    if runs and not arguments.run_code:
        raise ConfigError(
            f"{runs} prompts have the checker 'python', which runs code that a model wrote on this machine: "
            "allow it with --run-code, best in a container"
        )


def _key(path: Path | None) -> str:
    where = KEY_VARIABLE if path is None else str(path)
    try:
        key = (os.environ.get(KEY_VARIABLE, "") if path is None else path.read_text(encoding="utf-8")).strip()
    except OSError as exc:
        raise ConfigError(f"cannot read the key in {path}: {exc.strerror}") from exc
    except UnicodeDecodeError:
        key = "\0"
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{where} holds no key: a key is one line of letters, digits and dashes")
    return key


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
