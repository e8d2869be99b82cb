"""A gateway replica's side of allowances: may this request start, may it spend this much?

Answers from its leases when they suffice, and asks the ledger process (`grants.py`) when they do not. Knows no
transport: it is given a callable. While the ledger cannot be reached, limited money is refused and rates are let pass.

How far two replicas can overspend together: by what single requests are billed above what was reserved for them, no
more. `settle` must come after the journal's `close`: until the ledger has read that line the money counts as held here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from models.errors import BudgetExceeded, FarthingError, RateLimited
from serving.ledger.grants import LEASE_TTL_S, NOTHING, Amounts, Ask, Budgets, Grant, Lease, LeaseRequest
from serving.ledger.keys import ApiKey
from serving.ledger.store import DAY_MS, epoch_ms

Transport = Callable[[LeaseRequest], Awaitable[Lease]]
_REFUSAL_S = 0.1  # a refused key is not asked for again sooner: a storm of refusals must not reach the ledger
_DOWN_S = 1.0  # nor is a ledger that did not answer
_FORGET_S = 60.0  # an account with nothing in it

log = logging.getLogger(__name__)


class LedgerUnreachable(FarthingError):
    """What a transport raises when the ledger process did not answer. Never reaches a caller."""

    http_status = 503
    code = "ledger_unreachable"


class CannotReserve(BudgetExceeded):
    """There may be money, but nobody can say so now."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A limit as a caller may see it, for `x-ratelimit-*` headers: `name` is requests, tokens or nusd."""

    name: str
    limit: int
    left: int
    reset_s: float


@dataclass(slots=True, eq=False)
class _Account:
    """What this replica has for one key: leased and free, in use, settled but perhaps not read by the ledger yet."""

    key: ApiKey
    free: Amounts = NOTHING
    used: Amounts = NOTHING
    unread: deque[tuple[int, int]] = field(default_factory=deque)  # (settled at, epoch ms; nano-USD)
    want: Amounts = NOTHING  # not yet sent
    grant: Grant = field(default_factory=Grant)
    clean: bool = True  # the ledger knows that nothing is held
    heard_s: float = float("-inf")
    touched_s: float = 0.0
    refused_until_s: float = 0.0

    def take(self, need: Amounts, now_s: float) -> bool:
        self._expire(now_s)
        self.touched_s = now_s
        if not self.free.covers(need):
            return False
        self.free = self.free.minus(need)
        return True

    def state(self, now_s: float) -> Ask:
        """All this account holds, with what is wanted; what has lain idle is handed back. Requests and tokens are not
        held but owned, so a debt of tokens is told like a return."""
        self._expire(now_s)
        idle = now_s - self.touched_s > LEASE_TTL_S
        back = Amounts(
            requests=self.free.requests if idle else 0,
            tokens=self.free.tokens if idle else min(0, self.free.tokens),
        )
        self.free = NOTHING if idle else self.free.minus(back)
        ask = Ask(self.key.id, self.key.tenant, self.key.limits, self.held, back, self.want)
        self.want, self.clean = NOTHING, False
        return ask

    def hear(self, grant: Grant, ingested_ms: int, asked_s: float, refused: bool) -> None:
        self.grant, self.heard_s = grant, asked_s
        self.clean = not any(self.held) and not any(grant.granted)
        self.free = self.free.plus(grant.granted)
        self.refused_until_s = asked_s + _REFUSAL_S if refused else 0.0
        while self.unread and self.unread[0][0] < ingested_ms:
            self.unread.popleft()

    @property
    def held(self) -> Amounts:
        unread_nusd = sum(nusd for _, nusd in self.unread)
        return Amounts(self.free.nusd + self.used.nusd + unread_nusd, self.free.parallel + self.used.parallel)

    @property
    def speaks(self) -> bool:
        """Whether the ledger has to hear of it."""
        return not self.clean or any(self.held) or any(self.free) or any(self.want)

    def _expire(self, now_s: float) -> None:
        if now_s - self.heard_s > LEASE_TTL_S:
            self.free = self.free._replace(nusd=0, parallel=0)


@dataclass(slots=True)
class Admission:
    """A request that may run; hand it to `leave` when it has ended."""

    account: _Account | None
    took: Amounts = NOTHING


@dataclass(slots=True)
class Reservation:
    """Money put aside for one call; hand it to `settle` whatever comes of the call."""

    account: _Account | None
    nusd: int = 0


