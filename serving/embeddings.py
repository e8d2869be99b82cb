"""`POST /v1/embeddings` over the router's own encoder: the request's fields, and the answer in OpenAI's shape. Pure."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
import orjson

from models.errors import BadRequest, ContextExceeded, ModelNotFound
from models.types import Json
from serving.semantic import Embedded
from serving.wire.fields import refuse

MAX_TEXTS = 512
MAX_CHARS = 1_000_000  # of all texts together: seconds of one core


@dataclass(frozen=True, slots=True)
class EmbeddingsAsked:
    texts: list[str]
    model: str
    base64: bool


def parse_embeddings(raw: bytes, model: str) -> EmbeddingsAsked:
    """Raises the 4xx that tells the caller what to change. `model` is the encoder's name here."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object with 'model' and 'input'")
    if body.get("model") not in (model, "auto"):
        raise ModelNotFound(f"there is no embedding model '{body.get('model')}'; use '{model}'", param="model")
    if body.get("encoding_format", "float") not in ("float", "base64"):
        refuse("encoding_format", "'float' or 'base64'")
    if body.get("dimensions") is not None:
        raise BadRequest("this encoder has one number of dimensions; leave 'dimensions' out", param="dimensions")
    return EmbeddingsAsked(_texts(body.get("input")), model, body.get("encoding_format") == "base64")


def _texts(given: object) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        refuse("input", "a non-empty string or a list of non-empty strings (token ids mean nothing to this encoder)")
    if len(texts) > MAX_TEXTS:
        raise BadRequest(f"{len(texts)} texts and the limit is {MAX_TEXTS}; send them in parts", param="input")
    if sum(map(len, texts)) > MAX_CHARS:
        raise ContextExceeded(f"the texts exceed {MAX_CHARS} characters together; send them in parts", param="input")
    return texts


def answer(asked: EmbeddingsAsked, found: Embedded) -> Json:
    table = np.frombuffer(found.data, np.float32).reshape(-1, found.dim)
    vectors = (base64.b64encode(row.tobytes()).decode() if asked.base64 else row.tolist() for row in table)
    data = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
    usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens, "cost": 0.0}
    return {"object": "list", "data": data, "model": asked.model, "usage": usage}
