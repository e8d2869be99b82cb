"""The `texts` part of the configuration (docs/texts.md): whose texts are kept, how many of them, and for how long."""

from __future__ import annotations

import hashlib
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.errors import ConfigError
from serving.texts.redact import Redactor

Names = Annotated[list[str], Field(min_length=1)]  # an empty list says nobody, and would be read as everybody


class Texts(BaseModel):
    """Off unless asked for. With neither `tenants` nor `keys` everybody's are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = False
    tenants: Names | None = None
    keys: Names | None = None
    sample: Annotated[float, Field(ge=0, le=1)] = 1.0
    keep_days: Annotated[int, Field(gt=0)] = 30
    max_mib: Annotated[int, Field(gt=0)] = 1024
    max_kib: Annotated[int, Field(gt=0)] = 64  # of one request, prompt and answer; a longer one is not kept at all
    patterns: dict[str, str] = {}  # placeholder -> regular expression, beside the built-in ones

    @model_validator(mode="after")
    def _usable(self) -> Self:
        try:
            Redactor(self.patterns)
        except ConfigError as exc:
            raise ValueError(exc.message) from exc
        return self

    def wants(self, request_id: str, tenant: str, key_id: str) -> bool:
        """The same for a request wherever it is asked: the share goes by a hash of the id."""
        everybodys = self.tenants is None and self.keys is None
        if not self.enabled or not (everybodys or tenant in (self.tenants or ()) or key_id in (self.keys or ())):
            return False
        place = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8]) / 2**64
        return place < self.sample
