"""YAML that people write: read safely, and a key given twice is a mistake, not the last one's word.

PyYAML takes the last one in silence, which YAML 1.2 forbids (3.2.1.3): a price cap would be another than the one seen.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from models.errors import ConfigError


class _Strict(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"'{key.value}' is given twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse(text: str, source: str) -> Any:
    """What the text says. Raises ConfigError, which names the place, for what is not YAML and for a key given twice."""
    try:
        return yaml.load(text, Loader=_Strict)
    except yaml.YAMLError as exc:
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(exc).split())}") from exc
