"""An OpenAI chat body made into a body for Anthropic's Messages API. Pure: knows no HTTP, no key and no answer.

What becomes of each field, so that nothing is lost in silence (as of the API of 2026-11, SDK 2.12):

| field | becomes |
|---|---|
| system and developer messages | `system`, in their order, from anywhere in the talk, as Anthropic does itself |
| user, assistant, tool messages | turns; neighbours of one role become one; `tool` is a `tool_result` of a user |
| `image_url`, `file` parts | `image` (base64, url), `document` (inline PDF, text); a part of Anthropic's own stays |
| a message's `name`, `image_url.detail` | nothing |
| `thinking_blocks` of an assistant | its first blocks, signatures kept; `reasoning_content` has none and is left out |
| `max_completion_tokens`, `max_tokens` | `max_tokens`, which Anthropic demands: a default stands in |
| `temperature`, `top_p` | themselves; 1 is both sides' default and left out, since newer models refuse the field |
| `stop` | `stop_sequences` |
| `tools`, `tool_choice`, `parallel_tool_calls` | `tools`, `tool_choice` with `disable_parallel_tool_use` |
| `response_format` json_schema | `output_config.format` |
| `reasoning_effort` | `output_config.effort`; `minimal` is `low`, `none` is `thinking: disabled` |
| `safety_identifier`, `user` | `metadata.user_id` |
| `service_tier` | `auto`, `default` (there `standard_only`); others are refused |
| `_IGNORED` | nothing: they are hints, or about what OpenAI stores, and the answer is as good without them |
| `_REFUSED_UNLESS` | `Unsupported`, except at the values that ask for nothing |
| anything else (`thinking`, `top_k`, `cache_control` ...) | itself: Anthropic refuses by name what it doesn't know |
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from models.errors import BadRequest, Unsupported
from models.types import Json

_TRANSLATED = {"messages", "model", "stream", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop"} | {
    *("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort"),
    *("safety_identifier", "user", "service_tier"),
}
_IGNORED = {
    *("stream_options", "store", "metadata", "seed", "prediction", "prompt_cache_key", "prompt_cache_retention"),
}
_REFUSED_UNLESS: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "audio": (),
    "web_search_options": (),
    "functions": ([],),
    "function_call": (),
}
_EFFORTS = {"minimal": "low"} | {level: level for level in ("low", "medium", "high", "xhigh", "max")}
_SERVICE_TIERS = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
_THINKING = ("thinking", "redacted_thinking")
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_NOT_IN_ID = re.compile(r"[^a-zA-Z0-9_-]")  # other servers' ids may hold dots and colons, which Anthropic refuses


def to_messages(body: Json, model: str, stream: bool, default_max_tokens: int) -> Json:
    """Raises BadRequest for what is wrong anywhere and Unsupported for what another model may take."""
    asked = {name: value for name, value in body.items() if value is not None}
    for name, nothing in _REFUSED_UNLESS.items():
        if name in asked and asked[name] not in nothing:
            raise Unsupported(f"Anthropic's API has no '{name}'; leave it out or ask another model", param=name)
    system, turns = _conversation(asked.get("messages") or ())
    request: Json = {
        "model": model,
        "max_tokens": asked.get("max_completion_tokens") or asked.get("max_tokens") or default_max_tokens,
        "messages": turns,
        **({"system": system} if system else {}),
        **({"stream": True} if stream else {}),
        **_sampling(asked),
        **_tools(asked),
        **_output(asked),
    }
    known = _TRANSLATED | _IGNORED | _REFUSED_UNLESS.keys()
    for name, value in asked.items():
        if name in known:
            continue
        if name not in request:
            request[name] = value
        elif name == "output_config" and isinstance(value, dict) and not request[name].keys() & value.keys():
            request[name] |= value
        else:
            raise BadRequest(f"'{name}' says again what another field says; give one of them", param=name)
    return request


def _sampling(asked: Json) -> Json:
    chosen: Json = {name: asked[name] for name in ("temperature", "top_p") if asked.get(name, 1) != 1}
    if chosen.get("temperature", 0) > 1:
        raise Unsupported("Anthropic's 'temperature' ends at 1; lower it or ask another model", param="temperature")
    stop = asked.get("stop", [])
    if stops := [stop] if isinstance(stop, str) else stop:
        if not all(one.strip() for one in stops):
            raise Unsupported("Anthropic stops at no white space; use other 'stop' strings", param="stop")
        chosen["stop_sequences"] = stops
    if user := asked.get("safety_identifier") or asked.get("user"):
        chosen["metadata"] = {"user_id": user}
    if tier := asked.get("service_tier"):
        if tier not in _SERVICE_TIERS:
            raise Unsupported(f"Anthropic has no service tier '{tier}'; use 'auto' or 'default'", param="service_tier")
        chosen["service_tier"] = _SERVICE_TIERS[tier]
    return chosen


def _output(asked: Json) -> Json:
    """How hard to think, and the shape of the answer."""
    output: Json = {}
    effort = asked.get("reasoning_effort")
    if effort in _EFFORTS:
        output["effort"] = _EFFORTS[effort]
    elif effort not in (None, "none"):
        raise Unsupported(f"'reasoning_effort' must be none or one of {', '.join(_EFFORTS)}", param="reasoning_effort")
    wanted = asked.get("response_format") or {"type": "text"}
    if wanted["type"] == "json_schema":
        schema = wanted["json_schema"].get("schema")
        if not schema:
            raise BadRequest("a JSON schema is needed", param="response_format.json_schema.schema")
        output["format"] = {"type": "json_schema", "schema": schema}
    elif wanted["type"] != "text":
        message = f"Anthropic's API has no response format '{wanted['type']}'; use 'json_schema' or ask another model"
        raise Unsupported(message, param="response_format")
    disabled = {"thinking": {"type": "disabled"}} if effort == "none" else {}
    return disabled | ({"output_config": output} if output else {})


def _tools(asked: Json) -> Json:
    tools = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(asked.get("tools") or ())]
    if not tools:
        return {}
    choice = _tool_choice(asked.get("tool_choice", "auto"))
    if asked.get("parallel_tool_calls") is False and choice["type"] != "none":
        choice = choice | {"disable_parallel_tool_use": True}
    return {"tools": tools} | ({"tool_choice": choice} if choice != {"type": "auto"} else {})


def _tool(tool: Json, where: str) -> Json:
    """Only functions: the results of Anthropic's own tools have no place in an OpenAI answer."""
    if tool["type"] != "function":
        message = f"Anthropic takes tools of type 'function' here, not '{tool['type']}'; ask another model"
        raise Unsupported(message, param=f"{where}.type")
    function = tool["function"]
    translated: Json = {
        "name": function["name"],
        "input_schema": {"type": "object", **(function.get("parameters") or {"properties": {}})},
    }
    for name in ("description", "strict"):
        if function.get(name):
            translated[name] = function[name]
    return translated | _besides(tool, "type", "function")


