"""The cluster file: what is refused, by which path, and that every key is documented."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from cluster.config import ClusterConfig, load, parse
from models.errors import ConfigError
from tests.cluster.conftest import written

ROOT = Path(__file__).parents[2]
LEAST = "profile: qwen3-8b-awq\nmax_usd_per_hour: 0.5\nbudget_usd_per_day: 12\n"


def test_three_keys_are_enough() -> None:
    config = parse(LEAST)
    assert (config.boxes, config.interruptible, config.label_prefix) == (1, False, "farthing:default:")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("boxs: 2", "boxs: unknown key"),
        ("machines: {gpu: [RTX 4090]}", "machines.gpu: unknown key"),
        ("machines: {regions: [Sweden]}", "machines.regions.0"),
        ("boxes: 0", "boxes"),
        ("name: Not Good", "name"),
        ("image: {source: {url: 'https://x/y', sha256: abc}}", "image.source.sha256"),
        ("provider: {url: 'ftp://x'}", "provider.url"),
        ("budget_usd_per_day: 0.1", "does not pay one hour"),
        ("max_usd_per_hour: .inf", "max_usd_per_hour"),
        ("max_usd_per_hour: yes", "max_usd_per_hour: a number is wanted"),
        ("budget_usd_per_day: on", "budget_usd_per_day: a number is wanted"),
        ("budget_usd_per_day: 2026-11-27", "budget_usd_per_day"),
        ("boxes: yes", "boxes: a number is wanted"),
        ("boxes: 1e3", "boxes"),
        ("machines: {regions: [SE, NO]}", "machines.regions.1: Input should be a valid string: yes, no, on and off"),
        ("profile: ''", "profile"),
        ("name: ünïcode", "name"),
        ("provider: {url: 'http://['}", "provider.url: no host or port"),
        ("alarms: {url: 'https://x:99999/'}", "alarms.url: no host or port"),
        ("tls: {days: 99999999999}", "tls.days"),
        ("timing: {dead_man_hours: 0.0001}", "timing.dead_man_hours"),
        ("timing: {drain_s: .inf}", "timing.drain_s"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(line: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        parse("\n".join(p for p in LEAST.splitlines() if p.split(":")[0] != line.split(":")[0]) + "\n" + line)


def test_the_example_is_a_valid_file() -> None:
    assert load(ROOT / "cluster" / "example.yaml").profile == "qwen3-8b-awq"


def test_a_file_is_read_and_its_absence_said(tmp_path: Path, document: dict[str, Any]) -> None:
    assert load(written(document, tmp_path)).name == "test"
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path / "none.yaml")


def test_a_home_folder_is_meant_by_a_tilde() -> None:
    assert parse(LEAST + "state_dir: ~/boxes").folder == Path.home() / "boxes" / "default"


@pytest.mark.parametrize("raw", [b"\xff\xfe\x00", b"profile: [", b"- a list", b"", b"x" * 10_000_000, b"&a [*a, *a]"])
def test_a_file_that_is_no_cluster_file_is_refused_in_one_line(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=re.escape(str(path))) as refused:
        load(path)
    assert "\n" not in refused.value.message


def keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        inner = next((t for t in (field.annotation, *getattr(field.annotation, "__args__", ())) if is_model(t)), None)
        found |= keys(inner, f"{prefix}{name}.") if inner else {prefix + name}
    return found


def is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def test_every_key_is_documented_and_every_documented_one_exists() -> None:
    table = (ROOT / "docs" / "cluster.md").read_text().split("## The file")[1].split("\n## ")[0]
    documented = {
        key for row in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE) for key in re.findall(r"`(.+?)`", row)
    }
    assert documented == keys(ClusterConfig)
