"""The `python` checker: does the code in an answer pass the tests? It runs what a model wrote, so it has to be allowed.

A process of its own with limits on CPU time, memory, file size and processes, an empty environment, a folder of its
own, and, where the kernel lets us make them, a network without any interface and process numbers of its own, so that
whatever it has started ends with it. That stops accidents. It is no sandbox
against someone who means harm: what this user may read, the code may read. Run it in a container then.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

CPU_S: Final = 10
WALL_S: Final = 20.0
MEMORY_BYTES: Final = 1 << 30
FILE_BYTES: Final = 1 << 20

_FENCED = re.compile(r"```(?:python|py)?[^\S\n]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_CHILD: Final = """
import resource, sys
for limit, value in ((resource.RLIMIT_CPU, {cpu}), (resource.RLIMIT_AS, {memory}), (resource.RLIMIT_FSIZE, {file}),
                     (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_NPROC, 64)):
    resource.setrlimit(limit, (value, value))
source = sys.stdin.read()
exec(compile(source, "answer", "exec"), {{"__name__": "answer"}})
"""


def code_of(answer: str) -> str:
    """The last fenced block, else all of it."""
    blocks = _FENCED.findall(answer)
    return str(blocks[-1]) if blocks else answer


async def passes(answer: str, tests: str) -> bool:
    """Whether the tests, run behind the answer's code, come to their end."""
    token = secrets.token_hex(16)
    program = f"{code_of(answer)}\n\n{tests}\n\nimport sys\nsys.stdout.write('\\n{token}\\n')\nsys.stdout.flush()\n"
    with tempfile.TemporaryDirectory(prefix="farthing-label-") as folder:
        output = Path(folder) / "output"
        with output.open("wb") as file:
            child = await asyncio.create_subprocess_exec(
                *await _apart(),
                sys.executable,
                "-I",
                "-c",
                _CHILD.format(cpu=CPU_S, memory=MEMORY_BYTES, file=FILE_BYTES),
                stdin=asyncio.subprocess.PIPE,
                stdout=file,
                stderr=asyncio.subprocess.DEVNULL,
                cwd=folder,
                env={"PATH": os.defpath, "HOME": folder, "PYTHONDONTWRITEBYTECODE": "1"},
                start_new_session=True,
            )
        try:
            await asyncio.wait_for(child.communicate(program.encode("utf-8", "replace")), WALL_S)
        except TimeoutError:
            pass
        finally:
            _end(child.pid)
            await child.wait()
        ended = output.read_bytes().rstrip().endswith(token.encode())
    return child.returncode == 0 and ended


def _end(group: int) -> None:
    """What the code started goes with it; what has left its group, only where it has process numbers of its own."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


async def _apart() -> list[str]:
    """The words that put a command into a network and process numbers of its own; none where that is not possible."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return []
    words = [unshare, "--user", "--map-current-user", "--net", "--pid", "--fork", "--kill-child", "--"]
    trial = await asyncio.create_subprocess_exec(
        *words, "true", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    return words if await trial.wait() == 0 else []


async def network_is_cut() -> bool:
    return bool(await _apart())
