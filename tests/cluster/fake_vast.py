"""vast.ai, for tests: its REST API over real HTTP, with its states, limits, races and bad habits, and its own bill.

Written from the documented shapes. Instances move through their states with time; what they become can be set for each
machine. The bill (`book`) is the server's own: it counts seconds whether anybody asks or not, so that a rental that the
controller forgot shows. `on_call` sees each call before it takes effect and after it, and may drop the connection.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Protocol
from urllib.parse import parse_qs, urlsplit

from tests.cluster.fake_market import Contract, Json, Machine, holds, offer, problem_of

__all__ = ["KEY", "Contract", "Drop", "FakeVast", "Machine", "Reply", "offer"]

KEY = "fake-account-key-0123456789"
PAGE_LIMIT = 25
Answer = tuple[int, Json | str]
When = Literal["before", "after"]


class Drop(Exception):
    """Raised by `on_call`: the connection ends without an answer, as in a time-out."""


class Reply(Exception):
    """Raised by `on_call`: answer this instead."""

    def __init__(self, status: int, body: Json | str) -> None:
        self.answer: Answer = (status, body)


class Boxes(Protocol):
    """What runs inside instances."""

    def start(self, contract_id: int, env: Mapping[str, str]) -> tuple[str, int]:
        """The address and the outer port that lead to the box's 8443."""
        ...

    def stop(self, contract_id: int) -> None: ...


