"""Prompts and answers are kept when asked for, redacted on every path, and gone when they should be."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError
from sqlalchemy import select

from models.errors import Unavailable
from models.fake import FakeBackend, Step
from serving.ledger import export, keys, texts
from serving.ledger.schema import texts as table
from serving.ledger.store import Store, epoch_ms
from serving.ledger.texts import Kept
from serving.texts.settings import Texts
from serving.wire.options import Options
from tests.serving.conftest import Running, Setup, running

ASKED = "Write to jane.doe@example.org about card 4111 1111 1111 1111."
ANSWER = "I wrote to jane.doe@example.org and to +49 30 1234567 ."
SECRETS = (b"jane.doe", b"4111", b"1234567")


@pytest.fixture
def keeping(setup: Setup) -> Setup:
    setup.texts = Texts(enabled=True)
    setup.small = FakeBackend("small/0", "tiny", script=[Step(text=ANSWER)])
    return setup


async def kept(gateway: Running, count: int | None = None) -> list[dict[str, Any]]:
    """All texts, oldest first, once they are written."""
    await gateway.rows(count)
    await gateway.texts.flush()
    with gateway.store.read() as connection:
        return [dict(row) for row in connection.execute(select(table).order_by(table.c.at_ms)).mappings()]


def nothing_unredacted_on_disk(folder: Path) -> None:
    """In no file of the instance but the answer cache, whose entries are the answers themselves."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("cache.db"):
            data = path.read_bytes()
            assert not [secret for secret in SECRETS if secret in data], path.name


async def test_off_by_default(setup: Setup) -> None:
    async with running(setup) as gateway:
        await gateway.ask(ASKED)
        assert await kept(gateway, 1) == []
    nothing_unredacted_on_disk(setup.folder)


async def test_a_unary_answer(keeping: Setup) -> None:
    async with running(keeping) as gateway:
        response, _ = await gateway.ask(ASKED)
        (one,) = await kept(gateway, 1)
    assert one["request_id"] == response.headers.get("x-request-id", one["request_id"])
    assert one["messages"] == [{"role": "user", "content": "Write to [EMAIL] about card [CARD]."}]
    assert one["answer"] == "I wrote to [EMAIL] and to [PHONE] ."
    assert (one["tenant"], one["tools"]) == ("default", False)
    nothing_unredacted_on_disk(keeping.folder)


async def test_a_stream_is_put_together_before_it_is_redacted(keeping: Setup) -> None:
    async with running(keeping) as gateway:
        _, events = await gateway.stream(ASKED)
        (one,) = await kept(gateway, 1)
    assert events.count(b"data:") > 5 and b"+49 30 1234567" not in events  # no chunk holds all of the number
    assert one["answer"] == "I wrote to [EMAIL] and to [PHONE] ."
    nothing_unredacted_on_disk(keeping.folder)


async def test_a_cached_answer_is_not_kept_twice(keeping: Setup) -> None:
    async with running(keeping) as gateway:
        for _ in range(2):
            await gateway.ask(ASKED)
            await gateway.rows()
        rows = await gateway.rows(2)
        first, second = await kept(gateway)
    assert [row["status"] for row in rows] == ["answered", "cached"]
    assert rows[0]["cache_entry"] == rows[1]["cache_entry"] != ""  # where the answer is to be found
    assert first["answer"] and second["answer"] is None
    assert first["messages"] == second["messages"]
    nothing_unredacted_on_disk(keeping.folder)


