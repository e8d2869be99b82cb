"""BERT encoders on the CPU: the graph, written from the safetensors file, and ONNX Runtime to run it in float32.

Against torch's eager mode: half the time for a short text, threads that are this session's own, and one call that
holds no GIL, where torch takes it back between operators and so waits for a busy event loop dozens of times. The fused
operators are ONNX Runtime's `com.microsoft` ones. Knows no tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError
from router.embedding.encoder import Pooling

_OPSET: Final = 17
_IR_VERSION: Final = 8
Weights = Mapping[str, NDArray[np.float32]]


def is_bert(config: Mapping[str, Any]) -> bool:
    """Whether this graph is the network that `config.json` describes; other architectures run in torch."""
    return (
        config.get("model_type") == "bert"
        and config.get("hidden_act") == "gelu"
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder")
    )


class BertOnnx:
    """`Network` over a serialised graph. threads: the session's own, whatever torch or OpenMP are set to."""

    def __init__(self, graph: bytes, dim: int, pooling: Pooling, threads: int) -> None:
        import onnxruntime  # a tenth of a second that a GPU encoder need not pay

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are vLLM's, too
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._pooling = pooling
        self._dim = dim

    @classmethod
    def from_folder(cls, folder: Path, pooling: Pooling, threads: int) -> Self:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return cls(build(config, read_weights(folder)), int(config["hidden_size"]), pooling, threads)

    @property
    def dim(self) -> int:
        return self._dim

    def pooled(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        feeds = {"ids": ids.astype(np.int32), "mask": mask.astype(np.int32)}
        (hidden,) = self._session.run(["hidden"], feeds)
        return pool(hidden, mask, self._pooling)


def pool(hidden: NDArray[np.float32], mask: NDArray[np.int64], pooling: Pooling) -> NDArray[np.float32]:
    """(n, t, dim) to (n, dim); padding, on the right, takes no part."""
    if pooling == "cls":
        return hidden[:, 0]
    lengths = np.maximum(mask.sum(axis=1), 1)
    if pooling == "last":
        last: NDArray[np.float32] = hidden[np.arange(len(hidden)), lengths - 1]
        return last
    weights = mask.astype(np.float32)[:, None, :]
    mean: NDArray[np.float32] = (weights @ hidden)[:, 0] / lengths[:, None].astype(np.float32)
    return mean


def read_weights(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Tensors by name, without the prefix that a model with a head puts before them."""
    from safetensors.numpy import load_file

    tensors: dict[str, NDArray[np.float32]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            tensors[name.removeprefix("bert.")] = np.ascontiguousarray(tensor, np.float32)
    return tensors


def build(config: Mapping[str, Any], weights: Weights) -> bytes:
    """The serialised graph: int32 `ids` and `mask` (n, t) to float32 `hidden` (n, t, dim)."""
    import onnx
    from onnx import helper

    graph = _Graph(weights, float(config["layer_norm_eps"]))
    # without segment ids the operator adds no segment embedding; ours is always that of segment 0
    segment = graph.tensor("embeddings.token_type_embeddings.weight")[0]
    positions = graph.tensor("embeddings.position_embeddings.weight") + segment
    words = graph.tensor("embeddings.word_embeddings.weight")
    tables = [graph.constant("words", words), graph.constant("positions", positions)]
    norm = graph.norm("embeddings.LayerNorm")
    inputs = ["ids", "", *tables, "", *norm]
    hidden = graph.node("EmbedLayerNormalization", inputs, outputs=2, epsilon=graph.epsilon)
    for layer in range(config["num_hidden_layers"]):
        hidden = _layer(graph, f"encoder.layer.{layer}", hidden, config["num_attention_heads"])
    graph.nodes.append(helper.make_node("Identity", [hidden], ["hidden"]))
    integers = [helper.make_tensor_value_info(n, onnx.TensorProto.INT32, ["n", "t"]) for n in ("ids", "mask")]
    dim = int(config["hidden_size"])
    result = helper.make_tensor_value_info("hidden", onnx.TensorProto.FLOAT, ["n", "t", dim])
    whole = helper.make_graph(graph.nodes, "bert", integers, [result], graph.constants)
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(whole, opset_imports=opsets, ir_version=_IR_VERSION)
    serialised: bytes = model.SerializeToString()
    return serialised


def _layer(graph: _Graph, name: str, hidden: str, heads: int) -> str:
    parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
    joined = np.concatenate([graph.tensor(f"{part}.weight").T for part in parts], axis=1)
    bias = np.concatenate([graph.tensor(f"{part}.bias") for part in parts])
    into = [graph.constant(f"{name}.qkv", joined), graph.constant(f"{name}.qkv_bias", bias)]
    context = graph.node("Attention", [hidden, *into, "mask"], num_heads=heads)
    attended = _add_and_norm(graph, f"{name}.attention.output", context, hidden)
    wide = graph.matmul(f"{name}.intermediate.dense", attended)
    active = graph.node("BiasGelu", [wide, graph.bias(f"{name}.intermediate.dense")])
    return _add_and_norm(graph, f"{name}.output", active, attended)


def _add_and_norm(graph: _Graph, name: str, branch: str, skip: str) -> str:
    product = graph.matmul(f"{name}.dense", branch)
    inputs = [product, skip, *graph.norm(f"{name}.LayerNorm"), graph.bias(f"{name}.dense")]
    return graph.node("SkipLayerNormalization", inputs, epsilon=graph.epsilon)


class _Graph:
    """Nodes and constants in the making; every method returns the name of what it added."""

    def __init__(self, weights: Weights, epsilon: float) -> None:
        self._weights = weights
        self.epsilon = epsilon
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def tensor(self, name: str) -> NDArray[np.float32]:
        try:
            return self._weights[name]
        except KeyError:
            raise ConfigError(f"the weights lack {name}: not the BERT model that config.json describes") from None

    def constant(self, name: str, value: NDArray[np.float32]) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def bias(self, name: str) -> str:
        return self.constant(f"{name}.bias", self.tensor(f"{name}.bias"))

    def norm(self, name: str) -> list[str]:
        return [self.constant(f"{name}.{part}", self.tensor(f"{name}.{part}")) for part in ("weight", "bias")]

    def matmul(self, name: str, value: str) -> str:
        return self.node("MatMul", [value, self.constant(f"{name}.weight", self.tensor(f"{name}.weight").T)])

    def node(self, kind: str, inputs: list[str], outputs: int = 1, **attributes: object) -> str:
        from onnx import helper

        names = [f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        domain = "" if kind == "MatMul" else "com.microsoft"
        self.nodes.append(helper.make_node(kind, inputs, names, domain=domain, **attributes))
        return names[0]
