"""A stream of our own engines that breaks off is carried on by another, as if nothing had been; others are not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from models.errors import Overloaded, StreamCut, Unavailable
from models.fake import FakeBackend, Step
from models.types import Chunk, Usage
from tests.serving.cascades import Seen, text
from tests.serving.conftest import Running, Setup, running
from tests.serving.test_gateway import events

WHOLE = "a farthing is a quarter of a penny and no more than that"
WORDS = len(WHOLE.split())
BREAKS = Step(WHOLE, cut_after=4)


def arrange(setup: Setup, first: Step, *others: Step) -> None:
    """The small tier: one that answers with `first`, then ever with the next; and another, which is asked second."""
    setup.small = FakeBackend("small/0", "tiny", script=[first, *others])
    setup.more = [FakeBackend("small/1", "tiny", script=others)]


async def one(service: Running) -> dict[str, Any]:
    return (await service.rows(1))[0]


async def test_another_engine_goes_on_from_what_was_seen(setup: Setup) -> None:
    arrange(setup, BREAKS, Step(WHOLE))
    async with running(setup) as service:
        response, body = await service.stream("x y", max_tokens=40, stream_options={"include_usage": True})
        row = await one(service)
        metrics = service.accounts.metrics
    assert response.status == 200 and text(body) == WHOLE and body.endswith(b"data: [DONE]\n\n")
    told = events(body)[:-1]
    assert len({chunk["id"] for chunk in told}) == 1
    assert sum("role" in choice["delta"] for chunk in told for choice in chunk["choices"]) == 1
    assert [c["finish_reason"] for chunk in told for c in chunk["choices"] if c["finish_reason"]] == ["stop"]
    assert (told[-1]["usage"]["prompt_tokens"], told[-1]["usage"]["completion_tokens"]) == (2, WORDS)
    (asked,) = setup.more[0].calls
    assert asked.body["messages"][-1] == {"role": "assistant", "content": "a farthing is a"}
    assert asked.body["continue_final_message"] and not asked.body["add_generation_prompt"]
    assert asked.body["max_tokens"] == 36
    assert (row["status"], row["backend"], row["attempts"]) == ("answered", "small/1", 2)
    assert (row["input_tokens"], row["output_tokens"], row["usage_estimated"]) == (2, WORDS, True)
    assert row["cost_nusd"] == 2 * 1000 + WORDS * 2000 and row["cost_wasted_nusd"] == 0
    assert metrics._resumed.labels("small")._value.get() == 1


LONG = "antidisestablishmentarianism is the counter-revolutionary longing for an established church again"
LONG_WORDS = len(LONG.split())


@pytest.mark.parametrize("breaks", [[4], [4, 2], [1, 1, 1]], ids=str)
async def test_tokens_are_those_that_the_engines_counted(setup: Setup, breaks: list[int]) -> None:
    """The words are long: by characters they would be many more tokens, and `max_tokens` would be spent sooner."""
    steps = [*(Step(LONG, cut_after=at, counts=True) for at in breaks), Step(LONG, counts=True)]
    setup.small = FakeBackend("small/0", "tiny", script=steps)
    async with running(setup) as service:
        _, body = await service.stream("x y", max_tokens=20, stream_options={"include_usage": True})
        row = await one(service)
    told = events(body)[:-1]
    assert text(body) == LONG
    assert [chunk for chunk in told[:-1] if chunk.get("usage")] == [], "the caller asked for the whole's alone"
    assert (told[-1]["usage"]["prompt_tokens"], told[-1]["usage"]["completion_tokens"]) == (2, LONG_WORDS)
    assert (row["input_tokens"], row["output_tokens"], row["usage_estimated"]) == (2, LONG_WORDS, False)
    assert row["attempts"] == 1 + len(breaks)
    assert [c.body["max_tokens"] for c in setup.small.calls] == [20 - sum(breaks[:at]) for at in range(len(breaks) + 1)]


async def test_what_a_broken_stream_had_come_to_is_known_where_nobody_goes_on(setup: Setup) -> None:
    arrange(setup, Step(LONG, cut_after=4, counts=True), Step(error=Overloaded("busy", retry_after_s=60.0)))
    async with running(setup) as service:
        _, body = await service.stream("x y")
        row = await one(service)
    assert events(body)[-1]["error"]["code"] == "upstream_stream_cut"
    assert (row["input_tokens"], row["output_tokens"], row["usage_estimated"]) == (2, 4, False)


async def test_an_engine_that_does_not_count_along_leaves_an_estimate(setup: Setup) -> None:
    """Its part of the answer; of what the next one makes, the figures are that one's."""
    arrange(setup, BREAKS, Step(WHOLE, counts=True, cut_after=2), Step(WHOLE, counts=True))
    async with running(setup) as service:
        _, body = await service.stream("x")
        row = await one(service)
    assert text(body) == WHOLE
    assert (row["output_tokens"], row["usage_estimated"], row["attempts"]) == (WORDS, True, 4)


