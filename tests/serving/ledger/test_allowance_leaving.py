"""Who leaves while its allowance is asked for."""

from __future__ import annotations

import asyncio

from serving.ledger.allowance import Admission
from serving.ledger.grants import Lease, LeaseRequest
from tests.serving.ledger.test_allowance import World, key


async def test_who_leaves_while_asking_for_all_takes_nobody_along() -> None:
    world = World()
    replica, limited = world.replica(), key(requests_per_minute=10)
    may = asyncio.Semaphore(0)
    answer = world.transport

    async def slowly(request: LeaseRequest) -> Lease:
        await may.acquire()
        return await answer(request)

    replica._transport = slowly
    first = asyncio.create_task(replica.admit(limited))
    await asyncio.sleep(0.01)
    others = [asyncio.create_task(replica.admit(limited)) for _ in range(3)]
    await asyncio.sleep(0.01)
    may.release()
    await first
    await asyncio.sleep(0.01)  # the second asks for the other two as well
    others[0].cancel()
    await asyncio.sleep(0.01)
    may.release()
    may.release()
    ended = await asyncio.gather(*others, return_exceptions=True)
    assert [type(end) for end in ended] == [asyncio.CancelledError, Admission, Admission]
