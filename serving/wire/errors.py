"""The one table from the error tree to HTTP. Knows no framework: status, headers and bytes."""

from __future__ import annotations

import math

import orjson

from models.errors import FarthingError
from models.types import Json

_UNEXPECTED = FarthingError(
    "the gateway failed on this request; ask its operator, with the x-request-id of this answer"
)


def as_farthing(error: BaseException) -> FarthingError:
    """What the caller may know of an error: anything outside the tree is one opaque fault of ours."""
    return error if isinstance(error, FarthingError) else _UNEXPECTED


def error_body(error: BaseException) -> Json:
    known = as_farthing(error)
    return {"error": {"message": known.message, "type": known.type, "param": known.param, "code": known.code}}


def http_error(error: BaseException) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer that failed before its first byte."""
    known = as_farthing(error)
    headers = {"content-type": "application/json"}
    if known.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(known.retry_after_s)))
    return known.http_status, headers, orjson.dumps(error_body(known))


def sse_error(error: BaseException) -> bytes:
    """The last event of a stream that broke. No `[DONE]` follows: it means a whole answer to every client.

    The openai SDK raises APIError on a data event that holds `error`; a client that knows no such event sees the
    connection end without `[DONE]`, which is as loud as this protocol gets.
    """
    return b"data: " + orjson.dumps(error_body(error)) + b"\n\n"