class Lines(FakeBackend):
    """Says the first pieces and breaks, then the rest; counts a token a piece, of a prompt of 7 and what is given back
    (here one token, where there is any)."""

    pieces: Any = ()
    counts = True

    async def stream(self, call: Any) -> Any:
        self.calls.append(call)
        begun = bool(call.body.get("continue_final_message"))
        first = len(self.calls) == 1
        for at, piece in enumerate(self.pieces[not first], 1):
            usage = Usage(7 + begun, output_tokens=at)
            yield Chunk(
                self._event({"content": piece}, usage=usage if self.counts else None),
                content=True,
                usage=usage if self.counts else None,
            )
        if first:
            raise StreamCut("gone")
        yield Chunk(self._event({}, "stop"), content=True, usage=Usage(7 + begun, output_tokens=len(self.pieces[1])))


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize(
    ("pieces", "answer", "tokens"),
    [
        ((["One.", "\n", "\n"], ["\n", "\nTwo.", "\n", "Three."]), "One.\n\nTwo.\nThree.", 5),
        ((["One.", "\n\n"], ["Two."]), "One.\n\nTwo.", 3),
        ((["One."], ["\n", "Two."]), "One.\nTwo.", 3),
    ],
    ids=["said again", "not said again", "nothing to say again"],
)
async def test_a_blank_line_at_the_break_is_neither_lost_nor_doubled(
    setup: Setup, pieces: Any, answer: str, tokens: int, counts: bool
) -> None:
    """The beginning is given without it, since templates may strip it; the engine says it again, in pieces, or not."""
    setup.small = Lines("small/0", "tiny")
    setup.small.pieces, setup.small.counts = pieces, counts
    async with running(setup) as service:
        _, body = await service.stream("x")
        row = await one(service)
    assert text(body) == answer
    assert setup.small.calls[1].body["messages"][-1]["content"] == "One."
    assert (row["input_tokens"], row["output_tokens"], row["usage_estimated"]) == (7, tokens, not counts)


@pytest.mark.parametrize("counts", [True, False])
async def test_a_stream_that_had_said_nothing_but_white_space_begins_anew(setup: Setup, counts: bool) -> None:
    """The next engine makes the whole answer, so that its figures are the answer's: nothing was given back."""
    setup.small = Lines("small/0", "tiny")
    setup.small.pieces, setup.small.counts = ([" ", "\n\n"], [" ", "\n\n", "One."]), counts
    async with running(setup) as service:
        _, body = await service.stream("x", max_tokens=9)
        row = await one(service)
    assert text(body) == " \n\nOne."
    assert setup.small.calls[1].body == setup.small.calls[0].body
    assert (row["input_tokens"], row["output_tokens"], row["usage_estimated"]) == (7, 3, False)


