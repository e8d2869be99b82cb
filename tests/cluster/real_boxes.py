"""What runs inside the fake provider's instances, for real: bootstrap.sh, the supervisor, vLLM on the CPU, the door.

Only the rented machine is played: a process group with a disk of its own and, where machines are given, a network of
its own with one address, as a container has. Packages are there already.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from cluster.boot import TLS_PORT
from cluster.box.engine import free_port
from tests.stack.lan import Machine

ROOT = Path(__file__).parents[2]


@dataclass
class RealBoxes:
    """Each instance takes the next of `machines`; without any, it is on this host's loopback, on a port of its own."""

    folder: Path
    machines: list[Machine] = field(default_factory=list)
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    placed: dict[int, Machine] = field(default_factory=dict)

    def start(self, contract_id: int, env: Mapping[str, str]) -> tuple[str, int]:
        machine = self.machines.pop(0) if self.machines else None
        port = free_port() if machine is None else TLS_PORT
        wanted = {k: v for k, v in env.items() if k.startswith("FARTHING_")}
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/root"),
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # each box would take this machine's first core for its own
            "FARTHING_SET": "cpu",
            "FARTHING_DATA": str(self.folder / str(contract_id)),
            "FARTHING_TLS_PORT": str(port),
            "CONTAINER_ID": str(contract_id),
            "CONTAINER_API_KEY": f"instance-key-{contract_id}",
            **wanted,
        }
        command = ["bash", "cluster/bootstrap.sh"]
        with self.log(contract_id).open("wb") as log:
            if machine is not None:
                self.placed[contract_id] = machine
                self.running[contract_id] = machine.start(command, log, ROOT, environment)
            else:
                self.running[contract_id] = subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
                )
        return ("127.0.0.1" if machine is None else machine.address), port

    def log(self, contract_id: int) -> Path:
        return self.folder / f"{contract_id}.log"

    def stop(self, contract_id: int) -> None:
        """As a destroyed container ends, or as one does whose host is lost: all at once, without a word."""
        if (process := self.running.pop(contract_id, None)) is None:
            return
        if machine := self.placed.get(contract_id):
            machine.kill()
            return
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGKILL)
        for child in family:
            if child.is_running():
                child.kill()
        process.wait(20)

    def close(self) -> None:
        for contract_id in list(self.running):
            self.stop(contract_id)
