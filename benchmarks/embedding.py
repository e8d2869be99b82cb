"""Which runtime should embed on this CPU, and does a faster one move decisions? And a lookup end to end.

    taskset -c 0 env OMP_NUM_THREADS=1 python -m benchmarks.embedding [--pairs FILE] [--entries 10000]
    python -m benchmarks.embedding --device cuda    # what a card makes of it, beside float32 on one CPU thread

Each runtime runs the embedded MiniLM on one thread: wall and CPU time of one text of 16, 64 and 256 tokens (runtimes
take turns of ten, so that a busy neighbour is busy for all), texts a second in batches, and agreement with float32: the
cosine of each vector with its float32 twin, how far the cosine of a pair of texts moves, and how many pairs change
sides of 0.90 and 0.95. FILE: JSON lines {a, b}, gzipped or not; without it pairs made from templates. CPU time is what
to compare on a machine that does other things. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from benchmarks.measure import summary_ms
from models.types import Usage
from router.cache.entries import Entry, Scope, new_id
from router.cache.faiss_index import FaissIndex
from router.cache.gpu_ring import GpuRing, row_bytes
from router.cache.index import VectorIndex
from router.cache.semantic import SemanticCache
from router.embedding.bert_onnx import BertOnnx, build, read_weights
from router.embedding.encoder import Network, TextEncoder
from router.embedding.load import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS
from router.embedding.minilm import folder, load_default
from router.embedding.torch_network import TorchNetwork

LENGTHS = (16, 64, 256)
ROUNDS = 10
TURN = 10
MOST_PAIRS = 1000
PHRASES = ("How do I {v} my {n}?", "What happens when I {v} a {n}?", "I do not want to {v} the {n} any more.")
VERBS = ("reset", "cancel", "return", "renew", "share", "delete", "change", "find")
NOUNS = ("password", "order", "subscription", "invoice", "account", "ticket", "address", "phone number")


def quantized() -> BertOnnx:
    """int8 weights, activations quantized as they come: ONNX Runtime's dynamic quantization of our graph."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    config = json.loads((folder() / "config.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        before, after = Path(scratch) / "float32.onnx", Path(scratch) / "int8.onnx"
        before.write_bytes(build(config, read_weights(folder())))
        options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        quantize_dynamic(before, after, per_channel=True, weight_type=QuantType.QInt8, extra_options=options)
        return BertOnnx(after.read_bytes(), int(config["hidden_size"]), "mean", 1)


def torch_network(change: Callable[[Any], Any]) -> TorchNetwork:
    network = TorchNetwork(folder(), "mean", "cpu", 1)
    network._model = change(network._model)
    return network


def dynamic_int8(model: Any) -> Any:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and measured all the same
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


def candidates(device: str) -> dict[str, Network]:
    """By name; the first is float32, which the others are held against."""
    import torch

    if device != "cpu":
        exact = BertOnnx.from_folder(folder(), "mean", 1)
        return {"onnxruntime float32": exact, f"torch float16, {device}": TorchNetwork(folder(), "mean", device, 1)}
    return {
        "onnxruntime float32": BertOnnx.from_folder(folder(), "mean", 1),
        "onnxruntime int8": quantized(),
        "torch float32": torch_network(lambda model: model),
        "torch bfloat16": torch_network(lambda model: model.to(torch.bfloat16)),
        "torch int8": torch_network(dynamic_int8),
        "torch float16 (as a GPU computes)": torch_network(lambda model: model.to(torch.float16)),
    }


def latencies(networks: dict[str, Network]) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(1)
    results: dict[str, dict[str, Any]] = {name: {} for name in networks}
    for length in LENGTHS:
        wall: dict[str, list[float]] = {name: [] for name in networks}
        cpu: dict[str, list[float]] = {name: [] for name in networks}
        for _, (name, network) in product(range(ROUNDS), networks.items()):
            for turn in range(TURN + 1):
                ids = rng.integers(1000, 20_000, (1, length))
                began_s, began_cpu_s = time.perf_counter(), time.process_time()
                network.pooled(ids, np.ones_like(ids))
                if turn > 0:  # the first finds the caches full of another runtime's weights
                    wall[name].append((time.perf_counter() - began_s) * 1000)
                    cpu[name].append((time.process_time() - began_cpu_s) * 1000)
        for name in networks:
            figures = {"p50_ms": statistics.median(wall[name]), "cpu_p50_ms": statistics.median(cpu[name])}
            results[name][f"{length}_tokens"] = {k: round(v, 2) for k, v in figures.items()}
    return results


def rate(encoder: TextEncoder, texts: list[str]) -> float:
    began_s = time.perf_counter()
    encoder.encode(texts)
    return round(len(texts) / (time.perf_counter() - began_s), 1)