@dataclass
class FakeVast:
    machines: dict[int, Machine] = field(default_factory=dict)
    boxes: Boxes | None = None
    credit_usd: float = 50.0
    search_quota: int = 1_000
    skew_s: float = 0.0
    speed: float = 1.0  # provider seconds per real second, for the bill
    list_lag: set[int] = field(default_factory=set)  # contracts the next listing leaves out
    on_call: Callable[[str, str, When], None] = lambda verb, path, when: None
    contracts: dict[int, Contract] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[Json] = field(default_factory=list)
    increases: list[Json] = field(default_factory=list)
    logs: dict[int, str] = field(default_factory=dict)
    searches: int = 0
    log_polls: int = 0

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self._began_s = time.time()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> FakeVast:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for contract in list(self.contracts.values()):
            self._end_box(contract)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, *offers: Json, **behaviour: Any) -> None:
        for raw in offers:
            self.machines[raw["id"]] = Machine(raw, **behaviour)

    def now_s(self) -> float:
        return self._began_s + (time.time() - self._began_s) * self.speed + self.skew_s

    # the server's own book

    def standing(self) -> list[Contract]:
        """Contracts that exist, and so bill at least their disk."""
        with self.lock:
            self._advance()
            return [c for c in self.contracts.values() if c.gone_s is None]

    def book_usd(self) -> float:
        with self.lock:
            self._advance()
            return sum(sum(c.bill_usd(self.now_s()).values()) for c in self.contracts.values())

    def outbid(self, contract_id: int) -> None:
        with self.lock:
            self._stop(self.contracts[contract_id])

    def resume(self, contract_id: int) -> None:
        """The higher bidder has left: the paused instance comes back by itself."""
        with self.lock:
            contract = self.contracts[contract_id]
            contract.stopped, contract.state, contract.created_s = False, None, contract.created_s

    def lose(self, contract_id: int, status: str = "offline") -> None:
        with self.lock:
            contract = self.contracts[contract_id]
            self._stop(contract)
            contract.stopped, contract.state = False, status
            contract.machine.boot = "silent"

    def _stop(self, contract: Contract) -> None:
        if contract.running_since_s is not None:
            contract.gpu_s += self.now_s() - contract.running_since_s
            contract.running_since_s = None
        contract.stopped, contract.state = True, "exited"
        self._end_box(contract)

    def _end_box(self, contract: Contract) -> None:
        if contract.port is not None and self.boxes is not None:
            self.boxes.stop(contract.id)
        contract.port = None

    def _advance(self) -> None:
        for contract in self.contracts.values():
            if contract.gone_s is None and not contract.stopped:
                self._advance_one(contract)
        if self.credit_usd <= 0:
            for contract in self.contracts.values():
                if contract.gone_s is None and not contract.stopped:
                    self._stop(contract)

    def _advance_one(self, contract: Contract) -> None:
        machine, age_s = contract.machine, (self.now_s() - contract.created_s) / self.speed
        if machine.boot == "silent":
            return
        if machine.outbid_after_s is not None and contract.is_bid and age_s > machine.outbid_after_s:
            machine.outbid_after_s = None
            self._stop(contract)
        elif age_s < machine.boot_s / 2:
            contract.state = None
        elif age_s < machine.boot_s or machine.boot == "stuck":
            contract.state = "loading"
        elif machine.boot == "exits":
            contract.state = "exited"
        elif machine.boot == "oci":
            contract.state = "created"
        elif machine.fail_after_s is not None and age_s > machine.boot_s + machine.fail_after_s:
            self.lose(contract.id)
        elif contract.running_since_s is None:
            contract.state, contract.running_since_s = "running", self.now_s()
            if self.boxes is not None:
                contract.host, contract.port = self.boxes.start(contract.id, contract.body["env"])

    # the API

    def answer(self, verb: str, target: str, headers: Mapping[str, str], body: Json) -> Answer:
        split = urlsplit(target)
        path, query = split.path, {k: v[0] for k, v in parse_qs(split.query).items()}
        if path.startswith("/s3/"):
            self.log_polls += 1
            return (200, self._printed(*path.split("/")[2:])) if self.log_polls % 2 == 0 else (404, "")
        token = headers.get("authorization", "").removeprefix("Bearer ")
        with self.lock:
            self._advance()
            if token != KEY and not self._own_instance(token, verb, path):
                return 401, {"success": False, "error": "auth_error", "msg": "Invalid user key"}
            for route_verb, pattern, method in self._routes():
                if verb == route_verb and (match := re.fullmatch(pattern, path)):
                    return method(*map(int, match.groups()), query=query, body=body)
        return 404, {"success": False, "error": "not_found", "msg": "no such endpoint"}

    def _own_instance(self, token: str, verb: str, path: str) -> bool:
        match = re.fullmatch(r"/api/v0/instances/(\d+)/", path)
        contract = self.contracts.get(int(match[1])) if match else None
        return contract is not None and contract.key == token and verb in ("GET", "PUT", "DELETE")

    def _routes(self) -> list[tuple[str, str, Callable[..., Answer]]]:
        one = r"/api/v0/instances/(\d+)/"
        return [
            ("GET", r"/api/v0/users/current/", lambda **_: (200, {"success": True, "balance": self.credit_usd})),
            ("POST", r"/api/v0/bundles/", self._search),
            ("PUT", r"/api/v0/asks/(\d+)/", self._rent),
            ("GET", r"/api/v1/instances/", self._list),
            ("GET", r"/api/v0/instances/", lambda **_: (410, {"success": False, "error": "gone", "msg": "use v1"})),
            ("GET", one, self._show),
            ("DELETE", one, self._destroy),
            ("PUT", r"/api/v0/instances/reboot/(\d+)/", self._reboot),
            ("PUT", r"/api/v0/instances/request_logs/(\d+)/", self._logs),
            ("GET", r"/api/v0/charges/", self._charges),
            ("GET", r"/api/v0/instances/pending-price-increases/", self._increases),
        ]

    def _search(self, *, body: Json, **_: Any) -> Answer:
        self.searches += 1
        if self.searches > self.search_quota:
            return 429, {"success": False, "error": "search_quota_exceeded", "msg": "Daily search quota exceeded"}
        taken = {c.machine.offer["id"] for c in self.contracts.values() if c.gone_s is None}
        found = [m.offer for m in self.machines.values() if m.offer["id"] not in taken]
        for name, conditions in body.items():
            if isinstance(conditions, dict):
                found = [raw for raw in found if all(holds(op, raw.get(name), to) for op, to in conditions.items())]
        disk = float(body.get("allocated_storage") or 8)
        bids = body.get("type") == "bid"
        out = []
        for raw in found:
            gpu = raw["min_bid"] if bids else raw["dph_base"]
            out.append({**raw, "dph_base": gpu, "dph_total": gpu + disk * raw["storage_cost"] / 720, "is_bid": bids})
        out.sort(key=lambda raw: raw["dph_total"])
        return 200, {"offers": out[: int(body.get("limit") or 64)]}

    def _rent(self, offer_id: int, *, body: Json, **_: Any) -> Answer:
        if problem := problem_of(body):
            return 400, {"success": False, "error": "invalid_args", "msg": problem}
        if self.credit_usd <= 0:
            return 400, {"success": False, "error": "insufficient_credit", "msg": "Your account lacks credit"}
        machine = self.machines.get(offer_id)
        taken = any(c.machine is machine and c.gone_s is None for c in self.contracts.values())
        if machine is None or taken or not machine.offer["rentable"]:
            return 410, {"success": False, "error": "no_such_ask", "msg": f"ask {offer_id} is no longer available"}
        number = 7_000_000 + len(self.contracts)
        contract = Contract(number, machine, body, self.now_s(), "price" in body, f"instance-key-{number}")
        self.contracts[number] = contract
        self.bodies.append(body)
        if contract.is_bid and float(body["price"]) < machine.offer["min_bid"]:
            contract.stopped, contract.state = True, None
            return 400, {"success": False, "error": "invalid_price", "msg": "bid too low", "new_contract": number}
        return 200, {"success": True, "new_contract": number, "instance_api_key": contract.key}

    def _list(self, *, query: Mapping[str, str], **_: Any) -> Answer:
        limit, after = int(query.get("limit", PAGE_LIMIT)), int(query.get("after_token", 0))
        if limit > PAGE_LIMIT:
            return 400, {"success": False, "error": "invalid_args", "msg": "limit is at most 25"}
        rows = [c for c in self.contracts.values() if c.gone_s is None and c.id > after and c.id not in self.list_lag]
        page = rows[:limit]
        if len(rows) <= limit:
            self.list_lag.clear()
        token = str(page[-1].id) if len(rows) > limit else None
        shown = [self._shown(c) for c in page]
        return 200, {"success": True, "instances_found": len(page), "next_token": token, "instances": shown}

    def _show(self, number: int, **_: Any) -> Answer:
        contract = self.contracts.get(number)
        if contract is None or contract.gone_s is not None:
            return 200, {"instances": None}
        return 200, {"instances": self._shown(contract)}

    def _destroy(self, number: int, **_: Any) -> Answer:
        contract = self.contracts.get(number)
        if contract is None or contract.gone_s is not None:
            return 404, {"success": False, "error": "no_such_instance", "msg": f"Instance {number} not found"}
        self._stop(contract)
        contract.gone_s = self.now_s()
        return 200, {"success": True}

    def _reboot(self, number: int, **_: Any) -> Answer:
        return (200, {"success": True}) if number in self.contracts else (404, {"error": "no_such_instance"})

    def _logs(self, number: int, *, body: Json, **_: Any) -> Answer:
        return 200, {"success": True, "result_url": f"{self.url}/s3/{number}/{body.get('tail') or 1000}"}

    def _printed(self, number: str, tail: str) -> str:
        return "".join(self.logs.get(int(number), "nothing yet").splitlines(keepends=True)[-int(tail) :])

    def _charges(self, *, query: Mapping[str, str], **_: Any) -> Answer:
        if "day" not in json.loads(query["select_filters"]):
            return 400, {"success": False, "error": "invalid_args", "msg": "day is required"}
        rows = []
        for c in self.contracts.values():
            bill = c.bill_usd(self.now_s())
            items = [{"type": kind, "amount": round(usd, 3)} for kind, usd in bill.items()]
            amount = round(sum(bill.values()), 3)
            rows.append(
                {"type": "instance", "source": f"instance-{c.id}", "amount": amount, "items": items}
                | {"metadata": {"label": c.label}}
            )
        start, size = int(query.get("after_token", 0)), int(query.get("limit", 500))
        more = str(start + size) if start + size < len(rows) else None
        return 200, {"success": True, "results": rows[start : start + size], "next_token": more}

    def _increases(self, **_: Any) -> Answer:
        return 200, {"success": True, "count": len(self.increases), "pending_price_increases": self.increases}

    def _shown(self, c: Contract) -> Json:
        oci = c.machine.boot == "oci" and c.state == "created"
        wanted = "stopped" if c.stopped else "running"
        running = c.state == "running"
        return {
            "id": c.id,
            "label": c.label,
            "machine_id": c.machine.offer["machine_id"],
            "gpu_name": c.machine.offer["gpu_name"],
            "num_gpus": c.machine.offer["num_gpus"],
            "actual_status": c.state,
            "status_msg": "Error response from daemon: OCI runtime create failed: x" if oci else "",
            "cur_state": "stopped" if c.stopped else "running" if running else "unloaded",
            "next_state": wanted,
            "intended_status": wanted,
            "dph_total": c.gpu_usd_per_hour + c.disk_usd_per_hour,
            "is_bid": c.is_bid,
            "min_bid": c.machine.offer["min_bid"],
            "disk_space": c.body["disk"],
            "storage_cost": c.machine.offer["storage_cost"],
            "public_ipaddr": f"{c.host}\n" if running else None,
            "ports": {"8443/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(c.port)}]} if running and c.port else None,
            "ssh_host": "ssh5.vast.ai",
            "ssh_port": 12345,
            "start_date": c.created_s,
            "end_date": self.now_s() + c.machine.offer["duration"],
            "extra_env": [[k, v] for k, v in c.body["env"].items()],
            "gpu_util": 0.0 if running else None,
            "gpu_temp": 40.0 if running else None,
        }


def _handler(fake: FakeVast) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # one segment for each answer

        def _serve(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            raw = self.rfile.read(length)
            path = urlsplit(self.path).path
            fake.calls.append((self.command, path))
            try:
                fake.on_call(self.command, path, "before")
                headers = {k.lower(): v for k, v in self.headers.items()}
                status, body = fake.answer(self.command, self.path, headers, json.loads(raw) if raw else {})
                fake.on_call(self.command, path, "after")
            except Drop:
                self.close_connection = True
                return
            except Reply as reply:
                status, body = reply.answer
            self._send(status, body)

        def _send(self, status: int, body: Json | str) -> None:
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            try:
                self.send_response_only(status)
                self.send_header("date", formatdate(fake.now_s(), usegmt=True))
                self.send_header("content-type", "text/plain" if isinstance(body, str) else "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:  # the caller has gone
                self.close_connection = True

        do_GET = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
