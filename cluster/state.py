"""What this controller has rented: one file, mode 0600, replaced atomically, written before each step that spends.
What does not spend goes on when the disk is full: a label suffices to end a box.

A rental is recorded as an intent with its label before the provider is asked, so that a crash at any step leaves either
nothing or a label to look for. No secrets in it: keys lie in files of their own beside it (`vault.py`). One process at
a time works on a cluster (a lock that the kernel drops with its holder). Knows no provider.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.errors import Busy, NotWritten, StateBroken

Phase = Literal["intent", "rented", "joined", "ready", "leaving", "ending", "ended"]
"""intent: about to be rented; rented: it has a contract; joined: its TLS port answered and took its key; ready: it
serves; leaving: out of the pool, finishing its requests; ending: must be destroyed; ended: the provider no longer knows
it."""
DAYS_KEPT = 90
WATCH_LOCK = "watch.lock"  # held for as long as a `watch` runs, the other one for each of its looks
WAIT_TOLD_S = 1.0  # for a lock; a look at healthy boxes takes less


class Rental(BaseModel):
    """One box of a slot, from the intent to its end. Times are Unix seconds by the provider's clock."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    label: str
    slot: int
    phase: Phase = "intent"
    since_s: float
    created_s: float
    offer_id: int
    machine_id: int
    gpu: str
    profile: str = ""  # empty in a state of before it was kept: the file's
    expected_usd_per_hour: float
    expected_tokens_per_s: float | None = None
    interruptible: bool = False
    contract_id: int | None = None
    billed_usd_per_hour: float = 0.0  # what the provider charges in its present state
    accrued_usd: float = 0.0
    accrued_until_s: float
    host: str = ""
    port: int = 0
    certified_host: str = ""
    certified_s: float = 0.0
    tokens_per_s: float | None = None
    missing_since_s: float | None = None
    unhealthy_since_s: float | None = None
    progress: str = ""
    reason: str = ""  # why it ends or ended

    @property
    def live(self) -> bool:
        return self.phase != "ended"

    @property
    def serves(self) -> bool:
        return self.phase == "ready"

    @property
    def holds_slot(self) -> bool:
        return self.phase in ("intent", "rented", "joined", "ready")

    @property
    def server_name(self) -> str:
        """What its certificate is made out to, whatever address it has."""
        return self.label.replace(":", "-") + ".farthing.internal"

    def enter(self, phase: Phase, now_s: float, reason: str = "") -> None:
        self.phase, self.since_s = phase, now_s
        self.reason = reason or self.reason


