from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BadRequest
from serving.ledger import costs, maintain
from serving.ledger.costs import Alternative, Gpu, Line, parse_since, render, report, usd
from serving.ledger.keys import add, all_keys
from serving.ledger.row import Row
from serving.ledger.store import Store, epoch_ms

HOUR_MS = 3_600_000
Put = Callable[..., set[str]]


def row(name: str, at_ms: int = 1_000, **parts: object) -> Row:
    return Row(request_id=name, at_ms=at_ms, **parts)  # type: ignore[arg-type]


def command(store: Store, *words: str) -> int:
    parser = argparse.ArgumentParser()
    costs.add_arguments(parser)
    return costs.run(parser.parse_args(words), store)


def test_sums_are_those_of_the_rows(store: Store, put: Put) -> None:
    big = 2**61
    rows = [
        row(
            "a",
            status="answered",
            route="small",
            cost_nusd=big,
            input_tokens=10,
            output_tokens=3,
            all_frontier_nusd=big,
        ),
        row("b", status="answered", route="small", cost_nusd=big, input_tokens=20, all_frontier_nusd=big),
        row(
            "c",
            status="answered",
            route="frontier",
            cost_nusd=7,
            billed_nusd=5,
            cached_input_tokens=4,
            all_frontier_nusd=9,
        ),
        row("d", status="cached", route="cache", all_frontier_nusd=11),
        row("e", status="failed", cost_nusd=2, billed_nusd=2),
        row("later", at_ms=2_000, status="answered", route="small", cost_nusd=1),
    ]
    put(*rows)
    costs_ = report(store, 1_000, 2_000)
    assert costs_.routes == {
        "small": Line(2, 30, 0, 3, 2 * big, 0),
        "frontier": Line(1, 0, 4, 0, 7, 5),
        "cache": Line(1, 0, 0, 0, 0, 0),
        "none": Line(1, 0, 0, 0, 2, 2),
    }
    assert next(iter(costs_.routes)) == "small"
    assert costs_.total == Line(5, 30, 4, 3, 2 * big + 9, 7)
    assert costs_.statuses == {"answered": 3, "cached": 1, "failed": 1}
    assert costs_.all_frontier == Alternative(4, 2 * big + 7, 2 * big + 20)
    assert costs_.all_cheapest is None
    assert costs_.gpu is None
    assert costs_.spent_nusd == 2 * big + 9


def test_what_each_route_answered_on_each_day(store: Store, put: Put) -> None:
    day_ms = 24 * HOUR_MS
    put(
        row("a", at_ms=day_ms - 1, status="answered", route="small"),
        row("b", at_ms=day_ms, status="answered", route="small", input_tokens=3),
        row("c", at_ms=day_ms + 1, status="coalesced", route="small", input_tokens=4),
        row("d", at_ms=day_ms + 2, status="failed", route="small", input_tokens=5),
        row("e", at_ms=2 * day_ms - 1, status="cached", route="cache"),
    )
    found = report(store, 0, 3 * day_ms)
    assert found.answered_by_day == {"1970-01-01": {"small": 1}, "1970-01-02": {"small": 2, "cache": 1}}
    assert found.routes["small"] == Line(4, 12, 0, 0, 0, 0)


def test_one_tenant(store: Store, put: Put) -> None:
    put(row("a", tenant="t", cost_nusd=1), row("b", tenant="u", cost_nusd=2))
    store.extend_uptime("small/0", 0, HOUR_MS, 100)
    mine = report(store, 0, HOUR_MS, "t")
    assert mine.total == Line(1, 0, 0, 0, 1, 0)
    assert mine.gpu is None
    assert "not shared out by tenant" in render(mine)