async def test_a_shared_answer_is_not_kept_twice(keeping: Setup) -> None:
    keeping.small = FakeBackend("small/0", "tiny", script=[Step(text=ANSWER, delay_s=0.3)])
    async with running(keeping) as gateway:
        await asyncio.gather(*(gateway.ask(ASKED) for _ in range(3)))
        rows = await gateway.rows(3)
        found = await kept(gateway)
    assert sorted(row["status"] for row in rows) == ["answered", "coalesced", "coalesced"]
    assert len(found) == 3 and len([one for one in found if one["answer"]]) == 1
    nothing_unredacted_on_disk(keeping.folder)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_request_keeps_its_prompt(keeping: Setup, stream: bool) -> None:
    keeping.small = FakeBackend("small/0", "tiny", script=[Step(error=Unavailable("no"))])
    keeping.frontier = FakeBackend("frontier/0", "huge", script=[Step(text=ANSWER, cut_after=3)])
    async with running(keeping) as gateway:
        await (gateway.stream if stream else gateway.ask)(ASKED, model="frontier" if stream else "small")
        (row,) = await gateway.rows(1)
        (one,) = await kept(gateway)
    assert row["status"] == "failed"
    assert one["messages"] == [{"role": "user", "content": "Write to [EMAIL] about card [CARD]."}]
    assert one["answer"] is None
    nothing_unredacted_on_disk(keeping.folder)


async def test_a_prompt_of_which_a_part_is_token_ids_is_not_kept_and_breaks_no_export(keeping: Setup) -> None:
    async with running(keeping) as gateway:
        body = {"model": "small", "prompt": ["a word", [1, 2, 3]]}
        async with gateway.http.post(f"{gateway.url}/v1/completions", json=body) as response:
            await response.read()
        assert await kept(gateway, 1) == []
        (row,) = [orjson.loads(line) for line in export.lines(gateway.store, with_texts=True)]
    assert row["text"] is None


async def test_what_nobody_looked_at_is_neither_kept_nor_held(keeping: Setup) -> None:
    keeping.texts, heap = Texts(enabled=True, max_kib=1), "jane.doe@example.org" * 100
    parts = [{"type": "text", "text": "hello", "cache_control": heap}]
    messages = [{"role": "user", "content": parts, "tool_calls": [{"heap": heap}]}]
    async with running(keeping) as gateway:
        await gateway.ask(messages=messages)
        await gateway.ask(messages=[{"role": "user", "content": "hello", "name": heap}])
        assert gateway.texts._waiting_bytes < 1024
        (one,) = await kept(gateway, 2)
    assert one["messages"] == [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]


async def test_parts_calls_and_arguments_are_redacted_and_pictures_left_out(keeping: Setup) -> None:
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "mail", "arguments": '{"to": "jane.doe\\u0040example.org"}'},
    }
    messages = [
        {"role": "system", "content": "You serve jane.doe@example.org", "name": "jane.doe@example.org"},
        {"role": "user", "content": "mail her"},
        {"role": "assistant", "content": None, "tool_calls": [call], "unknown": "jane.doe@example.org"},
        {"role": "tool", "tool_call_id": "c1", "content": "sent to jane.doe@example.org"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "and jane.doe@example.org?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,amFuZS5kb2U="}},
            ],
        },
    ]
    tools = [{"type": "function", "function": {"name": "mail", "parameters": {}}}]
    async with running(keeping) as gateway:
        await gateway.ask(messages=messages, tools=tools)
        (one,) = await kept(gateway, 1)
    told = one["messages"]
    assert told[0] == {"role": "system", "content": "You serve [EMAIL]", "name": "[EMAIL]"}
    assert told[2]["tool_calls"][0]["function"]["arguments"] == {"to": "[EMAIL]"}
    assert "unknown" not in told[2]
    assert told[4]["content"] == [{"type": "text", "text": "and [EMAIL]?"}, {"type": "image_url"}]
    assert one["tools"] is True
    nothing_unredacted_on_disk(keeping.folder)


@pytest.mark.parametrize("option", [{"keep_text": False}, {"local_only": True}])
async def test_a_caller_may_opt_out_and_local_only_implies_it(keeping: Setup, option: dict[str, Any]) -> None:
    async with running(keeping) as gateway:
        await gateway.ask(ASKED, farthing=option)
        assert await kept(gateway, 1) == []


