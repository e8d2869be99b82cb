"""The provider's client against the fake: shapes, errors, what is repeated and what must not be."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import errors, vastai
from cluster.vastai import VastClient, read_key
from models.errors import ConfigError
from tests.cluster.fake_vast import KEY, Drop, FakeVast, Reply, offer

BODY: dict[str, Any] = {"image": "x", "label": "farthing:t:0:a", "disk": 20, "runtype": "args", "env": {}}


@pytest.fixture
def fake() -> Iterator[FakeVast]:
    with FakeVast() as server:
        server.add(offer(1), offer(2, usd=0.30), offer(3, usd=0.50))
        yield server


@pytest.fixture
def client(fake: FakeVast) -> VastClient:
    return VastClient(KEY, fake.url, spacing=0, wait_s=0)


def fail_once(fake: FakeVast, verb: str, error: Exception, when: str = "before") -> None:
    left = [error]

    def on_call(called: str, path: str, at: str) -> None:
        if called == verb and at == when and left:
            raise left.pop()

    fake.on_call = on_call


def test_offers_come_with_the_disk_in_their_price(client: VastClient) -> None:
    found = client.search({"gpu_name": {"in": ["RTX 4090"]}, "allocated_storage": 60, "type": "ondemand"})
    assert [o.offer_id for o in found] == [2, 1, 3]
    assert found[0].usd_per_hour == pytest.approx(0.30 + 60 * 0.15 / 720)


def test_a_rental_runs_and_ends(fake: FakeVast, client: VastClient) -> None:
    contract = client.rent(1, BODY)
    instance = client.instance(contract)
    assert instance is not None and instance.running and instance.host == "127.0.0.1"
    client.destroy(contract)
    client.destroy(contract)  # gone already: the same outcome
    assert client.instance(contract) is None and fake.standing() == []


def test_all_pages_are_read(fake: FakeVast, client: VastClient) -> None:
    fake.add(*[offer(100 + n) for n in range(60)])
    rented = {client.rent(100 + n, BODY) for n in range(60)}
    assert {i.contract_id for i in client.instances()} == rented


@pytest.mark.parametrize("error", [Drop(), Reply(503, "busy"), Reply(429, "API requests too frequent")])
@pytest.mark.parametrize("verb", ["GET", "DELETE"])
def test_what_is_safe_to_repeat_is_repeated(fake: FakeVast, client: VastClient, error: Exception, verb: str) -> None:
    contract = client.rent(1, BODY)
    fail_once(fake, verb, error)
    assert len(client.instances()) == 1
    client.destroy(contract)
    assert fake.standing() == []


@pytest.mark.parametrize(
    ("error", "when"), [(Drop(), "after"), (Reply(502, "bad gateway"), "after"), (Drop(), "before")]
)
def test_a_rental_without_an_answer_is_never_repeated(
    fake: FakeVast, client: VastClient, error: Exception, when: str
) -> None:
    fail_once(fake, "PUT", error, when)
    with pytest.raises(errors.ProviderDown):
        client.rent(1, BODY)
    assert fake.calls.count(("PUT", "/api/v0/asks/1/")) == 1
    assert len(fake.standing()) == (when == "after")


def test_a_rental_refused_for_haste_was_not_executed_and_is_repeated(fake: FakeVast, client: VastClient) -> None:
    fail_once(fake, "PUT", Reply(429, "API requests too frequent: endpoint threshold=4.5"))
    client.rent(1, BODY)
    assert len(fake.standing()) == 1


def test_an_offer_that_went_is_said_to_be_gone(client: VastClient) -> None:
    client.rent(1, BODY)
    with pytest.raises(errors.OfferGone):
        client.rent(1, BODY)


def test_a_low_bid_rents_all_the_same_and_the_error_says_which(fake: FakeVast, client: VastClient) -> None:
    with pytest.raises(errors.BidTooLow) as caught:
        client.rent(1, {**BODY, "price": 0.01})
    assert [c.id for c in fake.standing()] == [caught.value.contract_id]


def test_the_days_searches_run_out(fake: FakeVast, client: VastClient) -> None:
    fake.search_quota = 0
    with pytest.raises(errors.SearchQuota, match="midnight"):
        client.search({})
    assert fake.searches == 1  # repeating would not help


def test_no_credit_and_a_bad_key_have_names_of_their_own(fake: FakeVast, client: VastClient) -> None:
    fake.credit_usd = 0
    assert client.credit_usd() == 0
    with pytest.raises(errors.NoCredit):
        client.rent(1, BODY)
    with pytest.raises(errors.BadKey):
        VastClient("wrong", fake.url, spacing=0, wait_s=0).instances()


def test_a_new_accounts_limit_is_not_taken_for_a_bad_key(fake: FakeVast, client: VastClient) -> None:
    fail_once(fake, "PUT", Reply(403, {"success": False, "error": "spend_rate_limit", "msg": "limit for new accounts"}))
    with pytest.raises(errors.Refused, match="new accounts"):
        client.rent(1, BODY)


@pytest.mark.parametrize(
    "change", [{"env": "-e A=1"}, {"env": {"A": "x" * 257}}, {"args": ["x" * 4097]}, {"runtype": "docker"}, {"disk": 4}]
)
def test_the_provider_refuses_what_it_documents_as_wrong(client: VastClient, change: dict[str, Any]) -> None:
    with pytest.raises(errors.Refused):
        client.rent(1, BODY | change)


def test_logs_are_waited_for(fake: FakeVast, client: VastClient) -> None:
    contract = client.rent(1, BODY)
    fake.logs[contract] = "farthing-bootstrap: ready"
    assert client.logs(contract) == "farthing-bootstrap: ready"


def test_charges_name_the_contract_and_its_label(fake: FakeVast, client: VastClient) -> None:
    fake.speed = 3600 * 50
    contract = client.rent(1, BODY)
    client.instances()
    (charge,) = client.charges(0, 2e9)
    assert (charge.contract_id, charge.label) == (contract, BODY["label"])
    assert charge.amount_usd == pytest.approx(sum(charge.by_kind_usd.values()), abs=0.002)


def test_the_providers_clock_is_learnt(fake: FakeVast, client: VastClient) -> None:
    fake.skew_s = 86_400
    client.instances()
    assert client.skew_s == pytest.approx(86_400, abs=3)


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
def test_a_clock_that_is_set_here_moves_no_limit(
    fake: FakeVast, client: VastClient, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    """In the middle of a look: a box would be too slow to boot, or an hour billed twice."""
    client.instances()
    before_s, real = client.now_s(), time.time
    with monkeypatch.context() as patch:
        patch.setattr(vastai.time, "time", lambda: real() + step_s)
        assert client.now_s() == pytest.approx(before_s, abs=30)
        assert client.skew_s == pytest.approx(-step_s, abs=30)


def test_the_key_comes_from_a_private_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("abc\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_key(file, {})
    file.chmod(0o600)
    assert read_key(file, {}) == "abc"
    assert read_key(None, {"VAST_API_KEY": "def"}) == "def"
    for nothing in ({}, {"VAST_API_KEY": "two words"}, {"VAST_API_KEY": "ключ"}):
        with pytest.raises(ConfigError, match="VAST_API_KEY"):
            read_key(None, nothing)


def test_the_key_is_in_no_error_and_no_log(fake: FakeVast, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = VastClient("s3cret-key", fake.url, spacing=0, wait_s=0)
    with pytest.raises(errors.BadKey) as refused:
        client.instances()
    gone = VastClient("s3cret-key", "http://127.0.0.1:9", spacing=0, wait_s=0)
    with pytest.raises(errors.ProviderDown) as unreachable:
        gone.instances()
    assert "s3cret" not in f"{refused.value!r} {unreachable.value!r} {caplog.text}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"dph_total": float("nan")},
        {"dph_total": -0.4},
        {"dph_total": 0},
        {"dph_total": None},
        {"storage_cost": -9.0},
        {"inet_down_cost": "much"},
        {"machine_id": None},
    ],
)
def test_an_offer_that_cannot_be_one_is_left_out(fake: FakeVast, client: VastClient, wrong: dict[str, Any]) -> None:
    good = offer(1) | {"a field of next year": {"x": [1]}}
    fake.on_call = answering("bundles", {"offers": [offer(2) | wrong, "no offer", good]})
    assert [o.offer_id for o in client.search({})] == [1]


def test_thousands_of_offers_are_read(fake: FakeVast, client: VastClient) -> None:
    fake.on_call = answering("bundles", {"offers": [offer(n) for n in range(5000)]})
    assert len(client.search({})) == 5000


def test_an_instance_listed_twice_is_one(fake: FakeVast, client: VastClient) -> None:
    contract = client.rent(1, BODY)
    row = fake._shown(fake.contracts[contract])
    fake.on_call = answering("instances", {"success": True, "instances": [row, row], "next_token": None})
    assert [i.contract_id for i in client.instances()] == [contract]


@pytest.mark.parametrize("price", [float("nan"), float("inf"), -1.0, "free", None])
def test_an_instance_at_an_impossible_price_is_there_all_the_same(
    fake: FakeVast, client: VastClient, price: Any
) -> None:
    row = fake._shown(fake.contracts[client.rent(1, BODY)]) | {"dph_total": price, "gpu_util": "n/a"}
    fake.on_call = answering("instances", {"instances": [row]})
    (instance,) = client.instances()
    assert (instance.usd_per_hour, instance.gpu_util) == (0.0, None)


HTML = "<html>\n<head><title>Just a moment...</title></head>\n<body>" + "x" * 9000 + "</body>\n</html>"


@pytest.mark.parametrize("body", [HTML, {"success": True}, {"instances": ["x"]}, {"instances": [{"id": None}]}])
def test_what_is_no_listing_never_says_that_nothing_bills(fake: FakeVast, client: VastClient, body: Any) -> None:
    contract = client.rent(1, BODY)
    fake.on_call = answering("instances", body)
    with pytest.raises(errors.ProviderDown):
        client.instances()
    if body in (HTML, {"success": True}):
        with pytest.raises(errors.ProviderDown):
            client.instance(contract)


def test_pages_that_go_round_in_circles_end(fake: FakeVast, client: VastClient) -> None:
    fake.on_call = answering("", {"instances": [], "results": [], "next_token": "again"})
    for ask in (client.instances, lambda: client.charges(0, 1)):
        with pytest.raises(errors.ProviderDown, match="circles"):
            ask()


def test_a_page_of_html_is_told_in_one_short_line(fake: FakeVast, client: VastClient) -> None:
    fake.on_call = answering("instances", HTML, 503)
    with pytest.raises(errors.ProviderDown) as caught:
        client.instances()
    assert "\n" not in caught.value.message and len(caught.value.message) < 300


def answering(part: str, body: Any, status: int = 200) -> Any:
    def on_call(verb: str, path: str, at: str) -> None:
        if part in path:
            raise Reply(status, body)

    return on_call
