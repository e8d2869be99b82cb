from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.child import BenchmarkError
from benchmarks.cost import build_zeroeval, zeroeval
from benchmarks.cost.build_zeroeval import Said, Source
from tests.benchmarks.cost.questions import TEMPLATE, said

MODELS = ("Llama-3.1-8B-Instruct", "gpt-4o-2024-08-06")


def results(right: bool) -> list[dict[str, Any]]:
    """As the source has them: prompt, answers, and the reference with its mark."""
    return [
        {
            "model_input": TEMPLATE.format(question=f"What is {i} + {i}?"),
            "output": [said(2 * i if right else 0)],
            "answer": f"# {2 * i}",
            "generator": "somebody",
        }
        for i in range(1, 6)
    ]


FILES = {
    "/gsm/Meta-Llama-3.1-8B-Instruct.json": json.dumps(results(False)),
    "/gsm/gpt-4o-2024-08-06.json": json.dumps(results(True)),
}


def digest(right: bool) -> str:
    return build_zeroeval.digest([Said(r["model_input"], r["answer"][2:], r["output"][0]) for r in results(right)])


@pytest.fixture
def source() -> Iterator[Source]:
    class Files(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = FILES.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write((body or "").encode())

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    digests = {("gsm", MODELS[0]): digest(False), ("gsm", MODELS[1]): digest(True)}
    yield Source(f"http://127.0.0.1:{server.server_port}", digests, lambda text: len(text.split()))
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_sources_files_become_rows_that_the_benchmark_reads(tmp_path: Path, source: Source) -> None:
    path = build_zeroeval.build(tmp_path, source)
    found = zeroeval.read(path, MODELS)
    assert [q.text for q in found] == [f"What is {i} + {i}?" for i in range(1, 6)]
    assert found[2].reference == "6"
    assert found[2].correct == {MODELS[0]: 0.0, MODELS[1]: 1.0}
    assert found[2].answers[MODELS[1]].output_tokens == len(said(6).split())


def test_it_is_made_once(tmp_path: Path, source: Source) -> None:
    path = build_zeroeval.build(tmp_path, source)
    assert build_zeroeval.build(tmp_path, Source("http://127.0.0.1:1", {})) == path


def test_another_content_than_the_pinned_one_is_refused(tmp_path: Path, source: Source) -> None:
    changed = Source(source.base_url, {**source.digests, ("gsm", MODELS[1]): digest(False)}, source.count)
    with pytest.raises(BenchmarkError, match="is not what it was"):
        build_zeroeval.build(tmp_path, changed)
    assert not list(tmp_path.glob("*"))


def test_a_file_that_is_not_there_says_what_to_do(tmp_path: Path, source: Source) -> None:
    missing = Source(source.base_url, {("gsm", "nobody"): "0"}, source.count)
    with pytest.raises(BenchmarkError, match="--zeroeval FILE"):
        build_zeroeval.build(tmp_path, missing)


def test_the_order_of_a_file_does_not_matter_but_every_word_does() -> None:
    one, two = Said("p", "1", "a"), Said("q", "2", "b")
    assert build_zeroeval.digest([one, two]) == build_zeroeval.digest([two, one])
    assert build_zeroeval.digest([one, two]) != build_zeroeval.digest([one, Said("q", "2", "b ")])
