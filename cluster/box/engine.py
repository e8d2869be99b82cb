"""The engine of a box: weights on the disk, `models.local.engine` on loopback, started again when it ends.

A thread owns it. Weights that are there already (a restarted container) are not fetched again. Knows no TLS.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from cluster.state import write_private
from models.errors import FarthingError
from models.local.fit import check_fits
from models.local.gpus import detect_gpu
from models.local.profiles import flags, from_folder, resolve
from models.local.weights import prepare

LOOK_S = 2.0
RESTART_S = (2.0, 10.0, 30.0, 60.0)
END_S = 40.0  # the engine's own drain is 30


class Engine:
    """Fulfils `door.EngineState`. `start` returns at once."""

    def __init__(self, profile: str, data: Path) -> None:
        self._profile, self._data = profile, data
        self._port = free_port()  # on loopback, and the provider maps only the TLS port
        self.url, self.token = f"http://127.0.0.1:{self._port}", secrets.token_urlsafe(32)
        self.progress = "starting"
        self._up = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, name="engine", daemon=True)

    @property
    def ready(self) -> bool:
        return self._up.is_set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(END_S)

    def _live(self) -> None:
        failures = 0
        while not self._stop.is_set():
            began_s = time.monotonic()
            try:
                command = self._command()
                self.progress = "loading the model into vLLM and warming it up"
                self._run(command)
                self.progress = "the engine ended"
            except (FarthingError, OSError) as error:
                self.progress = f"failed: {error}"
            failures = 0 if time.monotonic() - began_s > 600 else failures + 1
            say(self.progress)
            self._stop.wait(RESTART_S[min(failures, len(RESTART_S)) - 1 if failures else 0])

    def _command(self) -> list[str]:
        profile, gpu = resolve(self._profile), detect_gpu()
        weights = prepare(profile, self._data / "models", self._report)
        if profile.architecture is None:
            profile = from_folder(weights, profile)
        if gpu is not None:
            check_fits(profile, gpu)
        token_file = self._data / "engine.token"
        write_private(token_file, self.token.encode())
        vllm = flags(profile, weights, device="cuda" if gpu else "cpu")
        bare = ["--port", str(self._port), "--token-file", str(token_file)]
        return [sys.executable, "-m", "models.local.engine", *bare, "--", *vllm]

    def _report(self, text: str) -> None:
        self.progress = text
        say(text)

    def _run(self, command: list[str]) -> None:
        """Until it ends by itself or `stop` ends it. It prints `ready` once it answers."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment())
        watcher = threading.Thread(target=self._watch, args=(process,), daemon=True)
        watcher.start()
        try:
            while process.poll() is None and not self._stop.wait(LOOK_S):
                pass
        finally:
            self._up.clear()
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()

    def _watch(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # a pipe was asked for
        for line in process.stdout:
            if line.strip() == "ready":
                self.progress = "serving"
                self._up.set()
            else:
                print(line, end="", flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """Without the join token and the provider's key to this instance: the engine needs neither."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FARTHING_", "CONTAINER_"))}
    return {**kept, "VLLM_HOST_IP": "127.0.0.1"}


def say(text: str) -> None:
    print(f"farthing-box: {text}", flush=True)
