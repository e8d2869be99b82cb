"""The work file: every answer that was paid for, as JSON lines, written the moment it is there.

A line is one write to a file opened for appending, and is on the disk before the next question: after SIGKILL or a
power cut a run goes on where it was. The first line says what the answers depend on; other settings need another file.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import orjson

from models.errors import ConfigError
from models.types import Json
from serving.label.client import Stopped

_BEGIN: Final = b'{"settings":'


@dataclass(slots=True)
class WorkFile:
    """`answers` by prompt and by what was asked (a tier, or the judge in one order). Errors that will not pass are
    answers, too; what may pass is only remembered for its cost."""

    path: Path
    fd: int
    answers: dict[tuple[str, str], Json] = field(default_factory=dict)
    spent_usd: float = 0.0

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any]) -> Self:
        """Raises ConfigError for a file of other settings, one in use, or one that is no work file; Stopped when the
        disk is full."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as exc:
            raise ConfigError(f"cannot write {path}: {exc.strerror}") from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise ConfigError(f"{path} is in use: is the same run going on already?") from None
        work = cls(path, fd)
        try:
            work._load(dict(settings))
        except BaseException:
            os.close(fd)
            raise
        return work

    def _load(self, settings: Json) -> None:
        data = self.path.read_bytes()
        if not _BEGIN.startswith(data[: len(_BEGIN)]):
            raise ConfigError(f"{self.path} is no work file; move it away, or name another --out")
        whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                entry = orjson.loads(line)
                if number > 1:
                    self._take(entry)
            except (orjson.JSONDecodeError, KeyError, TypeError) as exc:
                raise ConfigError(f"{self.path}:{number}: not a line of a work file: {exc}") from exc
            if number == 1 and entry["settings"] != settings:
                raise ConfigError(
                    f"{self.path} was begun with other settings ({entry['settings']}, now {settings}): "
                    "repeat those, or name another --out"
                )
        os.ftruncate(self.fd, whole)  # half a line: the process was killed while it wrote
        if not whole:
            self._write({"settings": settings})

    def add(self, entry: Json) -> None:
        """`key`, `what`, `cost_usd`, and an answer or an `error`."""
        self._write(entry)
        self._take(entry)

    def _take(self, entry: Json) -> None:
        self.spent_usd += float(entry["cost_usd"])
        if entry.get("final", True):
            self.answers[entry["key"], entry["what"]] = entry

    def _write(self, entry: Json) -> None:
        """All of a line or nothing: after half of one the file could not be read. Raises Stopped."""
        line, end = orjson.dumps(entry) + b"\n", os.fstat(self.fd).st_size
        try:
            written, why = os.write(self.fd, line), "the disk is full"
        except OSError as exc:
            written, why = 0, exc.strerror or str(exc)
        if written < len(line):
            os.ftruncate(self.fd, end)
            raise Stopped(f"cannot write {self.path}: {why}; free space and run the same command again")
        os.fsync(self.fd)

    def close(self) -> None:
        os.close(self.fd)
