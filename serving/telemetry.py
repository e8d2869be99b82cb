"""Metrics, in prometheus_client's multiprocess mode: every process writes its own files, `/metrics` adds them up.

The mode is chosen by PROMETHEUS_MULTIPROC_DIR, which the composition root sets before any replica starts. Owns the
names, labels and help texts (docs/metrics.md lists them; a test holds the two together). Knows nothing of requests
beyond the row it is given.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from models.errors import FarthingError
from serving.ledger.row import Row

if TYPE_CHECKING:
    from models.local.vocabulary import EngineLoad

Mode = Literal["livesum", "livemax", "mostrecent"]  # of prometheus_client's, those in use here
LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
PROBABILITY_BUCKETS = tuple(n / 10 for n in range(1, 10))
BREAKER_LEVELS = {"closed": 0, "half_open": 1, "open": 2}
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(directory: Path) -> bytes:
    """The whole service's metrics in Prometheus text format, summed over all processes that wrote to `directory`."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory))  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def in_flight(directory: Path) -> float:
    """Requests being answered by all gateway replicas."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory))  # type: ignore[no-untyped-call]
    return registry.get_sample_value("farthing_in_flight_requests") or 0.0


def forget_dead(directory: Path) -> None:
    """Take the gauges of processes that are gone out of the sums (their counters stay: what was counted happened).
    Several may do it at once."""
    for pid in {path.stem.rpartition("_")[2] for path in directory.glob("gauge_live*.db")}:
        if not Path("/proc", pid).exists():
            with contextlib.suppress(FileNotFoundError):  # another was faster; what it left goes the next time
                mark_process_dead(int(pid), str(directory))  # type: ignore[no-untyped-call]


class GatewayMetrics:
    """What a gateway replica counts. Implements models.backend.UpstreamObserver."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests by how they ended", "route", "reason", "status")
        self._tokens = self._counter("tokens", "Tokens by kind", "route", "model", "kind")
        self._cost = self._counter("cost_usd", "What requests cost, by part", "route", "model", "part")
        self._saved = self._counter("saved_usd", "What the same tokens would have cost more", "baseline")
        self._latency = self._histogram(
            "request_duration_seconds", "From admission to the last byte", "route", "stream"
        )
        self._ttft = self._histogram("time_to_first_token_seconds", "From admission to the first content", "route")
        self._cache = self._counter("cache_events", "Admitted requests by what the caches did for them", "event")
        self._in_flight = self._gauge("in_flight_requests", "Requests being answered", "livesum")
        self._unauthenticated = self._counter("unauthenticated", "Requests refused before a key was known", "code")
        self._upstream_errors = self._counter("upstream_errors", "Failed calls to a backend", "backend", "code")
        self._retries = self._counter("upstream_retries", "Calls asked again", "backend")
        self._resumed = self._counter("streams_resumed", "Broken streams that another engine carried on", "route")
        self._breaker = self._gauge("breaker_state", "0 closed, 1 half open, 2 open", "livemax", "backend")
        self._router = self._counter("router_fallbacks", "Decisions made by the default, by cause", "cause")
        self._cascade = self._counter("cascade_decisions", "Small answers on trial, by outcome", "outcome")
        self._doing = self._histogram(
            "cascade_probability", "Said of them: that the answer will do", buckets=PROBABILITY_BUCKETS
        )
        self._journal = self._counter("journal_errors", "Journal lines that could not be written")
        self._texts = self._counter("texts", "Requests whose texts were to be kept, by what became of them", "outcome")
        self._feedback = self._counter("feedback", "What callers said of answers", "route", "reason", "good")
        self._redacted = self._counter("texts_redacted", "Placeholders put into kept texts", "kind")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"farthing_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, mode: Mode, *labels: str) -> Gauge:
        return Gauge(f"farthing_{name}", text, labels, registry=self._registry, multiprocess_mode=mode)

    def _histogram(self, name: str, text: str, *labels: str, buckets: Sequence[float] = LATENCY_BUCKETS_S) -> Histogram:
        return Histogram(f"farthing_{name}", text, labels, registry=self._registry, buckets=buckets)

    def started(self) -> None:
        self._in_flight.inc()

    def ended(self) -> None:
        self._in_flight.dec()

    def settled(self, row: Row) -> None:
        """Count one closed row: the only place where requests, tokens and money are counted, but for what was wasted: a
        row names who answered, not whose answer was dropped."""
        route = row.route or "none"
        if row.status != "refused":  # a refused one never came to the cache
            self._cache.labels(row.cache).inc()
        self._requests.labels(route, row.reason or row.error_code or "none", row.status).inc()
        self._latency.labels(route, "yes" if row.stream else "no").observe(row.latency_ms / 1000)
        if row.ttft_ms is not None:
            self._ttft.labels(route).observe(row.ttft_ms / 1000)
        tokens = {
            "input": row.input_tokens - row.cached_input_tokens,
            "cached_input": row.cached_input_tokens,
            "output": row.output_tokens,
        }
        for kind, count in tokens.items():
            if count > 0:
                self._tokens.labels(route, row.model, kind).inc(count)
        parts = {
            "input": row.cost_input_nusd + row.cost_cached_input_nusd + row.cost_cache_write_nusd,
            "output": row.cost_output_nusd,
        }
        for part, nusd in parts.items():
            if nusd:
                self._cost.labels(route, row.model, part).inc(nusd / 1e9)
        for baseline, would in (("all_frontier", row.all_frontier_nusd), ("all_cheapest", row.all_cheapest_nusd)):
            if would is not None and would > row.cost_nusd:
                self._saved.labels(baseline).inc((would - row.cost_nusd) / 1e9)

    def wasted(self, route: str, model: str, nusd: int) -> None:
        self._cost.labels(route, model, "wasted").inc(nusd / 1e9)

    def unauthenticated(self, code: str) -> None:
        self._unauthenticated.labels(code).inc()

    def router_fell_back(self, cause: str) -> None:
        self._router.labels(cause).inc()

    def cascade_decided(self, outcome: str, probability: float | None) -> None:
        self._cascade.labels(outcome).inc()
        if probability is not None:
            self._doing.observe(probability)

    def journal_failed(self) -> None:
        self._journal.inc()

    def feedback(self, row: Row, good: bool) -> None:
        self._feedback.labels(row.route or "none", row.reason, "yes" if good else "no").inc()

    def texts(self, outcomes: Mapping[str, int], redacted: Mapping[str, int]) -> None:
        for outcome, count in outcomes.items():
            self._texts.labels(outcome).inc(count)
        for kind, count in redacted.items():
            self._redacted.labels(kind).inc(count)

    def upstream_error(self, backend: str, error: FarthingError) -> None:
        self._upstream_errors.labels(backend, error.code).inc()

    def retried(self, backend: str, attempt: int, wait_s: float) -> None:  # noqa: ARG002 - the observer's shape
        self._retries.labels(backend).inc()

    def resumed(self, route: str) -> None:
        self._resumed.labels(route).inc()

    def breaker_changed(self, backend: str, state: str) -> None:
        self._breaker.labels(backend).set(BREAKER_LEVELS[state])


