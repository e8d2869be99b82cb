"""Questions to the running gateway, over HTTP like anybody's: one tier by name, no cache, tagged, and what it cost.

Tells apart what concerns one prompt (it is passed over), what may pass (asked again), and what ends the run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import orjson

from models.errors import FarthingError
from models.types import Json

WAITS_S: Final = (1.0, 2.0, 4.0, 8.0)  # between attempts; a Retry-After is waited for where it is longer
MAX_WAIT_S: Final = 60.0
TIMEOUT_S: Final = 660.0  # more than a gateway's own deadline: it is the one to give up
IN_A_ROW: Final = 5  # prompts that fail at one tier one after the other before it counts as the tier's fault
PASSING: Final = frozenset({408, 500, 502, 503, 504})
ASIDE: Final = {"cache": "off", "tags": ["label"], "keep_text": False}


class Stopped(FarthingError):
    """The run cannot go on. What was answered is kept."""

    code = "label_stopped"


@dataclass(slots=True)
class Client:
    """One run's connection. `fields` go into every body; `wait_factor` is for tests."""

    session: aiohttp.ClientSession
    url: str
    key: str
    fields: Mapping[str, Any]
    wait_factor: float = 1.0
    _failed: Counter[str] = field(default_factory=Counter)  # by tier, since its last answer

    async def ask(self, tier: str, messages: list[Json]) -> Json:
        """The answer as an entry of the work file, without `key` and `what`. Raises Stopped."""
        fields = {name: value for name, value in self.fields.items() if value is not None}
        body = {"model": tier, "messages": messages, **fields, "farthing": ASIDE}
        status, headers, told = await self._answered(body)
        if status != 200:
            return self._counted(tier, _refused(status, told))
        if "x-farthing-route" not in headers:
            raise Stopped(f"{self.url} answers, but not as a Farthing gateway: there is no header x-farthing-route")
        entry = _entry(told, headers)
        if headers["x-farthing-route"] != tier:
            because = headers.get("x-farthing-reason", "?")
            entry = {
                "cost_usd": entry["cost_usd"],
                "error": f"'{tier}' was asked for and '{headers['x-farthing-route']}' answered ({because})",
                "kind": "degraded",
                "final": False,
            }
            return self._counted(tier, entry)
        self._failed[tier] = 0
        return entry

    async def _answered(self, body: Json) -> tuple[int, Mapping[str, str], Json]:
        """With patience for what may pass. Raises Stopped when nobody answers, or nobody may be asked."""
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        for wait_s in (*WAITS_S, None):
            try:
                async with self.session.post(
                    f"{self.url}/v1/chat/completions",
                    data=orjson.dumps(body),
                    headers={"content-type": "application/json", **headers},
                    timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                ) as response:
                    told = _object(await response.read())
                    status, found = response.status, response.headers
            except (aiohttp.ClientError, TimeoutError) as exc:
                if wait_s is None:
                    raise Stopped(f"the gateway at {self.url} does not answer: {exc or type(exc).__name__}") from exc
                await asyncio.sleep(wait_s * self.wait_factor)
                continue
            self._check(status, told)
            if wait_s is None or (status != 429 and status not in PASSING):
                return status, found, told
            asked_s = float(found.get("retry-after") or 0) if (found.get("retry-after") or "0").isdigit() else 0.0
            await asyncio.sleep(min(MAX_WAIT_S, max(wait_s, asked_s)) * self.wait_factor)
        raise AssertionError("the last attempt returns or raises")

    def _check(self, status: int, told: Json) -> None:
        """Raises Stopped for what no other prompt would change."""
        error = _error(told)
        if status in (401, 403):
            raise Stopped(f"the gateway refuses the key: {error.get('message')} (--key-file, or FARTHING_API_KEY)")
        if status == 404:
            raise Stopped(f"the gateway does not know this tier: {error.get('message')}")
        if error.get("code") == "insufficient_quota":
            raise Stopped(f"a budget of the gateway is used up: {error.get('message')}")

    def _counted(self, tier: str, entry: Json) -> Json:
        if not entry["final"]:
            self._failed[tier] += 1
            if self._failed[tier] >= IN_A_ROW:
                raise Stopped(f"{IN_A_ROW} prompts in a row failed at '{tier}', the last one because {entry['error']}")
        return entry


def _error(told: Json) -> Json:
    """Ours is an object; other servers have been asked by mistake before."""
    error = told.get("error")
    return error if isinstance(error, dict) else {"message": error}


def _refused(status: int, told: Json) -> Json:
    error = _error(told)
    passing = status in PASSING or status == 429
    return {
        "cost_usd": 0.0,
        "error": f"{error.get('code') or status}: {error.get('message') or 'no reason given'}",
        "kind": "failed" if passing else "refused",
        "final": not passing,
    }


def _entry(told: Json, headers: Mapping[str, str]) -> Json:
    try:
        choice, usage = told["choices"][0], told["usage"]
        return {
            "text": choice["message"].get("content") or "",
            "finish_reason": choice.get("finish_reason"),
            "prompt_tokens": int(usage["prompt_tokens"]),
            "completion_tokens": int(usage["completion_tokens"]),
            "cost_usd": float(usage["cost"]),
            "model": headers.get("x-farthing-model", ""),
            "request_id": headers.get("x-request-id", ""),
        }
    except (KeyError, IndexError, TypeError, ValueError) as exc:
        raise Stopped(f"the gateway's answer has no {exc}: is it a Farthing gateway?") from exc


def _object(raw: bytes) -> Json:
    try:
        told = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}
