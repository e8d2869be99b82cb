"""The whole service with a real model, through the openai SDK: what callers will do on their first day."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import psutil
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from prometheus_client.parser import text_string_to_metric_families

from tests.stack.conftest import ROOT, SECRET, Service, still, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]
HARD = "Prove step by step that sqrt(2) is irrational. You must give at least two proofs."


@pytest.fixture
def client(service: Service) -> OpenAI:
    return OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0)


def ask(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def test_chat_gives_sane_text_and_says_where_it_came_from(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=ask("What is the capital of France?"), max_tokens=20, temperature=0
    )
    answer = raw.parse()
    assert "Paris" in (answer.choices[0].message.content or "")
    assert raw.headers["x-farthing-route"] == "small"
    assert raw.headers["x-farthing-model"] == "embedded"
    assert raw.headers["x-request-id"].startswith("req_")
    assert answer.usage is not None and answer.usage.model_extra["cost"] > 0


def test_a_stream_spells_the_same_text_as_the_whole_answer(client: OpenAI) -> None:
    asked = {"model": "small", "messages": ask("Count to five."), "max_tokens": 16, "temperature": 0}
    bypass = {"extra_headers": {"cache-control": "no-store"}}
    whole = client.chat.completions.create(**asked, **bypass)
    chunks = list(
        client.chat.completions.create(**asked, **bypass, stream=True, stream_options={"include_usage": True})
    )
    spelt = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert spelt == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.model_extra["cost"] == pytest.approx(whole.usage.model_extra["cost"], rel=0.5)


def test_an_answer_without_end_ends_where_the_caller_states_no_limit(client: OpenAI) -> None:
    """The embedded model says one line over and over; a caller's own limit goes before ours."""
    asked = {"model": "small", "messages": ask("Write a haiku about rain.")}
    with ThreadPoolExecutor() as pool:
        found = list(
            pool.map(lambda limit: client.chat.completions.create(**asked, **limit), [{}, {"max_tokens": 520}])
        )
    assert [answer.choices[0].finish_reason for answer in found] == ["length", "length"]
    assert [answer.usage.completion_tokens for answer in found if answer.usage] == [512, 520]


