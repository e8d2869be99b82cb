"""The filter before the exact cache's file: never "no" of what is stored, seldom "perhaps" of what is not."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from serving.cache.seen import SLOTS, Seen


def key(number: int) -> bytes:
    return hashlib.blake2b(number.to_bytes(8), digest_size=32).digest()


def test_what_was_noted_is_perhaps_there_and_hardly_anything_else(tmp_path: Path) -> None:
    seen = Seen(tmp_path / "seen")
    for number in range(10_000):
        seen.note(key(number))
    assert all(seen.perhaps(key(number)) for number in range(10_000))
    assert sum(seen.perhaps(key(number)) for number in range(10_000, 60_000)) < 50
    seen.close()


def test_processes_share_it_and_it_outlives_them(tmp_path: Path) -> None:
    one, other = Seen(tmp_path / "seen"), Seen(tmp_path / "seen")
    one.note(key(1))
    assert other.perhaps(key(1)) and not other.perhaps(key(2))
    one.close()
    other.close()
    again = Seen(tmp_path / "seen")
    assert again.perhaps(key(1))
    again.close()


def test_when_keys_long_gone_fill_it_it_begins_anew(tmp_path: Path) -> None:
    seen = Seen(tmp_path / "seen")
    seen._map[:] = b"\x01" * SLOTS
    seen.refill([key(1)])
    assert seen.perhaps(key(1)) and not seen.perhaps(key(2))
    seen.close()


@given(st.sets(st.binary(min_size=32, max_size=32), max_size=50))
def test_it_never_denies_what_is_there(keys: set[bytes]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        seen = Seen(Path(folder) / "seen")
        seen.refill(keys)
        assert all(map(seen.perhaps, keys))
        seen.close()
