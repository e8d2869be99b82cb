"""What the vLLM adapter and the HTTP routes of the engine say to each other: load figures and refusals.

Pure. Knows how vLLM words its errors, because that decides their class here, but imports neither vLLM nor HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.errors import (
    BadRequest,
    ContextExceeded,
    FarthingError,
    ModelNotFound,
    Overloaded,
    Unavailable,
    Unsupported,
)

OVERLOADED_RETRY_S = 1.0
_CONTEXT_WORDS = ("maximum context length", "longer than the maximum model length")
_OVERLENGTH_PARAMS = ("input_tokens", "input_text")
_FIELD = re.compile(r"[a-z][a-z0-9_]*")
_PYDANTIC_KINDS = frozenset({"str", "int", "float", "bool", "list", "dict", "none", "nullable", "chain", "default"})


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """The engine's latest figures. The first three are of now, the others count up from the start of the process."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0  # share of KV-cache blocks in use, 0 to 1
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    rejections: int = 0


class EngineDead(Unavailable):
    """vLLM's core process has ended; only a new replica helps."""

    http_status = 503
    code = "engine_dead"
    retryable = False

    def __init__(self) -> None:
        super().__init__("the engine has stopped; its log says why, and it must be started again")


def engine_fault() -> FarthingError:
    """What a caller may know of an error that is not theirs."""
    return FarthingError("the engine failed on this request; its operator finds the cause in the engine's log")


def refusal(info: Mapping[str, Any]) -> FarthingError:
    """The error that vLLM's own error object (`message`, `code` = HTTP status, `param`) stands for."""
    status, param = int(info.get("code") or 500), info.get("param")
    message = re.sub(r" \(parameter=.*\)$", "", str(info.get("message") or ""), flags=re.DOTALL)
    if status == 503:
        return Overloaded("the engine's queue is full; try again shortly", retry_after_s=OVERLOADED_RETRY_S)
    if status == 501:
        return Unsupported(message, param=param)
    if status == 404:
        return ModelNotFound(message, param=param or "model")
    if not 400 <= status < 500:
        return engine_fault()
    if param in _OVERLENGTH_PARAMS or any(words in message for words in _CONTEXT_WORDS):
        return ContextExceeded(message, param="messages" if param in _OVERLENGTH_PARAMS else param)
    return BadRequest(message, param=param)


def invalid_fields(errors: Sequence[Mapping[str, Any]]) -> BadRequest:
    """Pydantic's findings as one error about the first field. A union reports each of its branches: they are one."""
    param = _field_path(errors[0]["loc"])
    same = {str(error["msg"]) for error in errors if _field_path(error["loc"]) == param}
    said = same.pop() if len(same) == 1 else "matches none of the accepted forms"
    return BadRequest(f"{param}: {said}" if param else said, param=param or None)


def _field_path(loc: Sequence[str | int]) -> str:
    """`('messages', 0, 'SomeBranch', 'role')` is `messages.0`: what follows a union's branch is a guess."""
    path: list[str] = []
    for part in loc:
        if isinstance(part, int) or (_FIELD.fullmatch(part) and part not in _PYDANTIC_KINDS):
            path.append(str(part))
        elif path:
            break
    return ".".join(path)