class Allowance:
    """One per gateway replica; `replica` is its journal's `owner`. Run `keep` as a task beside it."""

    def __init__(
        self,
        replica: str,
        transport: Transport,
        budgets: Budgets,
        *,
        timeout_s: float = 1.0,
        clock_s: Callable[[], float] = time.monotonic,
        clock_ms: Callable[[], int] = epoch_ms,
    ) -> None:
        self._replica = replica
        self._transport = transport
        self._budgets = budgets
        self._timeout_s = timeout_s
        self._clock_s, self._clock_ms = clock_s, clock_ms
        self._accounts: dict[str, _Account] = {}
        self._numbers = itertools.count(1)
        self._exchanging = asyncio.Lock()
        self._down_until_s = 0.0
        self._returns = asyncio.Event()

    async def admit(self, key: ApiKey, tokens: int = 0) -> Admission:
        """Let a request start, its prompt counted as `tokens`. Raises RateLimited with when to come again."""
        limits = key.limits
        need = Amounts(
            parallel=0 if limits.max_parallel is None else 1,
            requests=0 if limits.requests_per_minute is None else 1,
            tokens=0 if limits.tokens_per_minute is None else max(1, tokens),
        )
        if not any(need):
            return Admission(None)
        if limits.tokens_per_minute is not None and need.tokens > limits.tokens_per_minute:
            raise RateLimited(
                f"the prompt has about {need.tokens} tokens and this key may use {limits.tokens_per_minute} a minute: "
                "shorten it or ask for a key with a higher limit"
            )
        account = self._account(key)
        try:
            grant = await self._obtain(account, need)
        except LedgerUnreachable:
            need = need._replace(requests=0, tokens=0)
            grant = None
        if grant is not None:
            raise _rate_limited(account, need, grant)
        account.used = account.used._replace(parallel=account.used.parallel + need.parallel)
        return Admission(account, need)

    def leave(self, admission: Admission, tokens: int | None = None) -> None:
        """The request has ended, having used so many tokens in all; None leaves the estimate as it was."""
        account, took = admission.account, admission.took
        if account is None:
            return
        admission.account = None
        account.used = account.used._replace(parallel=account.used.parallel - took.parallel)
        if took.tokens and tokens is not None:
            account.free = account.free._replace(tokens=account.free.tokens + took.tokens - tokens)
        if took.parallel:
            self._returns.set()  # another replica may wait for the slot

    async def reserve(self, key: ApiKey, nusd: int) -> Reservation:
        """Put aside what a call to a hosted model may cost at most. Raises BudgetExceeded when a budget is used up,
        and its child CannotReserve while the ledger is not there to say."""
        if not self.limited(key):
            return Reservation(None)
        account = self._account(key)
        need = Amounts(nusd=max(1, nusd))
        try:
            grant = await self._obtain(account, need)
        except LedgerUnreachable as exc:
            raise CannotReserve(
                "the budget cannot be checked now, so no paid model is asked; try again in some seconds",
                retry_after_s=2.0,
            ) from exc
        if grant is not None:
            raise _over_budget(grant)
        account.used = account.used.plus(need)
        return Reservation(account, need.nusd)

    def affords(self, key: ApiKey, nusd: int) -> bool:
        """Whether a `reserve` of so much may succeed, by what was last heard. Asks nobody."""
        account = self._accounts.get(key.id)
        if account is None or account.heard_s == float("-inf"):
            return True
        return account.free.nusd + account.grant.left.nusd >= max(1, nusd)

    def settle(self, reservation: Reservation, nusd: int) -> None:
        """Replace the reserved by what the provider bills, 0 if nothing. After the row's `close` is in the journal."""
        account = reservation.account
        if account is None:
            return
        reservation.account = None
        account.used = account.used._replace(nusd=account.used.nusd - reservation.nusd)
        account.free = account.free._replace(nusd=max(0, account.free.nusd + reservation.nusd - nusd))
        if nusd:
            account.unread.append((self._clock_ms(), nusd))

    def standing(self, key: ApiKey) -> list[Standing]:
        """The key's own limits as last heard of."""
        account = self._accounts.get(key.id) or _Account(key)
        left = account.grant.left.plus(account.free)
        known = account.heard_s > float("-inf")
        now_ms = self._clock_ms()
        standings = []
        for name, limit in (("requests", key.limits.requests_per_minute), ("tokens", key.limits.tokens_per_minute)):
            if limit is not None:
                there = min(limit, max(0, getattr(left, name))) if known else limit
                standings.append(Standing(name, limit, there, (limit - there) * 60 / limit))
        if (limit := key.limits.nusd_per_day) is not None:
            reset_s = (DAY_MS - now_ms % DAY_MS) / 1000
            standings.append(Standing("nusd", limit, min(limit, max(0, left.nusd)) if known else limit, reset_s))
        return standings

    async def keep(self) -> None:
        """Tell the ledger what is held, in good time before leases run out and when a slot came free. Runs for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEASE_TTL_S / 3):
                    await self._returns.wait()
            await asyncio.sleep(0.02)  # slots that come free together are told together
            self._returns.clear()
            try:
                await self.report()
            except LedgerUnreachable as exc:
                log.warning("%s; limited money is refused, rates are let pass", exc.message)

    async def report(self) -> None:
        """State what is held and hand back what has lain idle. Raises LedgerUnreachable."""
        async with self._exchanging:
            await self._exchange([account for account in self._accounts.values() if account.speaks], whole=True)
        gone_s = self._clock_s() - _FORGET_S
        for key_id in [i for i, a in self._accounts.items() if a.touched_s < gone_s and not a.speaks]:
            del self._accounts[key_id]

    async def _obtain(self, account: _Account, need: Amounts) -> Grant | None:
        """Take from the lease, or get more first. Returns the answer that refused it, or None when it was taken.

        One exchange runs at a time; those who wait for it meanwhile are served together by the next.
        """
        now_s = self._clock_s()
        if account.take(need, now_s):
            return None
        if now_s < account.refused_until_s:
            return account.grant
        account.want = account.want.plus(need)
        async with self._exchanging:
            if any(account.want):  # else one of those before has asked for this, too
                await self._exchange([a for a in self._accounts.values() if any(a.want)])
        if account.take(need, now_s):
            return None
        if self._clock_s() < self._down_until_s:
            raise LedgerUnreachable("the ledger did not answer")
        account.touched_s = float("-inf")  # what was granted in part goes back with the next report
        self._returns.set()
        return account.grant

    async def _exchange(self, accounts: list[_Account], *, whole: bool = False) -> None:
        now_s = self._clock_s()
        if now_s < self._down_until_s:
            for account in accounts:
                account.want = NOTHING
            raise LedgerUnreachable("the ledger did not answer a moment ago")
        wants = [account.want for account in accounts]
        asks = tuple(account.state(now_s) for account in accounts)
        try:
            async with asyncio.timeout(self._timeout_s):
                lease = await self._transport(LeaseRequest(self._replica, next(self._numbers), asks, whole))
        except (LedgerUnreachable, TimeoutError) as exc:
            self._down_until_s = self._clock_s() + _DOWN_S
            raise LedgerUnreachable(f"the ledger did not answer: {exc or 'timeout'}") from exc
        except BaseException:  # who asked for all has left: the next of those who wait asks again
            for account, want in zip(accounts, wants, strict=True):
                account.want = account.want.plus(want)
            raise
        for account, want, grant in zip(accounts, wants, lease.grants, strict=True):
            account.hear(grant, lease.ingested_ms, now_s, refused=not grant.granted.covers(want))

    def _account(self, key: ApiKey) -> _Account:
        """The key's account; a key whose limits were changed by hand in the database keeps it."""
        account = self._accounts.setdefault(key.id, _Account(key))
        account.key = key
        return account

    def limited(self, key: ApiKey) -> bool:
        """Whether any budget holds for what it spends."""
        return bool(self._budgets.limits(key.id, key.tenant, key.limits.nusd_per_day))


