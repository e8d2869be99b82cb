"""Rules for the fields of an OpenAI-shaped body: what a known field may hold, and what a caller is told otherwise.

Only known fields are looked at, and only their types and ranges: a field nobody here knows is the backend's to judge.
`null` stands for "left out" wherever the field is optional, as it does for the providers. Knows no limits of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Never

from models.errors import BadRequest
from models.types import Endpoint, Json

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MAX_STOPS = 16  # OpenAI takes 4, vLLM any number; a backend with a lower bound says so itself

Rule = Callable[[Any], str | None]  # what the field must be, when it is not that


def refuse(param: str, must: str) -> Never:
    raise BadRequest(f"'{param}' must be {must}", param=param)


def is_int(value: Any) -> bool:
    return type(value) is int  # bool is an int to isinstance


def integer(low: int, high: int | None = None) -> Rule:
    must = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"

    def rule(value: Any) -> str | None:
        return None if is_int(value) and value >= low and (high is None or value <= high) else must

    return rule


def number(low: float, high: float) -> Rule:
    must = f"a number from {low:g} to {high:g}"

    def rule(value: Any) -> str | None:
        return None if type(value) in (int, float) and low <= value <= high else must

    return rule


def of_type(kind: type, must: str) -> Rule:
    def rule(value: Any) -> str | None:
        return None if isinstance(value, kind) else must

    return rule


def _stop(value: Any) -> str | None:
    stops = value if isinstance(value, list) else [value]
    good = len(stops) <= MAX_STOPS and all(isinstance(stop, str) and stop for stop in stops)
    return None if good else f"a non-empty string or a list of at most {MAX_STOPS} of them"


def _logit_bias(value: Any) -> str | None:
    in_range = number(-100, 100)
    good = isinstance(value, dict) and all(in_range(bias) is None for bias in value.values())
    return None if good else "an object of token ids to numbers from -100 to 100"


_flag = of_type(bool, "true or false")
_string = of_type(str, "a string")
_object = of_type(dict, "an object")

_COMMON: dict[str, Rule] = {
    "stream": _flag,
    "stream_options": _object,
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "n": integer(1, 128),
    "best_of": integer(1, 128),
    "max_completion_tokens": integer(1),
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "seed": integer(-(2**63), 2**64 - 1),
    "stop": _stop,
    "logit_bias": _logit_bias,
    "user": _string,
    "metadata": _object,
    "store": _flag,
    "service_tier": _string,
    "response_format": _object,
}
RULES: dict[Endpoint, dict[str, Rule]] = {
    "chat/completions": _COMMON
    | {
        "max_tokens": integer(1),
        "logprobs": _flag,
        "top_logprobs": integer(0, 20),
        "parallel_tool_calls": _flag,
        "reasoning_effort": _string,
    },
    # `max_tokens: 0` with `echo` scores a prompt: a use of this endpoint that chat does not have
    "completions": _COMMON
    | {
        "max_tokens": integer(0),
        "logprobs": integer(0, 20),
        "echo": _flag,
        "suffix": _string,
    },
}


def check_fields(endpoint: Endpoint, body: Json) -> None:
    """Refuse the first known field that has a wrong type or value, or that contradicts another."""
    rules = RULES[endpoint]
    for name, value in body.items():
        if value is not None and (rule := rules.get(name)) is not None and (must := rule(value)) is not None:
            refuse(name, must)
    if (options := body.get("stream_options")) is not None:
        if not body.get("stream"):
            raise BadRequest(
                "'stream_options' goes with \"stream\": true; leave it out or stream", param="stream_options"
            )
        if not isinstance(options.get("include_usage", False), bool | None):
            refuse("stream_options.include_usage", "true or false")
    if endpoint == "chat/completions" and body.get("top_logprobs") and not body.get("logprobs"):
        raise BadRequest("'top_logprobs' goes with \"logprobs\": true", param="top_logprobs")
    _check_response_format(body.get("response_format"))
    _check_tools(body)


def _check_response_format(wanted: Json | None) -> None:
    if wanted is None:
        return
    if not isinstance(wanted.get("type"), str):
        refuse("response_format.type", "one of 'text', 'json_object', 'json_schema'")
    if wanted["type"] != "json_schema":
        return
    spec = wanted.get("json_schema")
    if not isinstance(spec, dict):
        refuse("response_format.json_schema", "an object with 'name' and 'schema'")
    if not isinstance(spec.get("name"), str) or not spec["name"]:
        refuse("response_format.json_schema.name", "a non-empty string")
    if not isinstance(spec.get("schema", {}), dict | None):
        refuse("response_format.json_schema.schema", "a JSON schema (an object)")


def _check_tools(body: Json) -> None:
    tools = body.get("tools")
    if tools is not None and not isinstance(tools, list):
        refuse("tools", "a list of tools")
    for at, tool in enumerate(tools or ()):
        where = f"tools[{at}]"
        if not isinstance(tool, dict):
            refuse(where, "an object with 'type' and 'function'")
        if not isinstance(tool.get("type"), str):
            refuse(f"{where}.type", "a string: 'function'")
        if tool["type"] == "function":
            _check_function(f"{where}.function", tool.get("function"))
    functions = body.get("functions")
    if functions is not None and not isinstance(functions, list):
        refuse("functions", "a list of functions")
    for at, function in enumerate(functions or ()):
        _check_function(f"functions[{at}]", function)
    _check_tool_choice(body.get("tool_choice"), bool(tools))


def _check_function(where: str, function: Any) -> None:
    if not isinstance(function, dict):
        refuse(where, "an object with 'name' and 'parameters'")
    if not isinstance(function.get("name"), str) or not function["name"]:
        refuse(f"{where}.name", "a non-empty string")
    if not isinstance(function.get("description", ""), str | None):
        refuse(f"{where}.description", "a string")
    if not isinstance(function.get("parameters", {}), dict | None):
        refuse(f"{where}.parameters", "a JSON schema (an object)")


def _check_tool_choice(choice: Any, tools: bool) -> None:
    if choice is None or choice == "none":
        return
    named = isinstance(choice, dict) and isinstance(choice.get("type"), str)
    if not named and choice not in ("auto", "required"):
        refuse("tool_choice", "'none', 'auto', 'required' or an object that names a tool")
    if not tools:
        raise BadRequest("'tool_choice' goes with 'tools'; give tools or leave it out", param="tool_choice")


def check_message(where: str, message: Any) -> None:
    """Refuse a chat message whose role, content or tool calls no provider would take."""
    if not isinstance(message, dict):
        refuse(where, "an object with 'role' and 'content'")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        refuse(f"{where}.role", "one of " + ", ".join(f"'{known}'" for known in ROLES))
    for name in ("name", "refusal"):
        if not isinstance(message.get(name, ""), str | None):
            refuse(f"{where}.{name}", "a string")
    if role == "assistant":
        _check_tool_calls(f"{where}.tool_calls", message.get("tool_calls"))
    elif role == "tool" and not (isinstance(message.get("tool_call_id"), str) and message["tool_call_id"]):
        refuse(f"{where}.tool_call_id", "the id of the tool call that this message answers")
    elif role == "function" and not message.get("name"):
        refuse(f"{where}.name", "the name of the function that this message answers")
    if isinstance(content, str):
        return
    if isinstance(content, list) and content:
        for at, part in enumerate(content):
            _check_part(f"{where}.content[{at}]", part)
    elif not (content is None and role in ("assistant", "function") and _speaks_otherwise(message, role)):
        refuse(f"{where}.content", "a string or a non-empty list of content parts")


def _speaks_otherwise(message: Json, role: str) -> bool:
    others = ("tool_calls", "function_call", "refusal", "audio", "reasoning", "reasoning_content")
    return role == "function" or any(message.get(name) for name in others)


def _check_part(where: str, part: Any) -> None:
    if not isinstance(part, dict):
        refuse(where, "an object with 'type'")
    kind = part.get("type")
    if not isinstance(kind, str):
        refuse(f"{where}.type", "a string such as 'text' or 'image_url'")
    if kind == "text" and not isinstance(part.get("text"), str):
        refuse(f"{where}.text", "a string")
    if kind == "image_url":
        image = part.get("image_url")
        if not isinstance(image, dict):
            refuse(f"{where}.image_url", "an object with 'url'")
        if not isinstance(image.get("url"), str) or not image["url"].startswith(("https://", "http://", "data:")):
            refuse(f"{where}.image_url.url", "an http(s) address or a data: URL")


def _check_tool_calls(where: str, calls: Any) -> None:
    if calls is not None and not isinstance(calls, list):
        refuse(where, "a list of tool calls")
    for at, call in enumerate(calls or ()):
        if not isinstance(call, dict):
            refuse(f"{where}[{at}]", "an object with 'id', 'type' and 'function'")
        if not isinstance(call.get("id"), str) or not call["id"]:
            refuse(f"{where}[{at}].id", "a non-empty string")
        if call.get("type", "function") != "function":
            continue
        function = call.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            refuse(f"{where}[{at}].function.name", "a non-empty string")
        if not isinstance(function.get("arguments"), str):
            refuse(f"{where}[{at}].function.arguments", "a string of JSON")