@pytest.mark.parametrize("counts", [True, False])
async def test_what_was_carried_on_is_stored_where_it_is_known_what_it_took(setup: Setup, counts: bool) -> None:
    """A stored answer says what it took, and an estimate is no answer to that."""
    arrange(setup, Step(WHOLE, cut_after=4, counts=counts), Step(WHOLE, counts=counts))
    async with running(setup) as service:
        await service.stream("x", temperature=0)
        again, body = await service.ask("x", temperature=0)
    assert again.headers["x-farthing-cache"] == ("exact" if counts else "miss")
    assert body["choices"][0]["message"]["content"] == WHOLE and body["usage"]["completion_tokens"] == WORDS


async def test_engines_that_break_one_after_the_other(setup: Setup) -> None:
    setup.small = FakeBackend("small/0", "tiny", script=[BREAKS, Step(WHOLE, cut_after=2), Step(WHOLE)])
    async with running(setup) as service:
        _, body = await service.stream("x")
        assert text(body) == WHOLE
        row = await one(service)
    assert (row["attempts"], row["output_tokens"]) == (3, WORDS)


async def test_an_answer_that_ends_every_engine_is_given_up(setup: Setup) -> None:
    setup.small = FakeBackend("small/0", "tiny", script=[Step(WHOLE, cut_after=1)])
    async with running(setup) as service:
        _, body = await service.stream("x")
        row = await one(service)
    assert text(body) == "a farthing is a" and events(body)[-1]["error"]["code"] == "upstream_stream_cut"
    assert len(setup.small.calls) == 4
    assert (row["status"], row["error_code"]) == ("failed", "upstream_stream_cut")


async def test_where_nobody_can_go_on_the_caller_is_told_of_the_break(setup: Setup) -> None:
    arrange(setup, BREAKS, Step(error=Overloaded("busy", retry_after_s=60.0)))
    async with running(setup) as service:
        _, body = await service.stream("x")
    assert events(body)[-1]["error"]["code"] == "upstream_stream_cut"


async def test_an_answer_is_not_carried_on_by_another_model(setup: Setup) -> None:
    """A tier's boxes may have several; the headers have said which one answers."""
    arrange(setup, BREAKS, Step(error=Unavailable("gone")))
    setup.more = [FakeBackend("small/1", "other", script=[Step(WHOLE)])]
    async with running(setup) as service:
        response, body = await service.stream("x")
        row = await one(service)
    assert response.headers["x-farthing-model"] == row["model"] == "tiny"
    assert events(body)[-1]["error"]["code"] == "upstream_stream_cut"
    assert setup.more[0].calls == []


async def test_a_deadline_that_passes_before_another_goes_on_is_told_as_such(setup: Setup) -> None:
    arrange(setup, BREAKS, Step(WHOLE, delay_s=60))
    async with running(setup) as service:
        _, body = await service.stream("x", farthing={"deadline_ms": 3_000})
        row = await one(service)
    assert text(body) == "a farthing is a" and events(body)[-1]["error"]["code"] == "deadline_exceeded"
    assert (row["status"], row["error_code"]) == ("timed_out", "deadline_exceeded")


async def test_who_leaves_while_another_engine_is_asked_frees_it_and_pays_for_what_was_made(setup: Setup) -> None:
    arrange(setup, Step(LONG, cut_after=4, counts=True), Step(LONG, delay_s=60))
    async with running(setup) as service:
        body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "x y"}]}
        async with service.http.post(f"{service.url}/v1/chat/completions", json=body) as response:
            await response.content.readany()
            while not setup.more[0].calls:
                await asyncio.sleep(0.01)
        row = await one(service)
        members = service.accounts.tiers["small"].pool._members
        assert [member.in_flight for member in members] == [0, 0]
    assert setup.more[0].ended == 1
    assert (row["status"], row["input_tokens"], row["output_tokens"], row["usage_estimated"]) == (
        "cancelled",
        2,
        4,
        False,
    )


