from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.child import BenchmarkError
from benchmarks.cost import assembled, configured, live
from benchmarks.cost.accounting import Driven, Scored
from benchmarks.cost.architectures import SMALL
from benchmarks.cost.drive import Reply
from benchmarks.cost.live import Journal, Live
from benchmarks.cost.loads import Compared
from router.grading import grade
from tests.benchmarks.cost import example
from tests.benchmarks.cost.test_configured import CONFIG


def test_a_journal_gives_back_what_was_answered_and_not_what_failed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.keep("all-own", Reply("a", 0.0, 1.0, text="yes", route="own"))
    journal.keep("all-own", Reply("b", 0.0, 1.0, error="status 500"))
    journal.keep("all-own", Reply("d", 0.0, 1.0, text="whose?"))
    journal.close()
    with path.open("a", encoding="utf-8") as file:
        file.write('{"row": "all-own", "reply": {"id": "c", "at')  # cut off in the middle
    again = Journal(path)
    again.close()
    assert again.replies == {"all-own": {"a": Reply("a", 0.0, 1.0, text="yes", route="own")}}


def test_a_folder_is_no_journal(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="cannot be a journal"):
        Journal(tmp_path)


def test_no_journal_is_needed(tmp_path: Path) -> None:
    journal = Journal(None)
    journal.keep("row", Reply("a", 0.0, 1.0))
    journal.close()
    assert not list(tmp_path.iterdir())


def test_a_hit_is_right_when_its_text_was_once_a_fresh_answer_to_that_question() -> None:
    asked = live.arithmetic(20, 1.0)
    tiers = configured.tiers_of(CONFIG)
    of = Live(asked, tiers, Journal(None), 1.0, datetime.datetime.now(datetime.UTC))
    replies = {r.id: Reply(r.id, 0.0, 1.0, text=f"It is {r.reference}", route="own") for r in asked.requests}
    repeat = next(r for r in asked.requests if r.kind == "repeat")
    replies[repeat.id] = replace(replies[repeat.id], cache="exact", route="cache")
    scored = {s.request.id: s for s in of.scored(replies)}
    assert not scored[repeat.id].wrong_hit
    assert scored[repeat.id].right
    assert scored["sum/0"].reply.route == "small"
    replies[repeat.id] = replace(replies[repeat.id], text="It is 1")
    assert {s.request.id: s for s in of.scored(replies)}[repeat.id].wrong_hit


def test_break_even_of_a_live_run_is_of_its_own_tier_against_the_cheapest_hosted_row_and_the_last() -> None:
    of = Live(
        live.arithmetic(4, 1.0), configured.tiers_of(CONFIG), Journal(None), 1.0, datetime.datetime.now(datetime.UTC)
    )
    known = {one.name: one for one in example.FIGURES}
    found = [
        replace(known["all-cheapest"], name="all-mini"),
        replace(known["all-frontier"], name="all-big"),
        replace(known["all-small"], name="all-own"),
    ]
    assert of.compared(found) == Compared("all-own", {"cheapest": "all-mini", "frontier": "all-big"})
    dear = [found[1], replace(found[0], total=replace(found[0].total, value=99.0))]
    assert of.compared(dear).against == {"frontier": "all-big"}, "the frontier is the cheapest hosted one"


def test_quality_kept_is_of_the_frontiers_and_nothing_where_there_is_none() -> None:
    asked = live.arithmetic(4, 1.0)
    began = assembled.Began("2026-11-27T00:00:00+00:00", {"versions": {}, "commit": "x"}, 0.0, {"seed": 0})
    whole = configured.tiers_of(CONFIG)
    for tiers, kept in ((whole, True), ([tier for tier in whole if tier.role == SMALL], False)):
        replies = [
            Reply(r.id, r.arrival_s, 1.0, 0.1, "x", "small", input_tokens=9, output_tokens=9) for r in asked.requests
        ]
        scored = [Scored(r, reply, 0, True, False) for r, reply in zip(asked.requests, replies, strict=True)]
        driven = [Driven(f"all-{tier.name}", tier.name, scored, 4.0, 0, ()) for tier in tiers]
        of = Live(asked, tiers, Journal(None), 0.0, datetime.datetime.now(datetime.UTC))
        assert [one.quality_kept is not None for one in assembled.live(driven, of, began, None).figures] == [
            kept for _ in tiers
        ]


def test_the_sums_are_graded_by_their_own_reference_and_repeat_now_and_then() -> None:
    asked = live.arithmetic(40, 2.0).requests
    assert sum(r.kind == "repeat" for r in asked) == 4
    for request in asked:
        a, b = (int(part.strip("? ")) for part in request.text.partition("is ")[2].partition("?")[0].split("+"))
        assert request.reference is not None
        assert grade(f"The sum is {a + b}.", request.reference, "number")
