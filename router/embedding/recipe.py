"""How a model wants to be used: pooling, prefix and length, from the files that sentence-transformers writes.

What a folder asks for and we do not do is refused, never left out: it would give other vectors than its authors meant.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from models.errors import ConfigError
from router.embedding.encoder import Pooling

DEFAULT_MAX_TOKENS: Final = 512
_KNOWN_MODULES: Final = {"Transformer", "Pooling", "Normalize"}
_POOLING_KEYS: Final[dict[str, Pooling]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    pooling: Pooling
    prefix: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Stated:
    """What the operator says; None: what the folder says."""

    pooling: Pooling | None = None
    prefix: str | None = None
    max_tokens: int | None = None


def read_recipe(folder: Path, stated: Stated) -> Recipe:
    """Raises ConfigError when neither the folder nor the operator says how to pool, or for what we cannot do."""
    modules = _modules(folder)
    pooling = stated.pooling or _pooling(folder, modules)
    prefix = stated.prefix if stated.prefix is not None else _prefix(folder)
    return Recipe(pooling, prefix, _max_tokens(folder, stated.max_tokens))


def _modules(folder: Path) -> dict[str, str]:
    """Module name to the folder of its config."""
    listed = _read(folder / "modules.json") or []
    modules = {module["type"].rsplit(".", 1)[-1]: module["path"] for module in listed}
    if unknown := set(modules) - _KNOWN_MODULES:
        raise ConfigError(
            f"{folder} has a module {', '.join(sorted(unknown))} after the network; only pooling and normalising are "
            "done here: choose another embedding model"
        )
    return modules


def _pooling(folder: Path, modules: dict[str, str]) -> Pooling:
    config = _read(folder / modules["Pooling"] / "config.json") if "Pooling" in modules else None
    if config is None:
        raise ConfigError(
            f"{folder} does not say how to pool; state pooling: mean, cls or last, as its model card says"
        )
    asked = {key for key, on in config.items() if key.startswith("pooling_mode_") and on is True}
    if named := config.get("pooling_mode"):
        asked.add(named)
    names = {_POOLING_KEYS.get(key, key) for key in asked}
    if len(names) != 1 or not names <= set(get_args(Pooling)):
        raise ConfigError(f"{folder} pools by {', '.join(sorted(asked)) or 'nothing'}; we do mean, cls or last")
    if config.get("include_prompt") is False and _prefix(folder):
        raise ConfigError(f"{folder} leaves its prompt out of the pooling, which is not done here; state prefix: ''")
    return next(iter(names))


def _prefix(folder: Path) -> str:
    config = _read(folder / "config_sentence_transformers.json") or {}
    name = config.get("default_prompt_name")
    return str(config["prompts"][name]) if name else ""


def _max_tokens(folder: Path, stated: int | None) -> int:
    """The folder's own limit, at most 512: the cost grows faster than the length, and a longer question is rare."""
    positions = int((_read(folder / "config.json") or {}).get("max_position_embeddings") or DEFAULT_MAX_TOKENS)
    if stated is not None:
        if not 0 < stated <= positions:
            raise ConfigError(f"{folder} takes 1 to {positions} tokens; max_tokens is {stated}")
        return stated
    wanted = (_read(folder / "sentence_bert_config.json") or {}).get("max_seq_length") or DEFAULT_MAX_TOKENS
    return min(int(wanted), positions, DEFAULT_MAX_TOKENS)


def _read(path: Path) -> Any:
    """None without the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
