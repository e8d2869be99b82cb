"""What runs inside the fake provider's instances: the real door, the real join, real TLS; a scripted engine behind.

Only the engine and the installing are played: everything the controller and a gateway talk to is what a box runs.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import uvicorn

from cluster.box.__main__ import tls_config
from cluster.box.door import Door
from cluster.box.identity import Identity

TOKEN = "engine-token"


@dataclass
class ScriptedEngine:
    """Fulfils `door.EngineState`; answers like an OpenAI server, at a stated speed."""

    token: str = TOKEN
    ready_after_s: float = 0.0
    seconds_per_answer: float = 0.0
    progress: str = "downloading weights"
    broken: bool = False
    answered: int = 0

    def __post_init__(self) -> None:
        self._began_s = time.monotonic()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _engine_handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def ready(self) -> bool:
        return not self.broken and time.monotonic() - self._began_s >= self.ready_after_s

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Box:
    """One door on a free port of 127.0.0.1, in a thread."""

    def __init__(self, env: Mapping[str, str], engine: ScriptedEngine) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="farthing-box-")
        folder = Path(self._folder.name)
        self.identity = Identity(folder / "identity", env["FARTHING_SERVER_NAME"], env["FARTHING_JOIN_TOKEN"])
        self.engine, self.heartbeat = engine, folder / "heartbeat"
        door = Door(self.identity, engine, self.heartbeat, lambda: {"gpu": "fake"})
        config = tls_config(door, "127.0.0.1", 0)
        config.timeout_graceful_shutdown = 1
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until_s = time.monotonic() + 10
        while not self._server.started and time.monotonic() < until_s:
            time.sleep(0.005)
        self.port = int(self._server.servers[0].sockets[0].getsockname()[1])

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(5)
        self.engine.close()
        self._folder.cleanup()


@dataclass
class FakeBoxes:
    """Starts a box for each instance that runs. `engines` says how the n-th one's engine behaves."""

    engines: list[dict[str, Any]] = field(default_factory=list)
    running: dict[int, Box] = field(default_factory=dict)
    started: int = 0

    def start(self, contract_id: int, env: Mapping[str, str]) -> tuple[str, int]:
        how = self.engines[self.started] if self.started < len(self.engines) else {}
        self.started += 1
        self.running[contract_id] = Box(env, ScriptedEngine(**how))
        return "127.0.0.1", self.running[contract_id].port

    def stop(self, contract_id: int) -> None:
        if box := self.running.pop(contract_id, None):
            # not under the provider's lock: a box that closes may take a moment
            threading.Thread(target=box.close, daemon=True).start()

    def close(self) -> None:
        for contract_id in list(self.running):
            self.running.pop(contract_id).close()


def _engine_handler(engine: ScriptedEngine) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16

        def _serve(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
            if self.headers.get("authorization") != f"Bearer {engine.token}":
                self._send(401, {"error": "internal token"})
                return
            time.sleep(engine.seconds_per_answer)
            engine.answered += 1
            tokens = int(body.get("max_tokens") or 1)
            if body.get("stream"):
                self._stream(tokens)
                return
            choice = {"index": 0, "message": {"role": "assistant", "content": "text"}, "finish_reason": "length"}
            self._send(200, {"choices": [choice], "usage": {"completion_tokens": tokens}, "path": self.path})

        def _stream(self, tokens: int) -> None:
            """A token every 20 ms, as an engine gives them, with the usage last."""
            self.close_connection = True
            self.send_response_only(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            ends = [{"index": 0, "delta": {}, "finish_reason": "length"}]
            events: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"content": "text "}}]}] * tokens
            usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}
            for event in [*events, {"choices": ends}, {"choices": [], "usage": usage}]:
                self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
                self.wfile.flush()
                time.sleep(0.02)
            self.wfile.write(b"data: [DONE]\n\n")

        def _send(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response_only(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _serve  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