def test_the_engine_goes_on_from_a_beginning_as_if_it_had_not_stopped(client: OpenAI) -> None:
    """What a stream that breaks off is carried on by: each token where the first answer had it, and no second role."""
    asked = {"model": "small", "max_tokens": 24, "temperature": 0, "extra_headers": {"cache-control": "no-store"}}
    question = ask("Name three large cities in France.")
    whole = client.chat.completions.create(messages=question, **asked).choices[0].message.content or ""
    words = whole.split(" ")
    begun = " ".join(words[: len(words) // 2])
    chunks = client.chat.completions.create(
        messages=[*question, {"role": "assistant", "content": begun}],
        stream=True,
        extra_body={"continue_final_message": True, "add_generation_prompt": False},
        **asked,
    )
    rest = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert rest.startswith(whole[len(begun) :])


def test_a_json_schema_is_kept(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 1, "maximum": 99}},
        "required": ["age"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    answer = client.chat.completions.create(
        model="small", messages=ask("How old are you?"), max_tokens=40, temperature=0, response_format=wanted
    )
    assert 1 <= json.loads(answer.choices[0].message.content or "")["age"] <= 99


def test_a_tool_is_called(client: OpenAI) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
    answer = client.chat.completions.create(
        model="small",
        messages=ask("What is the weather in Paris?"),
        tools=[tool],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        max_tokens=60,
        temperature=0,
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.function.name == "get_weather"
    assert isinstance(json.loads(call.function.arguments)["city"], str)


def test_logprobs_and_text_completions(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="small", messages=ask("Say hi"), logprobs=True, top_logprobs=2, max_tokens=3
    )
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == 3 and all(len(t.top_logprobs) == 2 and t.logprob <= 0 for t in tokens)
    text = client.completions.create(model="small", prompt="The capital of France is", max_tokens=4, temperature=0)
    assert "Paris" in text.choices[0].text


def test_repeats_cost_nothing_and_hard_ones_go_to_the_frontier(service: Service) -> None:
    first, second = service.chat("Name a colour."), service.chat("Name a colour.")
    assert first.headers["x-farthing-cache"] == "miss"
    # Two gateways: whichever answers has the shared file behind it.
    again = until(lambda: _cached(service.chat("Name a colour.")), 5, "a hit")
    assert again.json()["usage"]["cost"] == 0
    assert again.json()["choices"] == first.json()["choices"] == second.json()["choices"]
    hard = service.chat(HARD)
    assert (hard.headers["x-farthing-route"], hard.headers["x-farthing-model"]) == ("frontier", "gpt-6.1-sol")
    assert hard.json()["usage"]["cost"] == pytest.approx((20 * 2 + 5 * 10) / 1e6)


def test_a_repeat_in_other_words_costs_nothing_and_a_near_miss_is_asked(service: Service) -> None:
    first = service.chat("How do I reset my password?", model="frontier")
    time.sleep(2)  # the answer is handed to the router after the caller has it
    hit = service.chat("How can I reset my password?", model="frontier")
    assert hit.headers["x-farthing-cache"] == "semantic"
    assert hit.json()["choices"] == first.json()["choices"]
    assert hit.json()["usage"]["cost"] == 0
    assert float(hit.headers["x-farthing-similarity"]) > 0.8
    for other in ("How do I not reset my password?", "How do I reset her password?"):
        assert service.chat(other, model="frontier").headers["x-farthing-cache"] == "miss"
    asked = hit.headers["x-request-id"]
    (row,) = until(lambda: [r for r in service.rows() if r["request_id"] == asked], 20, "its row")
    assert (row["cache"], row["cost_nusd"], row["saved_nusd"] > 0) == ("semantic", 0, True)
    command = [sys.executable, "-m", "serving", "cache", "delete", "--all", "--config", str(service.config)]
    deleted = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert int(deleted.split()[0]) >= 4
    assert service.chat("How can I reset my password, please?", model="frontier").headers["x-farthing-cache"] == "miss"


def test_a_complaint_holds_in_both_gateways_and_both_caches(service: Service) -> None:
    asked, reworded = "How do I change my username?", "How can I change my username?"
    service.chat(asked, model="frontier")
    time.sleep(2)  # the answer is handed to the router after the caller has it
    for _ in range(6):  # by now each gateway holds it in memory
        hit = service.chat(asked, model="frontier")
        assert hit.headers["x-farthing-cache"] == "exact"
    told = {"request_id": hit.headers["x-request-id"], "good": False}
    said = httpx2.post(f"{service.url}/v1/farthing/feedback", json=told, timeout=30)
    assert said.json()["dropped"] is True
    only = {"farthing": {"cache": "only"}}
    for text in (asked, reworded) * 4:  # whichever answers
        assert service.chat(text, model="frontier", **only).status_code == 404


def test_embeddings_through_the_sdk(client: OpenAI) -> None:
    found = client.embeddings.create(model="minilm", input=["a farthing", "a penny", "the weather"])
    assert len(found.data) == 3 and found.usage.prompt_tokens > 5
    farthing, penny, weather = (item.embedding for item in found.data)
    near, far = (sum(a * b for a, b in zip(farthing, other, strict=True)) for other in (penny, weather))
    assert near > far


def _cached(response: httpx2.Response) -> httpx2.Response | None:
    return response if response.headers["x-farthing-cache"] == "exact" else None


def test_bad_input_is_the_callers_to_mend(client: OpenAI, service: Service) -> None:
    with pytest.raises(NotFoundError, match="use one of: auto, small"):
        client.chat.completions.create(model="nope", messages=ask("x"))
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(model="small", messages=ask("word " * 9000))
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(model="small", messages=ask("x"), extra_body={"min_p": "high"})
    assert caught.value.param == "min_p"
    response = httpx2.post(f"{service.url}/v1/chat/completions", content=b"{bad")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")


def test_the_engines_own_route_and_rays_are_closed(service: Service) -> None:
    body = {"model": "embedded", "messages": ask("x")}
    response = httpx2.post(f"{service.url}/engine/small/v1/chat/completions", json=body)
    assert response.status_code == 401
    assert "gateway" in response.json()["error"]["message"]
    assert httpx2.get(f"{service.url}/-/routes").status_code == 404


def test_the_frontier_key_is_in_no_environment_and_no_log(service: Service) -> None:
    for process in [*service.processes("ray::"), *service.processes("raylet"), *service.processes("VLLM")]:
        try:
            assert SECRET not in process.environ().values(), process.cmdline()
        except psutil.NoSuchProcess:
            continue
    assert SECRET not in service.log.read_text()
    assert (service.state / "run" / "secrets" / "frontier-0").stat().st_mode & 0o777 == 0o600


def test_nothing_of_ours_listens_beyond_loopback(service: Service) -> None:
    """Ray's ports run what they are sent; HAProxy's pages tell what is deployed."""
    everyone = service.processes("")
    assert any("haproxy" in p.name() for p in everyone) and any("raylet" in p.name() for p in everyone)
    listening = {
        (c.laddr.ip.removeprefix("::ffff:"), c.laddr.port, p.name())
        for p in everyone
        for c in p.net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    }
    assert len(listening) > 5
    assert [found for found in sorted(listening) if found[0] not in ("127.0.0.1", "::1")] == []


def test_ray_writes_no_line_for_a_request(service: Service) -> None:
    assert service.chat("Is anybody writing this down?").status_code == 200
    logs = list(Path("/tmp/ray").glob(f"session_*_{service.process.pid}/logs/serve/replica_*.log"))
    assert any("Gateway" in log.name for log in logs)
    assert [log.name for log in logs if "POST /" in log.read_text()] == []


def test_metrics_costs_and_rows_agree_with_two_gateways(service: Service) -> None:
    for n in range(10):
        assert service.chat(f"What is {n} plus one?").status_code == 200
    rows = still(service.rows)
    command = [sys.executable, "-m", "serving", "export", "--config", str(service.config)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [json.loads(line) for line in said.splitlines()] == rows
    families = text_string_to_metric_families(httpx2.get(f"{service.url}/metrics").text)
    samples = {family.name: family.samples for family in families}
    assert sum(s.value for s in samples["farthing_requests"] if s.name.endswith("_total")) == len(rows)
    spent = sum(s.value for s in samples["farthing_cost_usd"] if s.name.endswith("_total"))
    assert spent == pytest.approx(sum(row["cost_nusd"] for row in rows) / 1e9)
    command = [sys.executable, "-m", "serving", "costs", "--config", str(service.config), "--since", "1h", "--json"]
    report = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert report["total"]["requests"] == len(rows)
    assert report["total"]["cost_nusd"] == sum(row["cost_nusd"] for row in rows)