async def test_an_answer_that_had_ended_is_whole(setup: Setup) -> None:
    """It breaks between the last word's event, which says that it is the last, and the usage."""

    class Ends(FakeBackend):
        async def stream(self, call: Any) -> Any:
            async for chunk in FakeBackend.stream(self, call):
                if chunk.usage is not None:
                    raise StreamCut("gone")
                yield chunk

    setup.small = Ends("small/0", "tiny", script=[Step(WHOLE)])
    async with running(setup) as service:
        _, body = await service.stream("x")
        row = await one(service)
    assert text(body) == WHOLE and b"error" not in body
    assert row["status"] == "answered" and row["usage_estimated"] and len(setup.small.calls) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"n": 2},
        {"logprobs": True},
        {"min_tokens": 20},
        {"stream_options": {"continuous_usage_stats": True}},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "a farthing"}]},
    ],
    ids=json.dumps,
)
async def test_what_cannot_be_carried_on_ends_as_ever(setup: Setup, fields: dict[str, Any]) -> None:
    arrange(setup, BREAKS, Step(WHOLE))
    async with running(setup) as service:
        _, body = await service.stream("x", model="small", **fields)
    assert events(body)[-1]["error"]["code"] == "upstream_stream_cut"
    assert setup.more[0].calls == []


async def test_nonsense_in_place_of_the_rest_is_another_break(setup: Setup) -> None:
    class Rambles(FakeBackend):
        def _event(self, *what: Any, **fields: Any) -> bytes:
            return b'data: {"choices": 7}\n\n'

    arrange(setup, BREAKS, Step(WHOLE))
    setup.more = [Rambles("small/1", "tiny", script=[Step(WHOLE)])]
    async with running(setup) as service:
        _, body = await service.stream("x")
        row = await one(service)
    assert text(body) == WHOLE
    assert (row["status"], row["backend"], row["attempts"]) == ("answered", "small/0", 3)


@pytest.mark.parametrize("says", [lambda word: {"reasoning": word}, lambda word: {"content": [word]}])
@pytest.mark.parametrize("first", [True, False])
async def test_what_is_no_text_neither_goes_on_nor_is_gone_on_from(setup: Setup, says: Any, first: bool) -> None:
    class Other(FakeBackend):
        def _event(self, delta: Any, *more: Any, **fields: Any) -> bytes:
            return FakeBackend._event(self, says(delta["content"]) if delta.get("content") else delta, *more, **fields)

    arrange(setup, BREAKS, Step(WHOLE))
    kinds = (Other, FakeBackend) if first else (FakeBackend, Other)
    setup.small = kinds[0]("small/0", "tiny", script=[BREAKS, Step(WHOLE)])
    setup.more = [kinds[1]("small/1", "tiny", script=[Step(WHOLE)])]
    async with running(setup) as service:
        _, body = await service.stream("x")
        row = await one(service)
    if first:
        assert events(body)[-1]["error"]["code"] == "upstream_stream_cut" and setup.more[0].calls == []
    else:
        assert text(body) == WHOLE and (row["backend"], row["attempts"]) == ("small/0", 3)


async def test_a_providers_stream_is_not_carried_on(setup: Setup) -> None:
    setup.frontier = FakeBackend("frontier/0", "huge", script=[BREAKS, Step(WHOLE)])
    async with running(setup) as service:
        _, body = await service.stream("x", model="frontier")
    assert events(body)[-1]["error"]["code"] == "upstream_stream_cut"
    assert len(setup.frontier.calls) == 1


async def test_a_stream_that_passed_the_cascades_trial_is_not(setup: Setup, seen: Seen) -> None:
    setup.small = FakeBackend("small/0", "tiny", script=[Step(WHOLE, logprob=-0.05, cut_after=6), Step(WHOLE)])
    async with running(setup) as service:
        _, body = await service.stream("x")
    assert events(body)[-1]["error"]["code"] == "upstream_stream_cut"
    assert len(setup.small.calls) == 1