def _tool_choice(choice: str | Json) -> Json:
    if isinstance(choice, str):
        return {"type": "any" if choice == "required" else choice}
    if choice["type"] == "function":
        named = choice.get("function")
        if not isinstance(named, dict) or not named.get("name"):
            raise BadRequest("'tool_choice' names no function", param="tool_choice.function.name")
        return {"type": "tool", "name": named["name"]}
    if choice["type"] in ("auto", "any", "tool", "none"):
        return choice
    raise Unsupported(f"Anthropic's API has no tool choice '{choice['type']}'; ask another model", param="tool_choice")


def _conversation(messages: Iterable[Json]) -> tuple[list[Json], list[Json]]:
    """The system blocks, and the turns. White space alone is no block: Anthropic refuses it, others ignore it."""
    system: list[Json] = []
    turns: list[Json] = []
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        role = message["role"]
        blocks = [block for block in _blocks(message, where) if block["type"] != "text" or block["text"].strip()]
        if role in ("system", "developer"):
            system += blocks
            continue
        turn = "assistant" if role == "assistant" else "user"
        if turns and turns[-1]["role"] == turn:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": turn, "content": blocks})
    if not turns:
        raise Unsupported("Anthropic wants a user message with text; add one or ask another model", param="messages")
    return system, turns


