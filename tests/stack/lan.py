"""Several machines on one: network namespaces with an address each on one switch. Needs root; nothing of the host's own
network is touched, and the kernel removes it all with the processes that hold it."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

SWITCH = "br0"
NETWORK = "10.77.0"


@dataclass
class Machine:
    """A namespace, and what was started in it."""

    address: str
    holder: subprocess.Popen[bytes]
    port_on_switch: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def wrapped(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", *command]

    def start(
        self, command: Sequence[str], log: IO[bytes], cwd: Path, environ: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self.wrapped(command), stdout=log, stderr=subprocess.STDOUT, cwd=cwd, env=dict(environ)
        )
        self.processes.append(process)
        return process

    def inhabitants(self) -> list[psutil.Process]:
        """Every process whose network is this machine's, whoever its parent is."""
        ours = _network(self.holder.pid)
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError):
                if process.pid != self.holder.pid and _network(process.pid) == ours:
                    found.append(process)
        return found

    def kill(self) -> None:
        """SIGKILL to all that runs on it, as one blow: nobody has time to say goodbye."""
        victims = self.inhabitants()
        for process in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        for process in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for process in self.processes:
            process.wait(10)

    def listening(self) -> list[tuple[str, int, int]]:
        """(address, port, process) of every TCP socket that waits for callers."""
        done = subprocess.run(self.wrapped(["ss", "-Hltnp"]), capture_output=True, text=True, check=True)
        found = []
        for line in done.stdout.splitlines():
            address, _, port = line.split()[3].rpartition(":")
            found += [(address, int(port), int(pid)) for pid in re.findall(r"pid=(\d+)", line)]
        return found


@dataclass
class Lan:
    switch: subprocess.Popen[bytes]
    machines: list[Machine] = field(default_factory=list)

    def unplug(self, machine: Machine) -> None:
        """Its cable is gone: packets vanish, and no connection is closed."""
        _in(self.switch, f"ip link set {machine.port_on_switch} down")


@contextlib.contextmanager
def lan(count: int) -> Iterator[Lan]:
    """`count` machines that reach each other, and nothing else. Raises PermissionError where that is not allowed."""
    with contextlib.ExitStack() as stack:
        found = Lan(_namespace(stack))
        _in(found.switch, f"ip link add {SWITCH} type bridge")
        _in(found.switch, f"ip link set {SWITCH} up")
        for number in range(1, count + 1):
            holder, end = _namespace(stack), f"m{number}"
            _in(found.switch, f"ip link add {end} type veth peer name eth0 netns {holder.pid}")
            _in(found.switch, f"ip link set {end} master {SWITCH} up")
            address = f"{NETWORK}.{number}"
            _in(holder, f"ip address add {address}/24 dev eth0")
            _in(holder, "ip link set eth0 up")
            machine = Machine(address, holder, end)
            found.machines.append(machine)
            stack.callback(machine.kill)
        yield found


def _namespace(stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    """A process that holds a network namespace with a loopback device."""
    made = "ip link set lo up && echo made && exec sleep infinity"
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", made], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def end() -> None:
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)

    stack.callback(end)
    assert holder.stdout is not None
    with holder.stdout as said:
        if said.readline() != b"made\n":
            raise PermissionError("this user may not make network namespaces")
    return holder


def _network(pid: int) -> int:
    return Path(f"/proc/{pid}/ns/net").stat().st_ino


def _in(holder: subprocess.Popen[bytes], command: str) -> None:
    subprocess.run(["nsenter", f"--net=/proc/{holder.pid}/ns/net", *command.split()], check=True)