async def test_a_key_may_opt_out_and_others_be_chosen(keeping: Setup) -> None:
    async with running(keeping) as gateway:
        key_id, chosen = keys.add(gateway.store, "acme")
        _, silent = keys.add(gateway.store, "acme", defaults=Options(keep_text=False))
        _, other = keys.add(gateway.store, "other")
        await gateway.table.refresh()
        gateway.texts.settings = Texts(enabled=True, tenants=["acme"])
        for secret in (chosen, silent, other):
            headers = {"authorization": f"Bearer {secret}"}
            await gateway.ask(ASKED, headers, farthing={"keep_text": True})  # no request can undo a key's no
        (one,) = await kept(gateway, 3)
        rows = {row["request_id"]: row for row in await gateway.rows()}
    assert rows[one["request_id"]]["key_id"] == key_id


async def test_an_answer_found_by_meaning_is_not_kept_twice(keeping: Setup, recall: Any) -> None:
    keeping.recall = recall()
    async with running(keeping) as gateway:
        for text in ("How do I reset my password?", "How can I reset my password?"):
            await gateway.ask(text)
            assert gateway.semantics is not None
            await gateway.semantics.drain(5.0)
        rows = await gateway.rows(2)
        found = {one["request_id"]: one for one in await kept(gateway)}
    assert rows[1]["cache"] == "semantic"
    assert [found[row["request_id"]]["answer"] is not None for row in rows] == [True, False]


async def test_the_judges_own_questions_are_not_kept(keeping: Setup, recall: Any) -> None:
    keeping.recall, keeping.compare, keeping.judge = recall("shadow"), "judge", "frontier"
    keeping.small = FakeBackend("small/0", "tiny", script=[Step(text=ANSWER), Step(text="Something else.")])
    keeping.frontier = FakeBackend("frontier/0", "huge", script=[Step(text="YES")])
    async with running(keeping) as gateway:
        for text in ("How do I reset my password?", "How can I reset my password?"):
            await gateway.ask(text)
            assert gateway.semantics is not None
            await gateway.semantics.drain(5.0)
        rows = await gateway.rows(3)
        found = await kept(gateway)
    (judged,) = [row for row in rows if row["tags"] == ["judge"]]
    assert {one["request_id"] for one in found} == {row["request_id"] for row in rows} - {judged["request_id"]}


def test_the_share_goes_by_request() -> None:
    wanted = Texts(enabled=True, sample=0.25)
    chosen = [wanted.wants(f"req_{i}", "t", "k") for i in range(4_000)]
    assert 850 < sum(chosen) < 1_150
    assert chosen == [wanted.wants(f"req_{i}", "t", "k") for i in range(4_000)]
    assert Texts(enabled=True, keys=["k"]).wants("r", "t", "k") and not Texts(enabled=True, keys=["k"]).wants(
        "r", "t", ""
    )


@pytest.mark.parametrize("whose", [{"tenants": []}, {"keys": []}, {"tenants": ["t"], "keys": []}])
def test_an_empty_list_is_not_everybody(whose: dict[str, list[str]]) -> None:
    with pytest.raises(ValidationError, match="at least 1"):
        Texts(enabled=True, **whose)


class Counted:
    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()

    def texts(self, outcomes: Any, redacted: Any) -> None:
        self.outcomes.update(outcomes)


async def test_what_cannot_be_kept_is_counted_and_fails_no_request(keeping: Setup) -> None:
    async with running(keeping) as gateway:
        counts = gateway.texts.counts = Counted()  # type: ignore[assignment]
        await gateway.ask("a" * 3_000 + " a@b.org")
        gateway.texts.settings = Texts(enabled=True, max_kib=1)
        await gateway.ask("b" * 3_000)
        await gateway.ask("x", farthing={"keep_text": False})
        await gateway.http.post(f"{gateway.url}/v1/completions", json={"model": "small", "prompt": [1, 2]})
        assert await kept(gateway, 4) == []
    assert counts.outcomes == {"too_long": 2, "opted_out": 1, "no_text": 1}


