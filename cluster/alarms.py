"""What somebody should know at once, posted as JSON to an address of theirs. Never in the way of keeping the boxes.

    {"event": "box_lost", "cluster": "default", "text": "slot 0: outbid: the instance was paused", "at_s": 1764160000.0,
     "slot": 0, "gpu": "RTX 4090", "contract_id": 12345}

Events: `box_lost` (it served and does no more), `box_failed` (it did not come up), `box_left` (drained on purpose),
`box_ready`, `box_replaced` (ready, in the place of one before), `budget_reached`, `trouble` (what stands in the way;
each kind once an hour). `text` alone suffices chat services that take `{"text": ...}`. Knows neither provider nor
state.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal
from urllib.parse import urlsplit

import httpx2

ATTEMPTS = 3
PAUSE_S = 2.0
HELD = 100  # alarms that wait for a receiver that is away; then the oldest go

Event = Literal["box_lost", "box_failed", "box_left", "box_ready", "box_replaced", "budget_reached", "trouble"]


@dataclass(frozen=True, slots=True)
class Alarm:
    event: Event
    cluster: str
    text: str
    at_s: float
    slot: int | None = None
    gpu: str = ""
    contract_id: int | None = None


def silent(_alarm: Alarm) -> None:
    """Where nobody is to be told."""


class Webhook:
    """Posts from a thread of its own. The address may be a secret: only its host is ever told."""

    def __init__(self, url: str, timeout_s: float, tell: Callable[[str], None]) -> None:
        self._url, self._timeout_s, self._tell = url, timeout_s, tell
        self._waiting: queue.Queue[Alarm | None] = queue.Queue(HELD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="alarms", daemon=True)
        self._thread.start()

    def __call__(self, alarm: Alarm) -> None:
        self._put(alarm)

    def close(self) -> None:
        """Give what waits one more chance each, as long as a post may take."""
        self._stop.set()
        self._put(None)
        self._thread.join(self._timeout_s)

    def _put(self, item: Alarm | None) -> None:
        while True:
            try:
                self._waiting.put_nowait(item)
            except queue.Full:
                self._drop_oldest()
            else:
                return

    def _drop_oldest(self) -> None:
        try:
            self._waiting.get_nowait()
        except queue.Empty:
            return
        self._tell("an alarm is dropped: too many wait for their receiver")

    def _work(self) -> None:
        with httpx2.Client(timeout=self._timeout_s, trust_env=False, follow_redirects=False) as http:
            while (alarm := self._waiting.get()) is not None:
                self._post(http, alarm)

    def _post(self, http: httpx2.Client, alarm: Alarm) -> None:
        why = ""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = http.post(self._url, json=asdict(alarm))
            except httpx2.HTTPError as error:
                why = type(error).__name__
            else:
                if answer.is_success:
                    return
                why = f"status {answer.status_code}"
            if attempt < ATTEMPTS and self._stop.wait(PAUSE_S * attempt):
                break
        self._tell(f"an alarm ({alarm.event}) could not be posted to {urlsplit(self._url).hostname}: {why}")