class Bounded(Protocol):
    """The monitor of wrong hits, as far as metrics show it."""

    @property
    def counted(self) -> tuple[int, int]: ...

    @property
    def upper_bound(self) -> float: ...

    @property
    def tripped(self) -> bool: ...


class Watched(Protocol):
    """`router.watch.Report`, as far as metrics show it."""

    @property
    def psi_scores(self) -> float: ...

    @property
    def psi_inputs(self) -> float: ...

    @property
    def escalation(self) -> float: ...

    @property
    def escalation_by_key(self) -> Mapping[str, float]: ...


class RouterMetrics:
    """What the router's process publishes: the semantic cache, and the learned router's watch."""

    def __init__(self) -> None:
        registry = CollectorRegistry()

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"farthing_semantic_{name}", text, registry=registry, multiprocess_mode="mostrecent")

        self._lookups = Counter("farthing_semantic_lookups", "Look-ups by outcome", ("outcome",), registry=registry)
        self._labels = Counter("farthing_semantic_labels", "Compared answers", ("right",), registry=registry)
        for right in ("yes", "no"):
            self._labels.labels(right)  # from 0 on: the first label is a rise
        self._seconds = Histogram(
            "farthing_semantic_lookup_seconds", "Embed, search, verify", registry=registry, buckets=LATENCY_BUCKETS_S
        )
        self._entries = gauge("entries", "Stored answers")
        self._bytes = gauge("bytes", "What they take in the file")
        self._index_bytes = gauge("index_bytes", "What their vectors take in memory")
        self._hits = gauge("judged_hits", "Hits that the bound on wrong hits rests on")
        self._wrong = gauge("judged_wrong_hits", "Of these, wrong")
        self._bound = gauge("wrong_hit_rate_bound", "Upper 95% bound on wrong answers per hit")
        self._tripped = gauge("tripped", "1 while hits are stopped because the bound is above its budget")

        def watch(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"farthing_router_{name}", text, labels, registry=registry, multiprocess_mode="mostrecent")

        self._drift = watch("drift_psi", "Population stability index against the training data", "of")
        self._escalation = watch("escalation_ratio", "Share of recent requests wanting more than the first tier")
        self._escalation_max = watch("escalation_ratio_max", "The same of the tenant with the highest")
        self._acting = watch("acting_ratio", "Share of conversations that the learned router acts on; 0 in shadow")
        self._unscored = Counter(
            "farthing_router_unscored",
            "Requests that the rules decided for want of a score",
            ("cause",),
            registry=registry,
        )
        self._told: dict[str, int] = {}

    def looked_up(self, outcome: str, seconds: float) -> None:
        self._lookups.labels(outcome).inc()
        self._seconds.observe(seconds)

    def labelled(self, right: bool) -> None:
        self._labels.labels("yes" if right else "no").inc()

    def router(self, report: Watched, acting: float, fell_back: Mapping[str, int]) -> None:
        """fell_back: counts since the process began; what came since the last look is passed on, 0 included: a rise
        from nothing is seen only where the 0 was."""
        self._acting.set(acting)
        for name, psi in (("scores", report.psi_scores), ("inputs", report.psi_inputs)):
            if not math.isnan(psi):
                self._drift.labels(name).set(psi)
        self._escalation.set(report.escalation)
        self._escalation_max.set(max(report.escalation_by_key.values(), default=0.0))
        for cause, count in fell_back.items():
            self._unscored.labels(cause).inc(count - self._told.get(cause, 0))
            self._told[cause] = count

    def semantic(self, stats: Mapping[str, int], monitor: Bounded) -> None:
        self._entries.set(stats["entries"])
        self._bytes.set(stats["bytes"])
        self._index_bytes.set(stats["index_bytes"])
        wrong, hits = monitor.counted
        self._hits.set(hits)
        self._wrong.set(wrong)
        self._bound.set(monitor.upper_bound)
        self._tripped.set(float(monitor.tripped))


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU as NVML shows it."""

    index: int
    utilisation: float
    memory_used_bytes: int
    memory_total_bytes: int
    power_w: float


class NodeMetrics:
    """What the one ledger process of a node publishes: the ledger itself and the GPUs."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._rows = Counter("farthing_ledger_rows", "Rows closed in the ledger", registry=registry)
        self._lost = Counter("farthing_ledger_lost", "Rows closed as lost with their replica", registry=registry)
        self._corrupt = Counter("farthing_ledger_corrupt_lines", "Journal lines skipped", registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"farthing_{name}", text, labels, registry=registry, multiprocess_mode="mostrecent")

        self._lag = gauge("ledger_lag_bytes", "Journal not yet read")
        self._texts = gauge("texts_bytes", "Kept prompts and answers")
        self._util = gauge("gpu_utilisation_ratio", "Share of time the GPU was busy (NVML)", "gpu")
        self._used = gauge("gpu_memory_used_bytes", "GPU memory in use (NVML)", "gpu")
        self._total = gauge("gpu_memory_total_bytes", "GPU memory (NVML)", "gpu")
        self._power = gauge("gpu_power_watts", "Power drawn (NVML)", "gpu")

    def ingested(self, rows: int, lost: int, corrupt: int, lag_bytes: int) -> None:
        self._rows.inc(rows)
        self._lost.inc(lost)
        self._corrupt.inc(corrupt)
        self._lag.set(lag_bytes)

    def texts(self, size_bytes: int) -> None:
        self._texts.set(size_bytes)

    def gpu(self, reading: GpuReading) -> None:
        index = str(reading.index)
        self._util.labels(index).set(reading.utilisation)
        self._used.labels(index).set(reading.memory_used_bytes)
        self._total.labels(index).set(reading.memory_total_bytes)
        self._power.labels(index).set(reading.power_w)