class State(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    closed: bool = False  # `down` was the last word: nothing is rented until `up`
    rentals: list[Rental] = []
    spent_usd_by_day: dict[str, float] = {}
    avoid_until_s: dict[int, float] = {}  # machine → when it may be rented again
    failures: int = 0  # boxes in a row that did not come up
    pause_until_s: float = 0.0

    @property
    def live(self) -> list[Rental]:
        return [r for r in self.rentals if r.live]

    def in_slot(self, slot: int) -> Rental | None:
        return next((r for r in self.rentals if r.slot == slot and r.holds_slot), None)

    def accrue(self, rental: Rental, now_s: float) -> None:
        """Bill the time since the last look at the rate that held then. A clock set back bills nothing."""
        span_s = now_s - rental.accrued_until_s
        rental.accrued_until_s = now_s
        if span_s <= 0:
            return
        usd = span_s / 3600 * rental.billed_usd_per_hour
        rental.accrued_usd += usd
        for day, share in _days(now_s - span_s, now_s):
            self.spent_usd_by_day[day] = self.spent_usd_by_day.get(day, 0.0) + usd * share

    def spent_today_usd(self, now_s: float) -> float:
        return self.spent_usd_by_day.get(day_of(now_s), 0.0)

    def forget_old(self, now_s: float) -> None:
        oldest = day_of(now_s - DAYS_KEPT * 86_400)
        self.spent_usd_by_day = {day: usd for day, usd in self.spent_usd_by_day.items() if day >= oldest}
        self.rentals = [r for r in self.rentals if r.live or now_s - r.since_s < DAYS_KEPT * 86_400]


class Store:
    """The state's file. `not_written` says of each file that the disk did not take last time why, while that is so."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "state.json"
        self.not_written: dict[str, str] = {}
        self.state = self._read()

    @property
    def unwritten(self) -> str:
        return "; ".join(self.not_written.values())

    @property
    def exists(self) -> bool:
        return self._file.exists()

    def reload(self) -> None:
        """What another process may have written since. To be called once the lock is held."""
        self.state = self._read()

    def _read(self) -> State:
        try:
            return State.model_validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return State()
        except OSError as error:
            raise StateBroken(f"cannot read {self._file}: {error.strerror}") from error
        except ValidationError as error:
            raise StateBroken(
                f"cannot read {self._file} ({_why(error)}). `down` still finds every box by its label: move the file "
                "away, then run down; what was spent today is forgotten with it"
            ) from error

    def save(self) -> None:
        """Of what a label and another look would bring back; does not raise."""
        try:
            self.save_first()
        except NotWritten as error:
            self.not_written[self._file.name] = error.message

    def save_first(self) -> None:
        """Of what must be on the disk before the next step, which spends. Raises NotWritten."""
        write_private(self._file, self.state.model_dump_json(indent=1).encode())
        self.not_written.pop(self._file.name, None)


def _why(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'as a whole'}: {first['msg']}"


def write_private(path: Path, data: bytes, mode: int = 0o600) -> None:
    """The file is whole, old or new, whatever happens, and on the disk when this returns. Raises NotWritten."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(draft, "wb", opener=lambda name, how: os.open(name, how, mode)) as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise NotWritten(f"cannot write {path}: {error.strerror or error}") from error


def _sync(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def only_one(
    folder: Path, wait_s: float = 0.0, tell: Callable[[str], None] = lambda _: None, name: str = "lock"
) -> Iterator[None]:
    """Hold a lock of the cluster. Says for whom it waits; raises Busy when another process keeps it beyond `wait_s`."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    doing = "watches this cluster already" if name == WATCH_LOCK else "is working on this cluster"
    began_s, told = time.monotonic(), False
    with (folder / name).open("a+", encoding="utf-8") as file:
        while not _locked(file):
            waited_s = time.monotonic() - began_s
            if waited_s >= wait_s:
                raise Busy(f"{_holder(file)} {doing}; wait for it or stop it")
            if waited_s >= WAIT_TOLD_S and not told:
                tell(f"waiting for {_holder(file)}, which {doing}, {wait_s:.0f} s at most")
                told = True
            time.sleep(0.1)
        with contextlib.suppress(OSError):  # a full disk: others wait for `?` then
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        yield


def watched(folder: Path) -> bool:
    """Whether a `watch` of this cluster runs on this machine."""
    try:
        with (folder / WATCH_LOCK).open(encoding="utf-8") as file:
            return not _locked(file)
    except FileNotFoundError:
        return False


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return f"process {file.read().strip() or '?'}"


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def new_label(prefix: str, slot: int) -> str:
    """One label for each intent: two rentals never share one."""
    return f"{prefix}{slot}:{secrets.token_hex(6)}"


def day_of(at_s: float) -> str:
    return datetime.datetime.fromtimestamp(at_s, datetime.UTC).date().isoformat()


def _days(from_s: float, to_s: float) -> Iterator[tuple[str, float]]:
    """The UTC days of a span, with the share of the span that lies in each."""
    at_s = from_s
    while at_s < to_s:
        end_s = min(to_s, (at_s // 86_400 + 1) * 86_400)
        yield day_of(at_s), (end_s - at_s) / (to_s - from_s)
        at_s = end_s
