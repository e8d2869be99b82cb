"""The cluster's own metrics in Prometheus text, and the loopback port where `watch` shows them.

Plain gauges of the state file and the last listing; docs/cluster.md lists them. Knows no provider.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cluster.config import ClusterConfig
from cluster.state import State
from cluster.vast_types import Instance

HOST = "127.0.0.1"
HELP = {
    "farthing_box_serving": "1 while the box is a member of the pool",
    "farthing_box_phase": "1 for the phase the slot's box is in",
    "farthing_box_usd_per_hour": "What the provider charges for it in its present state",
    "farthing_box_tokens_per_s": "Tokens a second measured at boot",
    "farthing_box_gpu_utilisation_ratio": "Share of time the GPU was busy, as the provider reports it",
    "farthing_cluster_wanted_boxes": "Boxes the file asks for; 0 after down",
    "farthing_cluster_spent_today_usd": "Counted for this UTC day",
    "farthing_cluster_budget_usd": "Allowed for a UTC day",
    "farthing_cluster_ended_boxes_total": "Boxes that ended, for whatever reason",
    "farthing_cluster_last_look_seconds": "Unix time of the last look at the provider that went through",
}
Sample = tuple[str, Mapping[str, str], float]


def samples(config: ClusterConfig, state: State, listed: Iterable[Instance], now_s: float) -> Iterator[Sample]:
    of = {"cluster": config.name}
    by_contract = {instance.contract_id: instance for instance in listed}
    for rental in state.live:
        box = {**of, "slot": str(rental.slot)}
        named = {**box, "gpu": rental.gpu}
        instance = by_contract.get(rental.contract_id or 0)
        yield "farthing_box_serving", named, float(rental.serves and rental.unhealthy_since_s is None)
        yield "farthing_box_phase", {**box, "phase": rental.phase}, 1.0
        yield "farthing_box_usd_per_hour", named, rental.billed_usd_per_hour
        if rental.tokens_per_s is not None:
            yield "farthing_box_tokens_per_s", named, rental.tokens_per_s
        if instance is not None and instance.gpu_util is not None:
            yield "farthing_box_gpu_utilisation_ratio", box, instance.gpu_util / 100
    yield "farthing_cluster_wanted_boxes", of, float(0 if state.closed else config.boxes)
    yield "farthing_cluster_spent_today_usd", of, state.spent_today_usd(now_s)
    yield "farthing_cluster_budget_usd", of, config.budget_usd_per_day
    yield "farthing_cluster_ended_boxes_total", of, float(sum(not r.live for r in state.rentals))
    yield "farthing_cluster_last_look_seconds", of, now_s


def render(found: Iterable[Sample]) -> str:
    """All samples of a name together, as the format wants."""
    by_name: dict[str, list[str]] = {}
    for name, labels, value in found:
        shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        by_name.setdefault(name, []).append(f"{name}{{{shown}}} {value:.10g}")
    lines: list[str] = []
    for name, rows in by_name.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# HELP {name} {HELP[name]}", f"# TYPE {name} {kind}", *rows]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@dataclass(slots=True)
class Exposition:
    """Serves the latest text at `/metrics` on loopback. Port 0 takes a free one."""

    port: int
    text: str = ""
    _server: ThreadingHTTPServer = field(init=False)

    def __post_init__(self) -> None:
        self._server = ThreadingHTTPServer((HOST, self.port), _handler(self))
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(shown: Exposition) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/metrics"
            data = shown.text.encode() if found else b""
            self.send_response_only(200 if found else 404)
            self.send_header("content-type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