class EngineMetrics:
    """What an engine replica publishes of vLLM's own scheduler."""

    def __init__(self) -> None:
        registry = CollectorRegistry()

        def gauge(name: str, text: str, mode: Mode = "livesum") -> Gauge:
            return Gauge(f"farthing_engine_{name}", text, ("model",), registry=registry, multiprocess_mode=mode)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"farthing_engine_{name}", text, ("model",), registry=registry)

        self._now = {
            "running": gauge("running_requests", "Requests vLLM is decoding"),
            "waiting": gauge("waiting_requests", "Requests in vLLM's queue"),
            "kv_usage": gauge("kv_cache_usage_ratio", "Share of KV-cache blocks in use", "livemax"),
        }
        self._since_start = {
            "prefix_hit_tokens": counter("prefix_cache_hit_tokens", "Prompt tokens found in the prefix cache"),
            "prefix_query_tokens": counter("prefix_cache_queried_tokens", "Prompt tokens looked up there"),
            "generated_tokens": counter("generated_tokens", "Tokens generated"),
            "preemptions": counter("preemptions", "Requests preempted for want of KV blocks"),
            "rejections": counter("rejections", "Requests refused because vLLM's queue was full"),
        }
        self._told: dict[tuple[str, str], int] = {}

    def observe(self, model: str, load: EngineLoad) -> None:
        """Take vLLM's figures."""
        self.observe_all(model, {"": load})

    def observe_all(self, model: str, loads: Mapping[str, EngineLoad]) -> None:
        """Take the figures of all engines of a model, by what each is called. Those that count since an engine's start
        are passed on as what came since the last look; one that counts from the beginning has been started anew."""
        for name, gauge in self._now.items():
            figures = [getattr(load, name) for load in loads.values()]
            gauge.labels(model).set(max(figures, default=0.0) if name == "kv_usage" else sum(figures))
        for name, counter in self._since_start.items():
            for engine, load in loads.items():
                total, told = getattr(load, name), self._told.get((engine, name), 0)
                counter.labels(model).inc(total - told if total >= told else total)
                self._told[engine, name] = total


def read_gpus() -> list[GpuReading]:
    """All NVIDIA GPUs of this node; empty without a driver."""
    import pynvml  # heavy and only here: it loads the driver's library

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [_reading(pynvml, i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _reading(nvml: Any, index: int) -> GpuReading:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return GpuReading(
        index=index,
        utilisation=nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
        memory_used_bytes=int(memory.used),
        memory_total_bytes=int(memory.total),
        power_w=nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
    )
