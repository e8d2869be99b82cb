"""vLLM's own words for what went wrong, as errors of ours."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from models.errors import BadRequest, ContextExceeded, FarthingError, ModelNotFound, Overloaded, Unsupported
from models.local.vocabulary import EngineDead, engine_fault, invalid_fields, refusal


@pytest.mark.parametrize(
    ("info", "kind", "param"),
    [
        ({"code": 400, "message": "bad (parameter=top_k, value=-9)", "param": "top_k"}, BadRequest, "top_k"),
        ({"code": 400, "message": "This model's maximum context length is 8192"}, ContextExceeded, None),
        ({"code": 400, "message": "too long", "param": "input_tokens"}, ContextExceeded, "messages"),
        ({"code": 404, "message": "no model"}, ModelNotFound, "model"),
        ({"code": 501, "message": "not here", "param": "tools"}, Unsupported, "tools"),
        ({"code": 503, "message": "queue"}, Overloaded, None),
        ({"code": 500, "message": "CUDA error at /home/x"}, FarthingError, None),
        ({}, FarthingError, None),
    ],
)
def test_vllms_error_object_by_its_status(
    info: dict[str, object], kind: type[FarthingError], param: str | None
) -> None:
    error = refusal(info)
    assert (type(error), error.param) == (kind, param)
    assert "parameter=" not in error.message and "/home" not in error.message


def test_a_full_queue_says_when_to_come_again_and_a_dead_engine_is_not_asked_again() -> None:
    assert refusal({"code": 503}).retry_after_s == 1.0
    dead = EngineDead()
    assert (dead.http_status, dead.retryable, dead.moves_on) == (503, False, True)
    assert engine_fault().http_status == 500


class Part(BaseModel):
    role: int


class Body(BaseModel):
    n: int
    messages: list[Part | str] = []


def test_pydantics_findings_are_one_error_about_the_first_field() -> None:
    with pytest.raises(ValidationError) as caught:
        Body.model_validate({"n": "many"})
    assert invalid_fields(caught.value.errors()).param == "n"
    with pytest.raises(ValidationError) as caught:
        Body.model_validate({"n": 1, "messages": [{"role": "x"}]})
    error = invalid_fields(caught.value.errors())
    assert error.param == "messages.0" and "Part" not in error.message
