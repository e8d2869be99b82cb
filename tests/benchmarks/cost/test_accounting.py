from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.cost.accounting import Bootstrap, Driven, Judge, figures
from benchmarks.cost.architectures import Gpu
from benchmarks.cost.drive import Reply
from benchmarks.cost.prices import rate_card
from benchmarks.cost.workload import Request
from models.prices import PriceOverride

GPU = Gpu(usd_per_hour=0.36, prefill_tokens_per_s=1000, decode_tokens_per_s=100)
AT = datetime.datetime(2026, 11, 26, tzinfo=datetime.UTC)


def hosted(usd_in: float, usd_out: float) -> PriceOverride:
    stated = {"input_usd_per_mtok": str(usd_in), "output_usd_per_mtok": str(usd_out)}
    return PriceOverride.model_validate({**stated, "as_of": "2026-11-26", "source": "a test"})


JUDGE = Judge(
    {"small": rate_card(GPU), "cheap": hosted(1, 2), "frontier": hosted(10, 20)},
    lambda text, reference, _: text == reference,
    lambda question, text: text in (f"right {question}", f"wrong {question}"),
    AT,
)


def request(number: int, question: str) -> Request:
    ask = [{"role": "user", "content": question}]
    return Request(f"r{number}", float(number), ask, question, reference=f"right {question}", checker="exact")


def reply(number: int, route: str, text: str, **fields: Any) -> Reply:
    tokens = {"input_tokens": 100, "output_tokens": 50}
    return Reply(f"r{number}", float(number), 1.0 + number, 0.5, text, route, **{**tokens, **fields})


REQUESTS = [request(0, "a"), request(1, "b"), request(2, "a"), request(3, "c")]
REPLIES = [
    reply(0, "small", "right a"),
    reply(1, "frontier", "wrong b"),
    reply(2, "cache", "right a", cache="exact"),
    reply(3, "cheap", "right c"),
]


def driven(replies: list[Reply], ledger: list[dict[str, int]], gpus: int = 1) -> Driven:
    scored = [JUDGE.score(asked, got) for asked, got in zip(REQUESTS, replies, strict=True)]
    return Driven("routed", "routed", scored, 36.0, gpus, ledger)


def test_each_answer_is_billed_by_its_usage_and_a_hit_is_not() -> None:
    nusd = [s.nusd for s in driven(REPLIES, []).scored]
    # 0.1 s of reading and 0.5 s of writing at 100,000 nano-USD a second; then tokens at dollars per million
    assert nusd == [60_000, 100 * 10_000 + 50 * 20_000, 0, 100 * 1_000 + 50 * 2_000]


def test_parts_sum_to_the_total_and_idle_is_the_hours_less_busy_and_wasted() -> None:
    ledger = [{"cost_nusd": 2_360_000, "cost_wasted_nusd": 40_000}]
    found = figures(driven(REPLIES, ledger), GPU, None, Bootstrap(REQUESTS, 0, 50), ("texts",))
    parts = found.parts
    assert parts.gpu_busy_usd == pytest.approx(60_000 / 1e9 / 4 * 1000)
    hours_usd = 0.36 * 36 / 3600 / 4 * 1000
    assert parts.gpu_busy_usd + parts.gpu_idle_usd + parts.wasted_usd == pytest.approx(hours_usd)
    assert parts.wasted_usd == pytest.approx(40_000 / 1e9 / 4 * 1000)
    assert found.total.value == pytest.approx(parts.total_usd)
    assert found.total.low <= found.total.value <= found.total.high
    assert found.counted_nusd == 2_000_000 + 60_000 + 200_000 + 40_000
    assert found.ledger_nusd == 2_360_000


def test_a_gpu_costs_its_hours_even_where_its_tokens_are_priced_above_them() -> None:
    cheap = replace(GPU, usd_per_hour=0.001)  # its rate card is the judge's, as dear as ever
    found = figures(driven([REPLIES[0]] * 4, []), cheap, None, Bootstrap(REQUESTS, 0, 50), ())
    assert found.parts.gpu_idle_usd < 0
    assert found.total.value == pytest.approx(0.001 * 36 / 3600 / 4 * 1000)


def test_without_the_ledgers_rows_what_each_reply_was_told_to_have_wasted_counts() -> None:
    told = [replace(REPLIES[0], wasted_nusd=40_000), *REPLIES[1:]]
    parts = figures(driven(told, []), GPU, None, Bootstrap(REQUESTS, 0, 50), ()).parts
    assert parts.wasted_usd == pytest.approx(40_000 / 1e9 / 4 * 1000)


def test_shares_tokens_and_quality() -> None:
    found = figures(driven(REPLIES, []), GPU, None, Bootstrap(REQUESTS, 0, 50), ())
    assert found.shares == {"small": 0.25, "frontier": 0.25, "cache": 0.25, "cheap": 0.25}
    assert found.quality is not None
    assert found.quality.value == 0.75
    assert (found.input_tokens, found.output_tokens) == (300, 150)
    assert (found.cache_hits, found.wrong_cache_hits) == (1, 0)
    assert sum(sum(bucket.routes.values()) for bucket in found.timeline) == 4


def test_a_hit_that_answers_another_question_is_a_wrong_one_even_if_no_model_would_be_right() -> None:
    replies = [*REPLIES[:2], reply(2, "cache", "right c", cache="semantic"), REPLIES[3]]
    found = figures(driven(replies, []), GPU, None, Bootstrap(REQUESTS, 0, 50), ())
    assert found.wrong_cache_hits == 1
    replies = [*REPLIES[:2], reply(2, "cache", "wrong a", cache="semantic"), REPLIES[3]]
    assert figures(driven(replies, []), GPU, None, Bootstrap(REQUESTS, 0, 50), ()).wrong_cache_hits == 0


def test_a_failed_request_costs_nothing_and_is_not_right() -> None:
    replies = [*REPLIES[:3], Reply("r3", 3.0, 1.0, error="status 500")]
    found = figures(driven(replies, []), GPU, None, Bootstrap(REQUESTS, 0, 50), ())
    assert found.failed == 1
    assert found.quality is not None
    assert found.quality.value == 0.5
    assert found.shares["failed"] == 0.25


def test_quality_kept_is_against_the_frontier_on_the_same_requests() -> None:
    frontier = [JUDGE.score(r, reply(i, "frontier", f"right {r.question}")) for i, r in enumerate(REQUESTS)]
    found = figures(driven(REPLIES, []), GPU, frontier, Bootstrap(REQUESTS, 0, 50), ())
    assert found.quality_kept is not None
    assert found.quality_kept.value == 0.75


def test_of_a_frontier_that_is_never_right_nothing_can_be_kept(recwarn: pytest.WarningsRecorder) -> None:
    frontier = [JUDGE.score(r, reply(i, "frontier", f"wrong {r.question}")) for i, r in enumerate(REQUESTS)]
    found = figures(driven(REPLIES, []), GPU, frontier, Bootstrap(REQUESTS, 0, 50), ())
    assert found.quality_kept is None and not recwarn.list


def test_all_that_asks_one_question_is_drawn_together() -> None:
    same = [request(i, "a") for i in range(4)]
    found = Bootstrap(same, 0, 100)
    assert set(found.sums(np.array([1.0, 0.0, 1.0, 0.0]))) == {2.0}


def test_a_row_without_a_gpu_has_no_idle_part() -> None:
    found = figures(driven([REPLIES[1]] * 4, [], gpus=0), GPU, None, Bootstrap(REQUESTS, 0, 50), ())
    assert found.parts.gpu_idle_usd == 0.0
