"""Set-up: what a machine needs, what is done already, and who is turned away. Nothing is installed here."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def setup_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/setup.py on a repository of its own."""
    spec = importlib.util.spec_from_file_location("setup_tool", TOOLS / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "requirements").mkdir()
    for name in ("cpu", "gpu", "dev"):
        (tmp_path / "requirements" / f"{name}.txt").write_text(f"{name}-package==1\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "STAMPS", tmp_path / ".venv" / ".farthing")
    monkeypatch.setattr(module, "LOG", tmp_path / ".venv" / "setup.log")
    monkeypatch.setattr(module, "say", lambda text: None)
    return module


@pytest.fixture
def installs(setup_tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have been installed."""
    done: list[str] = []
    monkeypatch.setattr(setup_tool, "make_venv", lambda kind: done.append(f"venv for {kind}"))
    monkeypatch.setattr(setup_tool, "install_torch", lambda: done.append("torch"))
    monkeypatch.setattr(setup_tool, "pip", lambda arguments: done.append(Path(arguments[-1]).name))
    return done


def test_a_second_run_does_nothing(
    setup_tool: ModuleType, installs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARTHING_SET", "cpu")
    assert setup_tool.main("serve") == 0
    assert installs == ["venv for cpu", "torch", "cpu.txt"]
    installs.clear()
    assert setup_tool.main("serve") == 0
    assert installs == []
    setup_tool.main("dev")
    assert installs == ["dev.txt"]


def test_a_changed_lock_is_installed_again_and_nothing_else(
    setup_tool: ModuleType, installs: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FARTHING_SET", "gpu")
    setup_tool.main("dev")
    assert installs == ["venv for gpu", "gpu.txt", "dev.txt"]
    installs.clear()
    (tmp_path / "requirements" / "gpu.txt").write_text("gpu-package==2\n")
    setup_tool.main("dev")
    assert installs == ["gpu.txt"]


def test_what_failed_is_done_again(
    setup_tool: ModuleType, installs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARTHING_SET", "cpu")

    def fails() -> None:
        raise setup_tool.SetupError("no network")

    with monkeypatch.context() as broken:
        broken.setattr(setup_tool, "install_torch", fails)
        with pytest.raises(setup_tool.SetupError):
            setup_tool.main("serve")
    installs.clear()
    setup_tool.main("serve")
    assert installs == ["torch", "cpu.txt"]


@pytest.mark.parametrize(
    ("script", "kind"),
    [("echo 'GPU 0: NVIDIA RTX'", "gpu"), ("echo 'No devices'", "cpu"), ("exit 9", "cpu"), (None, "cpu")],
)
def test_the_set_follows_from_what_nvidia_smi_says(
    setup_tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str | None, kind: str
) -> None:
    monkeypatch.delenv("FARTHING_SET", raising=False)
    programs = tmp_path / "bin"
    programs.mkdir()
    if script is not None:
        (programs / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (programs / "nvidia-smi").chmod(0o700)
    monkeypatch.setenv("PATH", str(programs))
    assert setup_tool.machine_set() == kind


def test_an_unknown_set_is_refused(setup_tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARTHING_SET", "tpu")
    with pytest.raises(setup_tool.SetupError, match="use cpu or gpu"):
        setup_tool.machine_set()


def test_a_full_disk_is_told_before_anything_is_made(
    setup_tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(setup_tool.NEEDED_GB, "cpu", 10**9)
    with pytest.raises(setup_tool.SetupError, match="GB are free here"):
        setup_tool.make_venv("cpu")
    assert not (tmp_path / ".venv").exists()


def turned_away(tmp_path: Path, **programs: str) -> str:
    """What tools/setup.sh says on a machine where these programs answer so."""
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o700)
    environment = {"PATH": f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin"}
    if "python" in programs:
        environment["PYTHON"] = str(tmp_path / "python")
    ran = subprocess.run(
        ["bash", str(TOOLS / "setup.sh"), "serve"], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1
    return ran.stderr


def test_other_machines_and_pythons_are_refused_with_a_clear_message(tmp_path: Path) -> None:
    assert "needs x86-64 Linux; this is aarch64 Linux" in turned_away(
        tmp_path, uname='[ "$1" = -m ] && echo aarch64 || echo Linux'
    )
    (tmp_path / "uname").unlink()
    old = f"exec {sys.executable} -c 'import sys; sys.exit(1)'"
    assert "is not CPython 3.11 or 3.12" in turned_away(tmp_path, python=old)
