"""The script Ray takes for HAProxy: it corrects the configuration that Ray renders, then becomes HAProxy."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

from serving import haproxy

pytestmark = pytest.mark.skipif(not haproxy.available(), reason="HAProxy's wheel is not installed")
PORTS = {"frontend_port": 8000, "metrics_port": 9101, "stats_port": 8404, "grpc_frontend_port": 9000}


def template() -> str:
    spec = importlib.util.find_spec("ray")
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / "serve" / "_private" / "haproxy_templates.py").read_text()


def rendered() -> str:
    """Ray's own template as text, every placeholder filled in: the lines we correct as Ray writes them today."""
    text = template()
    for name, port in PORTS.items():
        text = text.replace("{{ config." + name + " }}", str(port))
    text = text.replace("{{ config.frontend_host }}", "127.0.0.1")
    text = text.replace("{{ config.grpc_frontend_host }}", "127.0.0.1")
    text = re.sub(r"\{%-?.*?-?%\}", "", text)
    return re.sub(r"\{\{.*?\}\}", "200", text)


SERVERS = """
backend http-engine
    server SERVE_REPLICA_engine-Engine-a 127.0.0.1:30000 check on-error mark-down
    server SERVE_REPLICA_engine-Engine-b 192.0.2.3:30000 check on-error mark-down
backend http-gateway
    server SERVE_REPLICA_gateway-Gateway-c 127.0.0.1:30001 check on-error mark-down
    server SERVE_REPLICA_gateway-Gateway-d 192.0.2.3:30001 check on-error mark-down
    server SERVE_PROXY_ACTOR-fallback-e 127.0.0.1:8500 check backup
listen stats
"""


def corrected(folder: Path, host: str = "127.0.0.1", node: str = "127.0.0.1", more: str = "") -> tuple[str, str]:
    """(the configuration, what HAProxy was started with) after the script ran as Ray runs it."""
    fake = folder / "real-haproxy"
    fake.write_text('#!/bin/sh\nprintf "%s " "$@"\n')
    fake.chmod(0o700)
    told = {**haproxy.on_node(node), **haproxy.environment(folder, host, PORTS["frontend_port"])}
    config = folder / "haproxy.cfg"
    config.write_text(rendered() + more)
    ran = subprocess.run(
        [told["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", config, "-x", "sock"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **told, "FARTHING_HAPROXY": str(fake)},
    )
    return config.read_text(), ran.stdout


def servers(config: str) -> dict[str, str]:
    """Its last letter to where it is, and what is said behind."""
    return {name[-1]: rest for name, rest in re.findall(r"^ *server (SERVE_[^ ]*-[a-e]) (.*)$", config, re.MULTILINE)}


def binds(config: str) -> list[str]:
    return re.findall(r"^\s*bind (\S+)", config, re.MULTILINE)


def test_rays_template_still_has_the_lines_we_correct() -> None:
    before = rendered()
    assert ":9101" in binds(before) and "*:8404" in binds(before)
    assert "mode 666" in before
    assert re.search(r"http-request return status 200 .* if routes$", before, re.MULTILINE)


def test_only_the_service_listens_and_rays_pages_are_gone(tmp_path: Path) -> None:
    assert binds(corrected(tmp_path, "0.0.0.0")[0]) == ["0.0.0.0:8000", "127.0.0.1:9000"]
    assert binds(corrected(tmp_path)[0]) == ["127.0.0.1:8000", "127.0.0.1:9000"]
    assert "[::]:8000" in binds(corrected(tmp_path, "::")[0])


def test_without_a_host_each_node_listens_at_its_own_address(tmp_path: Path) -> None:
    assert "192.0.2.2:8000" in binds(corrected(tmp_path, "", "192.0.2.2")[0])


def test_a_nodes_replicas_are_asked_where_they_listen_and_its_own_gateways_first(tmp_path: Path) -> None:
    assert "server {{ server.name }} {{ server.host }}:{{ server.port }} check" in template()
    found = servers(corrected(tmp_path, "", "192.0.2.2", SERVERS)[0])
    assert found == {
        "a": "192.0.2.2:30000 check on-error mark-down",
        "b": "192.0.2.3:30000 check on-error mark-down",  # engines are all alike
        "c": "192.0.2.2:30001 check on-error mark-down",
        "d": "192.0.2.3:30001 check on-error mark-down backup",
        "e": "127.0.0.1:8500 check backup",
    }


def test_folders_of_killed_instances_are_swept_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = haproxy.make_folder()
    gone = subprocess.Popen(["true"])
    gone.wait()
    dead, used = tmp_path / f"fh-{gone.pid}-aaaaaaaa", tmp_path / f"fh-{gone.pid}-bbbbbbbb"
    for folder in (dead, used, tmp_path / "fh-of-somebody-else"):
        folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()", f"{used}/haproxy.cfg"], stdin=subprocess.PIPE) as runs:
        assert haproxy.sweep() == [dead]
        runs.kill()
    assert mine.is_dir() and used.is_dir() and (tmp_path / "fh-of-somebody-else").is_dir() and not dead.exists()
    assert haproxy.sweep() == [used]


def test_sockets_are_ours_alone_and_the_routes_page_is_closed(tmp_path: Path) -> None:
    config, _ = corrected(tmp_path)
    assert "mode 666" not in config.replace("(mode 666)", "") and "mode 600 level admin" in config
    returns = re.findall(r"^\s*http-request return (.*) if routes$", config, re.MULTILINE)
    assert returns == ["status 404"]
    assert re.search(r"http-request return status 200 .* if healthcheck$", config, re.MULTILINE)


def test_haproxy_gets_rays_arguments_untouched(tmp_path: Path) -> None:
    _, arguments = corrected(tmp_path)
    assert arguments == f"-db -f {tmp_path / 'haproxy.cfg'} -x sock "


def test_every_path_and_port_is_this_instances_own(tmp_path: Path) -> None:
    environment = haproxy.environment(tmp_path, "127.0.0.1", 8000)
    paths = [value for name, value in environment.items() if name.endswith(("_PATH", "_LOC", "_BASE", "_FILE"))]
    assert len(paths) >= 5 and all(value.startswith(str(tmp_path)) for value in paths)


def test_neighbouring_instances_give_their_replicas_ports_of_their_own(tmp_path: Path) -> None:
    begins = [
        int(haproxy.environment(tmp_path, "127.0.0.1", port)["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"])
        for port in range(8000, 8040)
    ]
    assert min(abs(a - b) for a, b in combinations(begins, 2)) >= 20
    assert min(begins) >= 30_000 and max(begins) <= 30_900, "what a firewall between nodes lets through"


def test_haproxy_leaves_the_cores_to_the_gateways(tmp_path: Path) -> None:
    assert haproxy.environment(tmp_path, "", 8000)["RAY_SERVE_HAPROXY_NBTHREAD"] == "2"


def test_no_line_is_written_about_a_request(tmp_path: Path) -> None:
    def logging(config: str) -> list[str]:
        return re.findall(r"^\s*(log |log-format|option httplog|http-request set-var-fmt\(txn\.serve_)", config, re.M)

    assert {line.strip() for line in logging(rendered())} >= {"log", "log-format", "option httplog"}
    assert logging(corrected(tmp_path)[0]) == []