def test_gpu_time_is_cut_to_the_window_and_idle_is_the_rest(store: Store, put: Put) -> None:
    """Engine 0 ran from before the window into it, engine 1 from within to after, engine 2 outside."""
    put(
        row("a", at_ms=5 * HOUR_MS, route="small", cost_nusd=30),
        row("b", at_ms=5 * HOUR_MS, cost_nusd=9, billed_nusd=9),
    )
    store.extend_uptime("small/0", HOUR_MS, 5 * HOUR_MS, 100)
    store.extend_uptime("small/0", HOUR_MS, 6 * HOUR_MS, 100)
    store.extend_uptime("small/1", 7 * HOUR_MS + HOUR_MS // 2, 9 * HOUR_MS, 100)
    store.extend_uptime("small/2", 0, 4 * HOUR_MS, 1_000_000)
    within = report(store, 4 * HOUR_MS, 8 * HOUR_MS)
    assert within.gpu == Gpu(paid_nusd=250, used_nusd=30, idle_nusd=220)
    assert within.spent_nusd == 39 + 220
    assert report(store, 9 * HOUR_MS, 10 * HOUR_MS).gpu is None


def test_the_report_says_what_is_not_known(store: Store, put: Put) -> None:
    put(row("a", status="answered", route="small", cost_nusd=10**7, all_frontier_nusd=10**9), row("b", route="small"))
    text = render(report(store, 0, 2_000))
    assert "no hosted tier configured" in text
    assert "no engine ran" in text
    assert "$1.000000 for the same tokens over 1 of the requests: saved $0.990000 (99.0%)" in text
    assert "answered 1, lost 1" in text


def test_the_report_admits_when_the_gpu_was_dearer(store: Store, put: Put) -> None:
    put(row("a", route="small", cost_nusd=10, all_frontier_nusd=10**9, all_cheapest_nusd=10**6))
    store.extend_uptime("small/0", 0, HOUR_MS, 2 * 10**9)
    text = render(report(store, 0, HOUR_MS))
    assert "all-frontier   $1.000000 for the same tokens: $1.000000 dearer here (100.0%)" in text
    assert "idle $2.000000" in text


def test_a_rate_card_above_the_price_of_the_machine_shows(store: Store, put: Put) -> None:
    put(row("a", route="small", cost_nusd=10**9))
    store.extend_uptime("small/0", 0, HOUR_MS, 10**8)
    assert "negative: the price per token is above" in render(report(store, 0, HOUR_MS))


def test_nothing_to_report(store: Store) -> None:
    empty = report(store, 0, 1)
    assert empty.total == Line()
    assert "no requests" in render(empty)


def test_the_command_prints_for_people_and_for_machines(
    store: Store, put: Put, capsys: pytest.CaptureFixture[str]
) -> None:
    put(row("a", at_ms=epoch_ms() - 1_000, route="small", cost_nusd=123), row("b", at_ms=epoch_ms() - 2 * HOUR_MS))
    assert command(store, "--since", "1h") == 0
    assert "small" in capsys.readouterr().out
    assert command(store, "--since", "1h", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["total"]["requests"] == 1
    assert data["routes"]["small"]["cost_nusd"] == data["spent_nusd"] == 123


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("90s", -90_000),
        ("30m", -1_800_000),
        ("1h", -HOUR_MS),
        ("7d", -7 * 24 * HOUR_MS),
        ("2w", -14 * 24 * HOUR_MS),
    ],
)
def test_since_an_age(text: str, ms: int) -> None:
    assert parse_since(text, 10**13) == 10**13 + ms


def test_since_a_date_or_time() -> None:
    midnight_ms = int(datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC).timestamp() * 1000)
    assert parse_since("2026-11-01", 0) == midnight_ms
    assert parse_since("2026-11-01T02:00+01:00", 0) == midnight_ms + HOUR_MS
    with pytest.raises(BadRequest, match="write 1h, 7d or 2026-11-01"):
        parse_since("yesterday", 0)


@given(st.integers(-(10**18), 10**18))
def test_money_is_shown_to_half_a_micro_dollar(nusd: int) -> None:
    shown = usd(nusd)
    assert abs(round(float(shown.replace("$", "").replace(",", "")) * 10**6) - nusd / 1000) <= max(
        0.5, abs(nusd) * 1e-15
    )
    assert shown.startswith("-$" if nusd < 0 else "$")


def test_maintenance_commands(store: Store, put: Put, capsys: pytest.CaptureFixture[str]) -> None:
    now_ms = epoch_ms()
    put(row("old", at_ms=now_ms - 100 * 24 * HOUR_MS), row("t", at_ms=now_ms, tenant="t"), row("u", at_ms=now_ms))
    add(store, "t")
    parser = argparse.ArgumentParser()
    maintain.add_arguments(parser)
    for words, said in ((["migrate"], ""), (["retain", "30"], "1 requests"), (["delete-tenant", "t"], "1 requests")):
        assert maintain.run(parser.parse_args(words), store) == 0
        assert said in capsys.readouterr().out
    assert report(store, 0, now_ms + 1).total.requests == 1
    assert all_keys(store) == []
