"""Weights arrive whole or not at all: the embedded model for real, the hub as a small server that speaks its API."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from models.errors import StartError
from models.local.profiles import catalogue, resolve
from models.local.weights import MANIFEST, prepare, verify

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64}
FILES = {
    "config.json": json.dumps({**CONFIG, "max_position_embeddings": 512}).encode(),
    "model.safetensors": os.urandom(300_000),
    "pytorch_model.bin": b"the same again",
}


def silent(_: str) -> None:
    pass


class Hub(ThreadingHTTPServer):
    """A model hub with one repository, org/tiny. `cut` names a file whose transfers break off half-way."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.cut = ""
        self.requests: list[str] = []


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.server.requests.append(f"{self.command} {path}")
        if path.startswith("/api/models/org/tiny/tree"):
            numbered = enumerate(FILES.items(), 1)
            tree = [{"type": "file", "path": n, "size": len(b), "oid": f"{i:040x}"} for i, (n, b) in numbered]
            self.answer(json.dumps(tree).encode())
        elif path.startswith("/api/models/org/tiny"):
            siblings = [{"rfilename": name} for name in FILES]
            self.answer(json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(f"/org/tiny/resolve/{COMMIT}/"):
            self.send_file(path.rsplit("/", 1)[1])
        else:
            self.answer(b'{"error": "Repository not found"}', 404, {"X-Error-Code": "RepoNotFound"})

    def send_file(self, name: str) -> None:
        whole = FILES[name]
        start = int(self.headers.get("Range", "bytes=0-").split("=")[1].split("-")[0])
        headers = {"ETag": f'"{list(FILES).index(name) + 1:040x}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        self.answer(whole[start:], 206 if start else 200, headers, cut=name == self.server.cut)

    def answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if cut else body)
            self.close_connection = cut


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def prepare_command(
    root: Path, model: str, endpoint: str = "http://127.0.0.1:9", home: str = "hf"
) -> subprocess.CompletedProcess[str]:
    """A process of its own, because huggingface_hub reads its endpoint when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(root / home), "HF_HUB_DOWNLOAD_TIMEOUT": "2"}
    environment |= {"HF_HUB_ETAG_TIMEOUT": "2", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "models", "prepare", model, "--dir", str(root)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(scope="module")
def conversion(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Three callers at once, and what they were told."""
    root = tmp_path_factory.mktemp("models")
    reports: list[str] = []
    with ThreadPoolExecutor() as pool:
        calls = [pool.submit(prepare, catalogue()["embedded"], root, reports.append) for _ in range(3)]
    assert {call.result() for call in calls} == {root / "embedded"}
    return root / "embedded", reports


@pytest.fixture(scope="module")
def embedded(conversion: tuple[Path, list[str]]) -> Path:
    return conversion[0]


def test_callers_at_the_same_time_share_one_conversion(conversion: tuple[Path, list[str]]) -> None:
    folder, reports = conversion
    assert sum(text.startswith("converting") for text in reports) == 1
    assert sum("waiting" in text for text in reports) == 2
    assert not list(folder.parent.glob("*.partial"))


def test_the_embedded_model_is_what_its_profile_says(embedded: Path) -> None:
    """The sizes in the catalogue are those of the converted files."""
    converted = resolve(str(embedded)).architecture
    assert converted == catalogue()["embedded"].architecture
    verify(embedded)


def test_a_second_run_neither_converts_nor_imports_the_libraries_for_it(embedded: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in embedded.iterdir()}
    code = (
        "import sys; from models.__main__ import main; "
        f"main(['prepare', '--dir', {str(embedded.parent)!r}]); "
        "print(sorted({'torch', 'transformers', 'gguf', 'huggingface_hub'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.splitlines() == [str(embedded), "[]"]
    assert run.stderr == ""
    assert {path: path.stat().st_mtime_ns for path in embedded.iterdir()} == before


def test_damage_is_found(embedded: Path, tmp_path: Path) -> None:
    """A changed byte by checksum; a missing or short file already by the quick look, which makes the folder anew."""
    copy = tmp_path / "embedded"
    copy.mkdir()
    for name in (MANIFEST, "config.json", "tokenizer.json"):
        shutil.copy(embedded / name, copy)
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"] = {name: entry for name, entry in manifest["files"].items() if (copy / name).exists()}
    (copy / MANIFEST).write_text(json.dumps(manifest))
    verify(copy)
    (copy / "config.json").write_bytes((copy / "config.json").read_bytes().replace(b"llama", b"LLAMA"))
    with pytest.raises(StartError, match=r"damaged \(config.json\)"):
        verify(copy)
    (copy / "tokenizer.json").unlink()
    assert prepare(catalogue()["embedded"], tmp_path, silent) == copy
    verify(copy)


def test_the_chat_template_takes_tools_calls_and_results(embedded: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded)
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "sunny"},
    ]
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nBe brief.\n\nYou may call")
    assert '{"name": "weather", "parameters": {"type": "object"}}\n</tools>' in text
    assert 'assistant\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>' in text
    assert text.endswith("<tool_response>\nsunny\n</tool_response><|im_end|>\n<|im_start|>assistant\n")
    plain = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert plain.endswith("named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n")


def test_the_tokenizer_splits_digits_and_keeps_control_tokens(embedded: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(embedded / "tokenizer.json"))
    text = "x² + 1234 naïve<|im_end|>\n"
    encoded = tokenizer.encode(text)
    assert [t for t in encoded.tokens if t.isdecimal()] == ["1", "2", "3", "4"]
    assert "<|im_end|>" in encoded.tokens
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == text


def test_a_download_is_published_whole_and_only_with_what_vllm_reads(hub: Hub, tmp_path: Path) -> None:
    run = prepare_command(tmp_path, "org/tiny", hub.url)
    assert run.returncode == 0, run.stderr
    folder = tmp_path / "org--tiny"
    assert run.stdout.strip() == str(folder)
    assert {p.name for p in folder.iterdir() if p.is_file()} == {"config.json", "model.safetensors", MANIFEST}
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    seen = resolve("org/tiny", tmp_path)
    assert seen.weights == "org/tiny" and seen.architecture is not None
    assert seen.architecture.kv_bytes_per_token("auto") == 2 * 2 * 2 * 16 * 2

    asked = len(hub.requests)
    assert prepare_command(tmp_path, "org/tiny", hub.url).returncode == 0
    assert len(hub.requests) == asked


def test_a_cut_download_publishes_nothing_and_offline_does_not_mistake_it_for_whole(hub: Hub, tmp_path: Path) -> None:
    hub.cut = "model.safetensors"
    cut = prepare_command(tmp_path, "org/tiny", hub.url)
    assert cut.returncode == 2
    assert not (tmp_path / "org--tiny").exists()

    offline = prepare_command(tmp_path, "org/tiny", home="another-user")
    assert offline.returncode == 2
    assert offline.stderr.splitlines()[-1].startswith("error: could not download org/tiny (main)")
    assert not (tmp_path / "org--tiny").exists()

    hub.cut = ""
    assert prepare_command(tmp_path, "org/tiny", hub.url).returncode == 0
    assert (tmp_path / "org--tiny" / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_an_unknown_repository_is_one_line_without_a_stack_trace(hub: Hub, tmp_path: Path) -> None:
    run = prepare_command(tmp_path, "org/absent", hub.url)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith("error: there is no org/absent (main) on the hub")
    assert "Traceback" not in run.stderr


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StartError, match="safetensors"):
        prepare(resolve(str(tmp_path)), tmp_path / "root", silent)