def _blocks(message: Json, where: str) -> list[Json]:
    role = message["role"]
    if role == "function" or message.get("function_call") or message.get("audio"):
        raise Unsupported("Anthropic takes 'tool_calls' and role 'tool' only, and no audio", param=where)
    content = message.get("content") or []
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    blocks = [_part(part, f"{where}.content[{at}]") for at, part in enumerate(parts)]
    if role == "tool":
        result = {"type": "tool_result", "tool_use_id": _tool_id(message["tool_call_id"])}
        return [result | ({"content": content if isinstance(content, str) else blocks} if content else {})]
    if role == "assistant":
        refusal = message.get("refusal")
        said = [*blocks, *([{"type": "text", "text": refusal}] if refusal else [])]
        calls = enumerate(message.get("tool_calls") or ())
        uses = [_tool_use(call, f"{where}.tool_calls[{at}]") for at, call in calls]
        return [*_thinking(message.get("thinking_blocks") or (), f"{where}.thinking_blocks"), *said, *uses]
    return blocks


def _thinking(blocks: Any, where: str) -> list[Json]:
    good = isinstance(blocks, list | tuple)
    if not good or not all(isinstance(block, dict) and block.get("type") in _THINKING for block in blocks):
        raise BadRequest("give back the thinking blocks of the answer as they came", param=where)
    return list(blocks)


def _tool_use(call: Json, where: str) -> Json:
    if call.get("type", "function") != "function":
        raise Unsupported(f"Anthropic knows no tool call of type '{call['type']}'", param=f"{where}.type")
    function = call["function"]
    try:
        arguments = orjson.loads(function["arguments"] or "{}")
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        raise BadRequest("'arguments' must be a JSON object in a string", param=f"{where}.function.arguments")
    return {"type": "tool_use", "id": _tool_id(call["id"]), "name": function["name"], "input": arguments}


def _tool_id(call_id: str) -> str:
    return _NOT_IN_ID.sub("_", call_id)


def _part(part: Json, where: str) -> Json:
    kind = part["type"]
    if kind == "refusal":
        return {"type": "text", "text": str(part.get("refusal") or "")}
    if kind == "image_url":
        return {"type": "image", "source": _image(part["image_url"]["url"], where)} | _besides(part, "type", kind)
    if kind == "file":
        return _document(part.get("file"), where) | _besides(part, "type", kind)
    if kind in ("input_audio", "video_url", "audio_url"):
        raise Unsupported(f"Anthropic takes no '{kind}'; ask another model", param=where)
    return part


def _image(url: str, where: str) -> Json:
    if not url.startswith("data:"):
        return {"type": "url", "url": url}
    media_type, data = _data_url(url, where)
    if media_type not in _IMAGE_TYPES:
        raise Unsupported(f"Anthropic takes {', '.join(_IMAGE_TYPES)}, not '{media_type}'", param=where)
    return {"type": "base64", "media_type": media_type, "data": data}


def _document(file: Any, where: str) -> Json:
    if not isinstance(file, dict) or not isinstance(file.get("file_data"), str):
        message = "give the file as 'file_data', a data: URL; a file id means nothing to another provider"
        raise Unsupported(message, param=f"{where}.file")
    media_type, data = _data_url(file["file_data"], where)
    if media_type == "application/pdf":
        source = {"type": "base64", "media_type": media_type, "data": data}
    elif media_type == "text/plain":
        source = {"type": "text", "media_type": media_type, "data": _decoded(data, where)}
    else:
        raise Unsupported(f"Anthropic takes PDF and plain text files, not '{media_type}'", param=where)
    return {"type": "document", "source": source} | ({"title": file["filename"]} if file.get("filename") else {})


def _data_url(url: str, where: str) -> tuple[str, str]:
    head, _, data = url.partition(",")
    media_type, *options = head.removeprefix("data:").split(";")
    if not head.startswith("data:") or not data or "base64" not in options:
        raise BadRequest("a data: URL must be data:<media type>;base64,<data>", param=where)
    return "image/jpeg" if media_type == "image/jpg" else media_type, data


def _decoded(data: str, where: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise BadRequest("the file is not UTF-8 text in base64", param=where) from None


def _besides(given: Json, *names: str) -> Json:
    """Anthropic's own fields on a part or a tool: `cache_control`, `citations`, `input_examples`."""
    return {name: value for name, value in given.items() if name not in names}
