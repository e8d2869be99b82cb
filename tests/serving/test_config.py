"""Configuration: what is shipped parses, what is wrong is refused with its path, what is configured is documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from models.errors import ConfigError
from serving.config import Config, EngineBackend, HttpBackend, load, parse

ROOT = Path(__file__).parents[2]
SMALL = "tiers: [{name: small, backends: [{kind: engine}]}]\n"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_file_parses_and_is_explained_in_the_readme(path: Path) -> None:
    load(path)
    assert f"configs/{path.name}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected a mapping"),
        ("x: [", "not valid YAML"),
        ("tiers: []", "tiers: List should have at least 1 item"),
        (SMALL + "colour: red", "colour: unknown key"),
        ("tiers: [{name: small, backends: [{kind: engine, gpu: 1}]}]", "tiers.0.backends.0.gpu: unknown key"),
        (SMALL + "listen: {port: 99999}", "listen.port: Input should be less than or equal to 65535"),
        ("tiers: [{name: auto, backends: [{kind: engine}]}]", "'auto' is reserved"),
        (SMALL + "listen: {host: 0.0.0.0}\nauth: {required: false}", "keys cannot be turned off"),
        (SMALL + "ray: {address: '192.0.2.1:6379'}\nauth: {required: false}", "keys cannot be turned off"),
        (SMALL + "routing: {default_tier: big}", "there is no tier 'big'"),
        (SMALL + "listen: {host: 0.0.0.0, admin_port: 8000}", "listen.admin_port: the service itself listens there"),
        (
            SMALL.replace(
                "small,", "small, price: {input_usd_per_mtok: 1, output_usd_per_mtok: 1, as_of: 2026-11-01},"
            ),
            "priced by usd_per_hour",
        ),
        (
            "tiers: [{name: f, price: {usd_per_hour: 1}, backends: [{kind: http, url: 'http://x', model: m}]}]",
            "priced by input_usd_per_mtok",
        ),
        (SMALL + "routing: {thresholds: {small: 2}}", "routing.thresholds.small: Input should be less than"),
        (SMALL + "routing: {cascade: {mode: act}}", "routing.cascade: artifacts: name the folder"),
        (SMALL + "routing: {cascade: {mode: act, artifacts: x}}", "the first tier must be our own engine"),
        (
            SMALL + "routing: {decider: learned, artifacts: x, cascade: {mode: shadow, artifacts: x}}",
            "routing: cascade: with learned.mode 'shadow'",
        ),
        (SMALL + "routing: {cascade: {band: [1, 0]}}", "routing.cascade: band: the lower end comes first"),
        (SMALL + "aliases: {gpt: nothing}", "aliases.gpt: 'nothing' is neither"),
        (SMALL.replace("]}]", "]}, {name: small, backends: [{kind: engine}]}]"), "the name 'small' is used twice"),
        (
            "tiers: [{name: f, backends: [{kind: http, url: 'ftp://x', model: m}]}]",
            "tiers.0.backends.0.url: String should",
        ),
    ],
)
def test_what_is_wrong_is_refused_with_its_path(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        parse(text)


def test_a_file_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give one with --config"):
        load(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("host", "required"),
    [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True), ("gpu.box", True)],
)
def test_an_address_others_can_reach_needs_keys(host: str, required: bool) -> None:
    assert parse(f"{SMALL}listen: {{host: '{host}'}}").auth_required is required


def test_every_key_is_documented() -> None:
    text = (ROOT / "docs" / "config.md").read_text()
    missing = [key for key in _keys(Config) if f"`{key}`" not in text and f"`{key.rsplit('.', 1)[0]}`" not in text]
    assert missing == []


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted paths of all leaves; the parts of a list or of a mapping count under its own name."""
    found = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        path = f"{prefix}{name}"
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += _keys(inner, f"{path}.")
        elif name == "backends":
            found += [k for kind in (EngineBackend, HttpBackend) for k in _keys(kind, f"{path}.")]
        elif name == "tiers":
            from serving.config import Tier

            found += _keys(Tier, f"{path}.")
        else:
            found.append(path)
    return found


def test_on_a_cluster_of_nodes_keys_are_required_even_on_loopback() -> None:
    """Each replica has a port on the nodes' network."""
    assert not parse(SMALL).auth_required
    assert parse(SMALL + "ray: {address: '192.0.2.1:6379'}").auth_required


def test_a_file_that_is_no_text_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(path)