def _rate_limited(account: _Account, need: Amounts, grant: Grant) -> RateLimited:
    limits = account.key.limits
    if account.free.parallel < need.parallel:
        text = f"this key may have {limits.max_parallel} requests at a time: wait for one to end"
        return RateLimited(text, retry_after_s=1.0)
    wait_s = max(1.0, grant.retry_after_s)
    if account.free.requests < need.requests:
        text = f"this key may send {limits.requests_per_minute} requests a minute: try again in {wait_s:.0f} s"
    else:
        text = f"this key may use {limits.tokens_per_minute} tokens a minute: try again in {wait_s:.0f} s"
    return RateLimited(text, retry_after_s=wait_s)


def _over_budget(grant: Grant) -> BudgetExceeded:
    wait_s = max(1.0, grant.retry_after_s)
    if grant.blocked_by == "restart":
        return CannotReserve(
            f"the ledger has just started and is collecting what is in flight: try again in {wait_s:.0f} s",
            retry_after_s=wait_s,
        )
    whose = {"key": "this key's", "tenant": "the tenant's", "deployment": "the deployment's"}.get(
        grant.blocked_by, "the"
    )
    return BudgetExceeded(
        f"{whose} budget of the day for hosted models does not cover this request; days begin at 00:00 UTC: raise the "
        "budget, lower max_tokens, or ask for a local tier",
        retry_after_s=wait_s,
    )
