"""vast.ai's REST API: the dozen calls we need, their errors in our words, repeated only where that is safe.

A call that failed without an answer may have been executed. Reading, searching and destroying may be repeated then;
renting may not: nothing there is idempotent, so who rents looks by label before trying again. Knows no cluster, no
state. The key goes into one header and nowhere else.
"""

from __future__ import annotations

import contextlib
import json
import random
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from cluster.errors import (
    BadKey,
    BidTooLow,
    NoCredit,
    OfferGone,
    ProviderDown,
    ProviderError,
    Refused,
    SearchQuota,
    TooFast,
)
from cluster.vast_types import Charge, Instance, Offer, PriceIncrease
from models.errors import ConfigError

T = TypeVar("T")
BASE_URL = "https://console.vast.ai"
KEY_ENV = "VAST_API_KEY"
PAGE = 25
CHARGES_PAGE = 500
ATTEMPTS = 4
BASE_WAIT_S, LONGEST_WAIT_S = 1.0, 20.0
# Seconds between two calls of one kind, from the API reference's rate limits.
SPACING_S = {
    "search": 6.0,
    "rent": 4.5,
    "list": 1.0,
    "show": 2.0,
    "destroy": 3.0,
    "reboot": 1.0,
    "logs": 1.5,
    "charges": 1.0,
    "increases": 2.0,
    "user": 1.0,
}


def read_key(key_file: Path | None, environment: Mapping[str, str]) -> str:
    """The account key. Raises ConfigError when there is none, or when others could read its file."""
    if key_file is not None:
        key_file = key_file.expanduser()
        try:
            mode = key_file.stat().st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigError(f"{key_file} can be read by others; chmod 600 {key_file}", param="provider.key_file")
            key = key_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                f"cannot read the provider key {key_file}: {error.strerror}", param="provider.key_file"
            ) from error
    else:
        key = environment.get(KEY_ENV, "").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"no provider key: set {KEY_ENV}, or provider.key_file to a file of mode 0600")
    return key


