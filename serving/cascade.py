"""The cascade's gate: the small tier begins, and nothing of its answer is seen until its own tokens vouch for it.

Owns what is excluded, what is asked for beside the answer (token probabilities, which a caller who did not ask for them
never sees), and when to judge. The judging is `router/cascade.py`'s; money, rows and flights are the pipeline's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import orjson

from models.errors import FarthingError, StreamCut, Unavailable
from models.types import Call, Chunk, Json, Usage
from models.upstream.sse import payload
from router.cascade import Cascade, Token, Verdict
from router.decision import CascadePlan, Decision
from serving.job import Job
from serving.tiers import ServingTier
from serving.wire.assemble import event

TOP_LOGPROBS: Final = 5
_TEXTS: Final = ("content", "reasoning_content", "reasoning", "refusal", "tool_calls")
_FORCED: Final = ("tools", "functions", "logit_bias", "allowed_token_ids", "use_beam_search", "structured_outputs")
_GUIDED: Final = "guided_"  # how earlier versions of vLLM name each kind of forced form
Ending = Literal["kept", "dropped", "no_evidence", "failed", "would_keep", "would_drop"]


def suits(body: Json) -> bool:
    """Whether this request is for the cascade, beside what the router leaves out (`router.policy.doubtful`).

    Several answers have no one probability. An answer forced into a form is sure of its form, whatever it says, and
    after a prefilled beginning or under a bias the probabilities are not those that were learned from. vLLM does not
    stream the prompt's own probabilities, and a trial is a stream.
    """
    if body.get("prompt_logprobs") is not None:
        return False
    free = (body.get("response_format") or {}).get("type", "text") == "text"
    plain = not any(body[name] for name in body if name in _FORCED or name.startswith(_GUIDED))
    return free and plain and (body.get("n") or 1) == 1 and body["messages"][-1].get("role") != "assistant"


@dataclass(frozen=True, slots=True)
class Cascading:
    """One per gateway replica. `current`: the artifact in use. `full_answer`: unary answers are judged when whole."""

    mode: Literal["shadow", "act"]
    full_answer: bool
    current: Callable[[], Cascade]
    decided: Callable[[Ending, float | None], None]

    def gate(self, job: Job, decision: Decision, order: Sequence[ServingTier]) -> Gate | None:
        """None where no cascade is planned, or where it could come to nothing: nobody stronger has a key, the tier is
        not our own. In shadow only where the small tier answers anyway."""
        plan = decision.cascade
        if plan is None or job.target.tier is not None or job.asked.endpoint != "chat/completions":
            return None
        tier = next((tier for tier in order if tier.name == plan.tier), None)
        if tier is None or tier.pool is None or not tier.owned or not suits(job.asked.body):
            return None
        stronger = [other for other in order if other.pool is not None and other.strength > tier.strength]
        wanted = order[0] is tier
        if not stronger or (self.mode == "shadow" and not wanted):
            return None
        body = job.asked.body
        counts = bool((body.get("stream_options") or {}).get("continuous_usage_stats"))
        job_wants = (job.asked.stream, not body.get("logprobs"), not counts)
        return Gate(self, tier, stronger[0] if wanted else order[0], wanted, plan, self.current(), *job_wants)


@dataclass(slots=True)
class Gate:
    """One small answer on trial. `wanted`: the router would have asked this tier anyway; `next`: who answers otherwise.

    `kept` is None while nothing is decided, `verdict` None also where the tokens told nothing. A caller's own
    `logprobs` are passed on as asked for; `top_logprobs` is then the caller's as well. `usage`: as last told, which our
    engine does with every chunk, so that what a dropped answer cost is known.
    """

    _cascading: Cascading
    tier: ServingTier
    next: ServingTier
    wanted: bool
    _plan: CascadePlan
    _cascade: Cascade
    _streams: bool
    _hides: bool
    _hides_usage: bool
    tokens: list[Token] = field(default_factory=list)
    kept: bool | None = None
    verdict: Verdict | None = None
    usage: Usage | None = None
    _blind: bool = False  # text came without probabilities
    _ended: bool = False
    _held: list[Chunk] = field(default_factory=list)

    @property
    def acts(self) -> bool:
        return self._cascading.mode == "act"

    def order(self, order: Sequence[ServingTier]) -> list[ServingTier]:
        """The tier on trial first, then the others as they stood. In shadow it is first already."""
        return [self.tier, *(tier for tier in order if tier is not self.tier)]

    def call(self, call: Call) -> Call:
        """Asked as a stream, whatever the caller wants: a whole answer cannot be dropped half-way."""
        options = {**(call.body.get("stream_options") or {}), "include_usage": True, "continuous_usage_stats": True}
        asked: Json = {**call.body, "stream": True, "stream_options": options}
        if self._hides:
            asked |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return replace(call, body=asked, stream=True)

    async def hold(self, chunks: AsyncGenerator[Chunk, None]) -> bool:
        """Read until the tokens suffice, whether the answer is kept. What fails until then has failed unseen.

        A unary answer that is kept is read to its end here, in shadow, too: nobody waits for its beginning, and one
        that breaks off must not cost its caller the next tier.
        """
        if not self.acts and self._streams:
            return True
        try:
            async for chunk in chunks:
                self._held.append(self._read(chunk))
                if self._ended:
                    continue  # its usage is still to come
                self._decide()
                if self.acts and (self.kept is False or (self.kept and self._streams)):
                    return self.kept is True
            self._ended = True
        except FarthingError as exc:
            self._cascading.decided("failed", None)
            if isinstance(exc, StreamCut):  # nobody has seen a word of it: another tier may still answer
                raise Unavailable(exc.message) from exc
            raise
        return self._decide() is True or not self.acts

    async def passing(self, chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
        """What was held, then the rest as it comes."""
        async with aclosing(chunks):
            for chunk in self._held:
                yield chunk
            async for chunk in chunks:
                yield self._read(chunk)
                self._decide()
        self._ended = True
        self._decide()

    def _decide(self) -> bool | None:
        if self.kept is None:
            self.kept = self._judged()
        return self.kept

    def _judged(self) -> bool | None:
        """None while more is needed. Without evidence the router's own choice stands."""
        waits = self._cascading.full_answer and not self._streams and self.acts
        if self._blind or (self._ended and not self.tokens):
            self._cascading.decided("no_evidence", None)
            return self.wanted
        if not self._ended and (waits or len(self.tokens) < self._cascade.tokens_k):
            return None
        self.verdict = self._cascade.judge(self.tokens, self._plan, ended=self._ended)
        names: tuple[Ending, Ending] = ("kept", "dropped") if self.acts else ("would_keep", "would_drop")
        self._cascading.decided(names[not self.verdict.accepted], self.verdict.probability)
        return self.verdict.accepted

    def _read(self, chunk: Chunk) -> Chunk:
        """Take the evidence out of a chunk, and out of sight what the caller did not ask for."""
        self.usage = chunk.used() or self.usage
        if not chunk.data:
            return chunk
        try:
            events = [orjson.loads(payload(part + b"\n\n")) for part in chunk.data.split(b"\n\n") if part]
            for choice in (choice for told in events for choice in told.get("choices") or ()):
                self._look(choice)
            for told in events if self._hides_usage else ():
                told.pop("usage", None)
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
            self._blind = self._blind or not self.tokens  # whatever it is, it is no evidence; the caller may know
            return chunk
        hides = self._hides or self._hides_usage
        return replace(chunk, data=b"".join(map(event, events))) if hides else chunk

    def _look(self, choice: Json) -> None:
        told, delta = choice.get("logprobs"), choice.get("delta") or {}
        if self._hides and "logprobs" in choice:
            choice["logprobs"] = None
        self.tokens += _tokens(told)
        if not self.tokens and any(delta.get(name) for name in _TEXTS):
            self._blind = True
        if choice.get("finish_reason"):
            self._ended = True


def _tokens(told: Any) -> list[Token]:
    """None where it cannot be read: vLLM writes a likelihood that is no number as null."""
    try:
        return [_token(one) for one in (told or {}).get("content") or ()]
    except (AttributeError, KeyError, TypeError, ValueError):
        return []


def _token(told: dict[str, Any]) -> Token:
    top = sorted((float(one["logprob"]) for one in told.get("top_logprobs") or ()), reverse=True)
    return Token(float(told["logprob"]), tuple(top[:TOP_LOGPROBS]))
