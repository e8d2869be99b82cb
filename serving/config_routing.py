"""The `routing` part of the configuration: who decides, what a learned router may do, and the cascade."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Learned(_Frozen):
    """The learned router (docs/learned-routing.md). `shadow`: it decides and is recorded, the rules act."""

    mode: Literal["shadow", "act"] = "shadow"
    rollout: Annotated[float, Field(ge=0, le=1)] = 1.0  # share of conversations it acts on
    margin: Annotated[float, Field(ge=0)] = 0.1  # beyond the threshold, for a conversation to change its tier
    sticky_s: Annotated[float, Field(ge=0)] = 1800.0
    explore: Annotated[float, Field(ge=0, le=0.05)] = 0.0  # share answered by another tier than the wanted one
    strengths: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = None  # tier -> part of the gap it closes


class Cascade(_Frozen):
    """The first tier begins to answer what is in doubt (docs/cascade.md). `shadow`: judged, counted, never dropped."""

    mode: Literal["off", "shadow", "act"] = "off"
    tokens: Positive = 16
    band: tuple[float, float] = (0.0, 1.0)  # of the router's score, ends included
    accept_at: Annotated[float, Field(ge=0, le=1)] | None = None  # None: by the learned router's threshold
    full_answer: bool = False  # judge unary answers when they are whole
    artifacts: Path | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.mode != "off" and self.artifacts is None:
            raise ValueError("artifacts: name the folder that `python -m router train-cascade --out` wrote")
        if self.band[0] > self.band[1]:
            raise ValueError("band: the lower end comes first")
        return self


class Routing(_Frozen):
    decider: Literal["rules", "learned"] = "rules"
    learned: Learned = Learned()
    cascade: Cascade = Cascade()
    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = None
    default_tier: str | None = None  # when the router fails or is late; the first tier if not set
    deadline_ms: Positive = 200
    artifacts: Path | None = None

    @model_validator(mode="after")
    def _cascade_is_tried(self) -> Self:
        if self.cascade.mode != "off" and self.decider == "learned" and self.learned.mode == "shadow":
            raise ValueError(
                "cascade: with learned.mode 'shadow' the rules answer and nothing is tried; set it to 'act'"
            )
        return self