class VastClient:
    """One account. Blocking; one thread. `spacing` stretches the documented pauses between calls, 0 removes them."""

    def __init__(
        self,
        key: str,
        url: str = BASE_URL,
        *,
        spacing: float = 1.0,
        timeout_s: float = 30.0,
        wait_s: float = BASE_WAIT_S,
    ) -> None:
        self._http = httpx2.Client(
            base_url=url,
            headers={"authorization": f"Bearer {key}", "accept": "application/json"},
            timeout=timeout_s,
            trust_env=False,  # a proxy of the environment would see the key
        )
        self._spacing, self._wait_s = spacing, wait_s
        self._last_s: dict[str, float] = {}
        self._ahead_s = time.time() - time.monotonic()  # of the provider's clock, by its answers

    def close(self) -> None:
        self._http.close()

    def now_s(self) -> float:
        """Unix time by the provider's clock, which is the one that bills. A clock that is set here does not move it."""
        return time.monotonic() + self._ahead_s

    @property
    def skew_s(self) -> float:
        """The provider's clock less ours."""
        return self.now_s() - time.time()

    def credit_usd(self) -> float:
        user = self._safe("user", "GET", "/api/v0/users/current/")
        found = user.get("credit", user.get("balance"))  # the reference says one, its schema the other
        return _read(float, found or 0)

    def search(self, query: Mapping[str, Any]) -> list[Offer]:
        """Reading only, though a POST. An offer that cannot be read is left out. Raises SearchQuota once the day's
        searches are used up."""
        offers = []
        for raw in self._safe("search", "POST", "/api/v0/bundles/", body=query).get("offers") or []:
            with contextlib.suppress(ProviderDown):
                offers.append(_read(Offer.read, raw))
        return offers

    def rent(self, offer_id: int, body: Mapping[str, Any]) -> int:
        """The new contract's id. Raises ProviderDown when it may or may not exist: look by label, do not repeat."""
        answer = self._patiently(lambda: self._call("rent", "PUT", f"/api/v0/asks/{offer_id}/", body), TooFast)
        if not answer.get("new_contract"):
            raise ProviderDown("the provider's answer to a rental names no contract")
        return _read(int, answer["new_contract"])  # its `instance_api_key` is dropped here: nothing of ours needs it

    def instances(self) -> list[Instance]:
        """All of the account, page by page. One listing may miss an instance: absence needs a second look."""
        found: dict[int, Instance] = {}
        for page in self._pages("list", "/api/v1/instances/", {"limit": str(PAGE)}):
            if "instances" not in page:  # else an answer to something else would say that nothing bills
                raise ProviderDown("the provider's listing has another shape than documented")
            found.update({i.contract_id: i for i in (_read(Instance.read, raw) for raw in page["instances"] or [])})
        return list(found.values())

    def instance(self, contract_id: int) -> Instance | None:
        """None when there is no such contract any more."""
        try:
            answer = self._safe("show", "GET", f"/api/v0/instances/{contract_id}/", query={"owner": "me"})
        except OfferGone:
            return None
        if "instances" not in answer:
            raise ProviderDown(f"the provider's answer about contract {contract_id} has another shape than documented")
        raw = answer["instances"]
        raw = raw[0] if isinstance(raw, list) and raw else raw
        return _read(Instance.read, raw) if isinstance(raw, dict) and raw.get("id") else None

    def destroy(self, contract_id: int) -> None:
        """Safe to repeat: a contract that is gone counts as destroyed."""
        try:
            self._safe("destroy", "DELETE", f"/api/v0/instances/{contract_id}/")
        except OfferGone:
            return

    def reboot(self, contract_id: int) -> None:
        self._safe("reboot", "PUT", f"/api/v0/instances/reboot/{contract_id}/", body={})

    def logs(self, contract_id: int, *, tail: int = 200, wait_s: float = 30.0) -> str:
        """The container's output. The provider uploads it to a storage URL, which appears after a while."""
        answer = self._safe("logs", "PUT", f"/api/v0/instances/request_logs/{contract_id}/", body={"tail": str(tail)})
        until_s = time.monotonic() + wait_s
        while url := answer.get("result_url"):
            # without our key: the storage is not the provider's API
            try:
                response = httpx2.get(str(url), timeout=10.0, trust_env=False)
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                raise ProviderDown(f"the logs cannot be fetched ({type(error).__name__})") from error
            if response.status_code == 200:
                return response.text
            if time.monotonic() > until_s:
                break
            time.sleep(min(1.0, self._wait_s))
        raise ProviderDown("the provider gave no logs of this instance")

    def charges(self, from_s: float, to_s: float) -> list[Charge]:
        """What was billed, by contract. Lags behind by hours, rounded to a tenth of a cent."""
        filters = {"day": {"gte": int(from_s), "lte": int(to_s)}, "type": {"in": ["instance"]}}
        query = {"select_filters": json.dumps(filters), "limit": str(CHARGES_PAGE)}
        pages = self._pages("charges", "/api/v0/charges/", query)
        return [_read(Charge.read, raw) for page in pages for raw in page.get("results") or []]

    def price_increases(self) -> list[PriceIncrease]:
        answer = self._safe("increases", "GET", "/api/v0/instances/pending-price-increases/")
        return [_read(PriceIncrease.read, raw) for raw in answer.get("pending_price_increases") or []]

    def _pages(self, kind: str, path: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Until there is no further token; one that comes twice would go on for ever. Raises ProviderDown."""
        token, seen = "", set[str]()
        while True:
            page = self._safe(kind, "GET", path, query={**query, **({"after_token": token} if token else {})})
            yield page
            token = str(page.get("next_token") or "")
            if not token:
                return
            if token in seen:
                raise ProviderDown(f"GET {path}: the provider's pages go round in circles")
            seen.add(token)

    def _safe(
        self,
        kind: str,
        verb: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """A call that may be executed twice."""
        return self._patiently(lambda: self._call(kind, verb, path, body, query), TooFast, ProviderDown)

    def _patiently(self, call: Callable[[], dict[str, Any]], *repeat: type[ProviderError]) -> dict[str, Any]:
        for wait_s in self._waits():
            try:
                return call()
            except repeat as error:
                time.sleep(min(error.retry_after_s or wait_s, LONGEST_WAIT_S) if self._wait_s else 0.0)
        return call()

    def _waits(self) -> Iterator[float]:
        for attempt in range(ATTEMPTS - 1):
            yield random.uniform(0.0, min(LONGEST_WAIT_S, self._wait_s * 2**attempt))

    def _call(
        self,
        kind: str,
        verb: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        self._keep_distance(kind)
        try:
            response = self._http.request(verb, path, json=body, params=query)
        except httpx2.HTTPError as error:
            # the class alone: a transport's message may quote the request
            raise ProviderDown(f"no answer from the provider to {verb} {path} ({type(error).__name__})") from error
        self._learn_clock(response)
        raise_for(response, f"{verb} {path}")
        try:
            answer = response.json()
        except ValueError as error:
            raise ProviderDown(f"{verb} {path}: the provider's answer is not JSON") from error
        if not isinstance(answer, dict):
            raise ProviderDown(f"{verb} {path}: the provider's answer has another shape than documented")
        return answer

    def _keep_distance(self, kind: str) -> None:
        due_s = self._last_s.get(kind, float("-inf")) + SPACING_S[kind] * self._spacing
        time.sleep(max(0.0, due_s - time.monotonic()))
        self._last_s[kind] = time.monotonic()

    def _learn_clock(self, response: httpx2.Response) -> None:
        try:
            theirs_s = parsedate_to_datetime(response.headers["date"]).timestamp()
        except (KeyError, ValueError):
            return
        if abs(theirs_s - self.now_s()) > 2.0:  # the header counts whole seconds
            self._ahead_s = theirs_s - time.monotonic()


def raise_for(response: httpx2.Response, what: str) -> None:
    """Translate by status first, then by the provider's own code. `success: false` in a 200 is an error as well."""
    answer = _json_of(response)
    status = response.status_code
    if status < 400 and answer.get("success", True) is not False:
        return
    code = str(answer.get("error") or "")
    text = str(answer.get("msg") or answer.get("message") or code or response.text or f"status {status}")
    said = f"{what}: the provider says: {' '.join(text.split())[:200]}"  # a page of HTML, from what stands between
    if answer.get("new_contract"):  # refused and rented all the same: seen with bids below the market
        raise BidTooLow(said, int(answer["new_contract"]))
    if "credit" in code or "credit" in text.lower() or status == 402:
        raise NoCredit(f"{said}. Add credit at vast.ai, then run the same command again")
    if code == "spend_rate_limit":  # what a new account may spend in an hour
        raise Refused(said)
    if status in (401, 403):
        raise BadKey(f"{said}. Check the key and its permissions (misc, user_read, instance_read, instance_write)")
    if status == 429 and "quota" in code:
        raise SearchQuota(f"{said}. Searches are counted per day and start anew at midnight UTC")
    if status == 429:
        raise TooFast(said, retry_after_s=_retry_after_s(response, answer))
    if status in (404, 410) or code in ("no_such_ask", "no_such_instance"):
        raise OfferGone(said)
    if status >= 500:
        raise ProviderDown(said)
    raise Refused(said)


def _read(how: Callable[[Any], T], raw: Any) -> T:
    """Raises ProviderDown: what cannot be read is asked for again, and nothing is concluded from it."""
    try:
        return how(raw)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise ProviderDown(f"the provider's answer has another shape than documented ({error!r})") from error


def _json_of(response: httpx2.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        return {}  # 429 comes as plain text
    return answer if isinstance(answer, dict) else {}


def _retry_after_s(response: httpx2.Response, answer: Mapping[str, Any]) -> float | None:
    raw = response.headers.get("retry-after") or answer.get("retry_after")
    try:
        return max(0.0, float(raw)) if raw else None
    except (ValueError, TypeError):
        return None
