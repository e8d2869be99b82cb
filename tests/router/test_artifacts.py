"""Artifacts: whole or not at all, swapped atomically, refused when damaged or made for another encoder."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.errors import ConfigError
from router.artifacts import Manifest, current_version, load, point_to, write


def manifest(version: str) -> Manifest:
    return Manifest(kind="threshold", version=version, created="2026-11-24", encoder_sha256="e1", metrics={"auc": 0.7})


def test_what_was_written_is_loaded_with_its_files(tmp_path: Path) -> None:
    write(tmp_path, manifest("v1"), {"threshold.json": b"0.4"})
    found, folder = load(tmp_path, encoder_sha256="e1")
    assert found.version == current_version(tmp_path) == "v1"
    assert (folder / "threshold.json").read_bytes() == b"0.4"


def test_the_pointer_moves_on_and_back(tmp_path: Path) -> None:
    write(tmp_path, manifest("v1"), {"a": b"1"})
    write(tmp_path, manifest("v2"), {"a": b"2"})
    assert load(tmp_path)[0].version == "v2"
    point_to(tmp_path, "v1")
    assert load(tmp_path)[0].version == "v1"
    with pytest.raises(ConfigError, match="no artifact v9"):
        point_to(tmp_path, "v9")


def test_the_pointer_never_points_to_itself_or_to_what_is_damaged(tmp_path: Path) -> None:
    good = write(tmp_path, manifest("v1"), {"a": b"1"})
    damaged = write(tmp_path, manifest("v2"), {"a": b"2"})
    point_to(tmp_path, "v1/")  # as a shell completes it
    (damaged / "a").write_bytes(b"3")
    for version, message in (
        ("current", "no artifact current"),
        (f"../{tmp_path.name}/v1", "no artifact"),
        ("v2", "missing or changed"),
    ):
        with pytest.raises(ConfigError, match=message):
            point_to(tmp_path, version)
        assert current_version(tmp_path) == good.name


def test_a_version_is_written_once(tmp_path: Path) -> None:
    write(tmp_path, manifest("v1"), {"a": b"1"})
    with pytest.raises(ConfigError, match="exists already"):
        write(tmp_path, manifest("v1"), {"a": b"2"})
    assert (load(tmp_path)[1] / "a").read_bytes() == b"1"


def test_the_same_artifact_made_again_is_made_current(tmp_path: Path) -> None:
    first = write(tmp_path, manifest("v1"), {"a": b"1"})
    write(tmp_path, manifest("v2"), {"a": b"2"})
    assert write(tmp_path, manifest("v1"), {"a": b"1"}) == first
    assert load(tmp_path)[0].version == "v1"


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, manifest("v1"), {"a": b"1"})
    (folder / "a").write_bytes(b"2")
    with pytest.raises(ConfigError, match="missing or changed"):
        load(tmp_path)


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    write(tmp_path, manifest("v1"), {})
    with pytest.raises(ConfigError, match="another encoder"):
        load(tmp_path, encoder_sha256="e2")


def test_an_empty_folder_has_no_version_and_does_not_load(tmp_path: Path) -> None:
    assert current_version(tmp_path) == ""
    with pytest.raises(ConfigError, match=r"no readable manifest"):
        load(tmp_path)