def agreement(ours: NDArray[np.float32], exact: NDArray[np.float32]) -> dict[str, Any]:
    """Rows 2i and 2i+1 are a pair."""
    twins = (ours * exact).sum(axis=1)
    cosines, wanted = (v[::2] * v[1::2] for v in (ours, exact))
    cosines, wanted = cosines.sum(axis=1), wanted.sum(axis=1)
    moved = cosines - wanted
    return {
        "cosine_with_float32": {"mean": round(float(twins.mean()), 5), "min": round(float(twins.min()), 5)},
        "pair_cosine_moves_by": {
            "mean": round(float(moved.mean()), 5),
            "std": round(float(moved.std()), 5),
            "max": round(float(abs(moved).max()), 5),
        },
        "pairs": len(moved),
        "change_sides_of_0.90": int(((cosines >= 0.90) != (wanted >= 0.90)).sum()),
        "change_sides_of_0.95": int(((cosines >= 0.95) != (wanted >= 0.95)).sum()),
    }


def texts_of(pairs: Path | None) -> list[str]:
    if pairs is None:
        made = [p.format(v=v, n=n) for p, v, n in product(PHRASES, VERBS, NOUNS)]
        return made[: len(made) // 2 * 2]
    return list(islice(_read_pairs(pairs), 2 * MOST_PAIRS))


def _read_pairs(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        every = max(1, sum(1 for _ in lines) // MOST_PAIRS)
        lines.seek(0)
        for line in islice(lines, 0, None, every):
            pair = json.loads(line)
            yield from (pair["a"], pair["b"])


def index_on(device: str, encoder: TextEncoder, entries: int) -> VectorIndex:
    if device == "cpu":
        return FaissIndex(encoder.identity.sha256, encoder.dim)
    return GpuRing(encoder.identity.sha256, encoder.dim, (entries + 1) * row_bytes(encoder.dim, 2), device)


async def lookups(encoder: TextEncoder, entries: int, device: str) -> dict[str, Any]:
    """Embed and search, as the router does it: vectors of random directions, since only their number costs time."""
    rng = np.random.default_rng(2)
    words = [word for phrase in PHRASES for word in phrase.split() if "{" not in word] + [*VERBS, *NOUNS]
    scope, results = Scope("tenant", b"partition"), {}
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as scratch:
        index = index_on(device, encoder, entries)
        cache = await SemanticCache.open(Path(scratch) / "cache.sqlite", index, ["small"])
        for number in range(entries):
            vector = rng.standard_normal(encoder.dim).astype(np.float32)
            entry = Entry(
                new_id(), scope, "auto", "small", "m", f"text {number}", b"{}", Usage(), 1, time.time(), 9000
            )  # fmt: skip
            await cache.put(entry, vector / np.linalg.norm(vector), cache.epoch())
        await cache.flush()
        for length in LENGTHS[:2]:
            wall, cpu = [], []
            for _ in range(200):
                text = " ".join(rng.choice(words, length))
                while encoder.count_tokens([text])[0] > length:
                    text = text.rsplit(" ", 1)[0]
                began_s, began_cpu_s = time.perf_counter(), time.process_time()
                vector = (await loop.run_in_executor(None, encoder.encode, [text]))[0]
                await cache.lookup(vector, scope, "small")
                wall.append(time.perf_counter() - began_s)
                cpu.append(time.process_time() - began_cpu_s)
            results[f"{length}_tokens"] = {"ms": summary_ms(wall), "cpu_ms": summary_ms(cpu)}
        await cache.close()
    return {"entries": entries, **results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, help="JSON lines {a, b}, gzipped or not")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for float16 and the ring")
    parser.add_argument("--entries", type=int, default=10_000, help="in the cache of the end-to-end lookup")
    args = parser.parse_args()
    texts = texts_of(args.pairs)
    networks, default = candidates(args.device), load_default(device=args.device)
    batch_tokens = CPU_BATCH_TOKENS if args.device == "cpu" else GPU_BATCH_TOKENS
    results = latencies(networks)
    exact: NDArray[np.float32] | None = None
    for name, network in networks.items():
        tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
        encoder = TextEncoder(default.identity, tokenizer, network, batch_tokens)
        vectors = encoder.encode(texts)
        exact = vectors if exact is None else exact  # the first is float32
        results[name] |= {"texts_per_s": rate(encoder, texts[:256]), **agreement(vectors, exact)}
        print(json.dumps({name: results[name]}), file=sys.stderr)
    end_to_end = asyncio.run(lookups(default, args.entries, args.device))
    print(json.dumps({"device": args.device, "runtimes": results, "lookup": end_to_end}))


if __name__ == "__main__":
    main()
