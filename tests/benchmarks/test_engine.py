"""The scripted engine in vLLM's place, behind the engine's own routes; and what the benchmark asks of both engines."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from benchmarks import engine, overhead, scripted, shapes
from benchmarks.child import Nursery, free_port, python
from benchmarks.client import Expected
from benchmarks.load import Plan, drive, prompt
from benchmarks.scripted_engine import Vllm
from models.errors import BadRequest
from models.local.engine import MODULE_VARIABLE
from models.local.profiles import architecture_of, resolve


@pytest.mark.parametrize("stream", [False, True])
async def test_it_keeps_its_schedule_behind_the_engines_routes(tmp_path: Path, stream: bool) -> None:
    token, port = tmp_path / "token", free_port()
    token.write_text("secret")
    flags = ["--model", "ignored", "--scripted-ttft-ms", "50", "--scripted-itl-ms=10"]
    command = python("models.local.engine", "--port", str(port), "--token-file", str(token), "--", *flags)
    nursery = Nursery(tmp_path)
    with nursery.child("engine", command, {MODULE_VARIABLE: "benchmarks.scripted_engine"}) as child:
        await asyncio.to_thread(child.wait_for_line, "ready", 60.0)
        expected = Expected(text=scripted.text(5), tokens=5)
        plan = Plan(f"http://127.0.0.1:{port}/v1", "any", "secret", stream=stream, count=4, tokens=5, expected=expected)
        report = await drive(plan)
        refused = await drive(Plan(f"http://127.0.0.1:{port}/v1", "any", "wrong", count=1))
    assert (report["requests"], report["errors"]) == (4, 0)
    assert report["latency_ms"]["p50"] >= 90
    assert not stream or report["ttft_ms"]["p50"] >= 50
    assert "status 401" in refused["first_errors"][0]
    assert nursery.left_behind == []


async def test_it_refuses_what_is_no_chat_request() -> None:
    found = await Vllm.start([], lambda _: None)
    with pytest.raises(BadRequest):
        await found.answer("chat/completions", {"messages": 1})


def options(*arguments: str) -> argparse.Namespace:
    return engine.parser().parse_args(list(arguments))


def test_both_engines_get_the_same_flags(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    given = ["--model", str(tmp_path), "--weights", str(tmp_path), "--dummy", "--arg", "enforce-eager", "--arg=seed=3"]
    model = engine.Model.of(options(*given), tmp_path)
    assert model.backend() == {
        "kind": "engine",
        "profile": str(tmp_path),
        "weights": str(tmp_path),
        "args": {"load-format": "dummy", "enforce-eager": True, "seed": "3"},
    }
    flags = model.vllm_flags()
    assert flags[-5:] == ["--load-format", "dummy", "--enforce-eager", "--seed", "3"]
    assert flags[flags.index("--model") + 1] == str(tmp_path)
    assert flags[flags.index("--served-model-name") + 1] == model.profile.name == tmp_path.name


def test_random_weights_in_the_shape_of_a_profile(tmp_path: Path) -> None:
    """Its architecture is the profile's, and every token a random model can draw is text."""
    model = engine.Model.of(options("--model", "qwen3-8b-fp8", "--dummy"), tmp_path)
    assert model.weights.is_relative_to(tmp_path)
    config = json.loads((model.weights / "config.json").read_text())
    stated = resolve("qwen3-8b-fp8").architecture
    made = architecture_of(config, 1)
    assert stated is not None and model.profile.quantization == config["quantization_config"]["quant_method"]
    assert made.model_copy(update={"weight_bytes": stated.weight_bytes}) == stated
    tokenizer = Tokenizer.from_file(str(model.weights / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    drawn = range(0, config["vocab_size"] - len(shapes.SPECIAL), 997)
    assert all(tokenizer.decode([token]) for token in drawn)
    assert len(tokenizer.encode(prompt(Plan("", "", prompt_words=1000))).ids) < 1100  # a word is a token


def test_a_rate_card_needs_both_speeds() -> None:
    def row(who: str, tokens: int | None, prompt: float, output: float) -> dict[str, Any]:
        rates = {"prompt_tokens_per_s": {"median": prompt}, "output_tokens_per_s": {"median": output}}
        return {"contender": who, "tokens": tokens, **rates}

    rows = [row("bare", None, 10, 100), row("bare", None, 1000, 300), row("bare", 1, 5000, 5), row("serve", None, 1, 2)]
    card = engine._rate_card(rows)
    assert card == {"bare": {"prefill_tokens_per_s": 5000, "decode_tokens_per_s": 375}}
    second = 1000 / card["bare"]["prefill_tokens_per_s"] + 300 / card["bare"]["decode_tokens_per_s"]
    assert second == pytest.approx(1), "what a second answered is billed as a second"


def test_cost_of_a_million_tokens() -> None:
    row = {"output_tokens_per_s": {"median": 644.0}}
    assert engine._with_cost(row, options("--usd-per-hour", "0.45"))["usd_per_mtok_output"] == pytest.approx(0.1941)
    assert engine._with_cost(row, options()) == row


@pytest.mark.parametrize("main", [overhead.main, engine.main])
@pytest.mark.parametrize("arguments", [["--clients", "0"], ["--clients", "1,x"], ["--rounds", "0"], ["--nonsense"]])
def test_a_wrong_command_line_is_refused_before_anything_starts(
    main: object, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(main)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m benchmarks." in capsys.readouterr().err