async def test_a_database_that_refuses_costs_the_texts_alone(keeping: Setup, caplog: pytest.LogCaptureFixture) -> None:
    async with running(keeping) as gateway:
        counts = gateway.texts.counts = Counted()  # type: ignore[assignment]
        gateway.texts.save = _refuse
        response, _ = await gateway.ask(ASKED)
        assert response.status == 200 and len(await gateway.rows(1)) == 1
        await gateway.texts.flush()
    assert counts.outcomes == {"dropped": 1}
    assert "1 texts could not be written" in caplog.text and "jane" not in caplog.text


async def test_a_text_that_cannot_be_redacted_is_dropped(
    keeping: Setup, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise TimeoutError("jane.doe")

    async with running(keeping) as gateway:
        counts = gateway.texts.counts = Counted()  # type: ignore[assignment]
        await gateway.ask(ASKED)
        monkeypatch.setattr("serving.texts.redact._apply", broken)
        assert await kept(gateway, 1) == []
    assert counts.outcomes == {"failed": 1}
    assert "could not be redacted" in caplog.text and "jane" not in caplog.text


async def test_the_queue_is_bounded(keeping: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.texts.log.MAX_WAITING_BYTES", 330)
    async with running(keeping) as gateway:
        counts = gateway.texts.counts = Counted()  # type: ignore[assignment]
        for i in range(4):
            await gateway.ask(f"{i} {ASKED}")
        assert len(await kept(gateway, 4)) == counts.outcomes["kept"] == 2
    assert counts.outcomes["queue_full"] == 2


def _refuse(_kept: Any) -> None:
    raise OSError("disk full: jane.doe@example.org")


def test_a_deleted_text_is_overwritten(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    texts.put(store, [Kept("r", epoch_ms(), "t", [{"role": "user", "content": "marzipan"}], None, False, 10)])
    store.delete_tenant("t")
    store.close()  # the last connection brings the log into the file
    assert b"marzipan" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


async def test_exported_with_texts(keeping: Setup) -> None:
    async with running(keeping) as gateway:
        await gateway.ask(ASKED)
        await gateway.ask("not kept", farthing={"keep_text": False})
        await kept(gateway, 2)
        told = [orjson.loads(line) for line in export.lines(gateway.store, with_texts=True)]
        bare = [orjson.loads(line) for line in export.lines(gateway.store)]
    one, other = sorted(told, key=lambda row: row["messages"] is None)
    assert one["messages"][0]["content"] == one["text"] == "Write to [EMAIL] about card [CARD]."
    assert one["answer_text"] == "I wrote to [EMAIL] and to [PHONE] ."
    assert (other["messages"], other["answer_text"], other["text"], other["tools"]) == (None, None, None, None)
    assert "messages" not in bare[0]
    assert export.last_user_text([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "x"}]}]) == "a"


async def test_texts_are_written_while_requests_come(keeping: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.texts.log.WRITE_EVERY_S", 0.01)
    async with running(keeping) as gateway:
        task = asyncio.create_task(gateway.texts.keep_writing())
        await gateway.ask(ASKED)
        async with asyncio.timeout(5):
            while not texts.size_bytes(gateway.store):
                await asyncio.sleep(0.02)
        task.cancel()


async def test_a_tenant_deleted_while_its_texts_wait_leaves_none(keeping: Setup) -> None:
    keeping.small = FakeBackend("small/0", "tiny", script=[Step(text=ANSWER), Step(text=ANSWER, delay_s=0.4)])
    async with running(keeping) as gateway:
        counts = gateway.texts.counts = Counted()  # type: ignore[assignment]
        await gateway.ask(ASKED)
        under_way = asyncio.create_task(gateway.ask(ASKED + " Now."))
        while len(keeping.small.calls) < 2:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(gateway.store.delete_tenant, "default")
        await gateway.texts.flush()
        await under_way
        assert await kept(gateway) == []
    assert counts.outcomes == {"deleted": 2}
    nothing_unredacted_on_disk(keeping.folder)
