"""A candidate of `benchmarks.embedding`: BERT in torch with weights packed once for oneDNN, products in bfloat16.

Residuals and norms stay in float32. Each layer has four products, of which any may be left in float32 as well: where
bfloat16 moves vectors most is part of the question. Not served (docs/embedding.md says why).
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from router.embedding.bert_onnx import read_weights
from router.embedding.torch_network import pool

PRODUCTS: Final = ("attention.self", "attention.output", "intermediate", "output")


class PackedBert:
    """`Network` with mean pooling. low: those of `PRODUCTS` in bfloat16. Sets the process to one torch thread."""

    def __init__(self, folder: Path, low: Collection[str] = PRODUCTS) -> None:
        torch.set_num_threads(1)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._weights = {name: torch.from_numpy(tensor) for name, tensor in read_weights(folder).items()}
        self._low = frozenset(low)
        self._heads: int = config["num_attention_heads"]
        self._epsilon: float = config["layer_norm_eps"]
        self.dim: int = config["hidden_size"]
        self._layers = [self._packed_layer(f"encoder.layer.{i}") for i in range(config["num_hidden_layers"])]

    def pooled(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            kept = torch.from_numpy(mask)
            hidden = self._hidden(torch.from_numpy(ids), None if mask.all() else kept[:, None, None, :].bool())
            vectors: NDArray[np.float32] = pool(hidden, kept, "mean").numpy()
        return vectors

    def _packed_layer(self, name: str) -> list[Any]:
        parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        joined = [torch.cat([self._weights[f"{part}.{kind}"] for part in parts]) for kind in ("weight", "bias")]
        dense = [[self._weights[f"{name}.{part}.dense.{kind}"] for kind in ("weight", "bias")] for part in PRODUCTS[1:]]
        return [
            *(self._pack(part, *pair) for part, pair in zip(PRODUCTS, [joined, *dense], strict=True)),
            *(self._norm(f"{name}.{part}.LayerNorm") for part in ("attention.output", "output")),
        ]

    def _pack(self, product: str, weight: Any, bias: Any) -> tuple[Any, Any, torch.dtype]:
        kind = torch.bfloat16 if product in self._low else torch.float32
        return torch.ops.mkldnn._reorder_linear_weight(weight.to(kind)), bias.to(kind), kind

    def _norm(self, name: str) -> tuple[Any, Any]:
        return self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]

    def _hidden(self, ids: Any, kept: Any) -> Any:
        rows, tokens = ids.shape
        table = self._weights["embeddings.position_embeddings.weight"][:tokens]
        segment = self._weights["embeddings.token_type_embeddings.weight"][0]
        words = functional.embedding(ids, self._weights["embeddings.word_embeddings.weight"])
        hidden = self._normed(words + table + segment, self._norm("embeddings.LayerNorm")).view(rows * tokens, self.dim)
        for joined, attended, wide, narrow, first, second in self._layers:
            query, key, value = product(hidden, joined).view(rows, tokens, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            context = functional.scaled_dot_product_attention(query, key, value, attn_mask=kept)
            flat = context.transpose(1, 2).reshape(rows * tokens, self.dim)
            hidden = self._normed(product(flat, attended).float() + hidden, first)
            inner = product(product(hidden, wide, "gelu"), narrow)
            hidden = self._normed(inner.float() + hidden, second)
        return hidden.view(rows, tokens, self.dim)

    def _normed(self, values: Any, norm: tuple[Any, Any]) -> Any:
        return functional.layer_norm(values, (self.dim,), *norm, self._epsilon)


def product(values: Any, packed: tuple[Any, Any, torch.dtype], then: str = "none") -> Any:
    weight, bias, kind = packed
    algorithm = "none" if then == "gelu" else ""  # gelu's: exact, not by tanh
    return torch.ops.mkldnn._linear_pointwise(values.to(kind), weight, bias, then, [], algorithm)
