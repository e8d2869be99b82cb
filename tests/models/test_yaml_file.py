"""A key given twice is refused where it stands; all else is read as PyYAML's safe loader reads it."""

from __future__ import annotations

import pytest
import yaml

from cluster.config import parse as cluster_file
from models import yaml_file
from models.errors import ConfigError
from serving.config import parse as service_file

BOXES = "profile: embedded\nmax_usd_per_hour: 0.4\nbudget_usd_per_day: 5\n"
SERVICE = "tiers:\n  - {name: small, backends: [{kind: engine, profile: embedded}]}\n"


def test_a_key_given_twice_is_named_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"cluster file: .*'max_usd_per_hour' is given twice.*line 4"):
        cluster_file(BOXES + "max_usd_per_hour: 40\n")
    with pytest.raises(ConfigError, match="'small' is given twice"):
        service_file(SERVICE + "prices:\n  small: {}\n  other: {}\n  small: {}\n")
    with pytest.raises(ConfigError, match="'name' is given twice"):
        service_file(SERVICE.replace("{name: small", "{name: small, name: large"))


@pytest.mark.parametrize(
    "text",
    [
        BOXES,
        SERVICE,
        "a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}\n",  # a merged key may be given anew: that is what merging is for
        "- {a: 1}\n- {a: 1}\n",
        "a: {a: {a: 1}}\n",
        "? [1, 2]\n: 3\n",
        "1: a\n2: b\n",
        "",
        "just text",
        "2026-11-26",
    ],
)
def test_all_else_is_read_as_ever(text: str) -> None:
    try:
        wanted = yaml.safe_load(text)
    except yaml.YAMLError:
        with pytest.raises(ConfigError, match="not valid YAML"):
            yaml_file.parse(text, "file")
        return
    assert yaml_file.parse(text, "file") == wanted


def test_what_is_no_yaml_and_what_would_make_an_object_is_refused() -> None:
    for text in ("a: [1", "a: !!python/object/apply:os.system ['true']", "a: b: c"):
        with pytest.raises(ConfigError, match="file: not valid YAML"):
            yaml_file.parse(text, "file")
