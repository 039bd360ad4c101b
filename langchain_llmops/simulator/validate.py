"""Checks of incoming requests, with the status, code, parameter and wording of the real API."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.simulator.messages import check_messages, invalid, missing, of_type
from langchain_llmops.simulator.strict import check_strict
from langchain_llmops.simulator.types import ApiError, EmbeddingRequest, Request

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["parse_chat", "parse_embeddings", "parse_json"]

MAX_TOOLS: Final = 128
MAX_INPUTS: Final = 2048
MAX_STOPS: Final = 4
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_SNAPSHOT: Final = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_DIMENSIONS: Final = {"text-embedding-3-large": 3072}
_DEFAULT_DIMENSIONS: Final = 1536

_NUMBERS: Final[dict[str, tuple[type, float | None, float | None]]] = {
    "temperature": (float, 0, 2),
    "top_p": (float, 0, 1),
    "presence_penalty": (float, -2, 2),
    "frequency_penalty": (float, -2, 2),
    "n": (int, 1, 128),
    "max_tokens": (int, 1, None),
    "max_completion_tokens": (int, 1, None),
    "top_logprobs": (int, 0, 20),
    "seed": (int, None, None),
}
_TYPED: Final[dict[str, type]] = {
    "stream": bool,
    "logprobs": bool,
    "parallel_tool_calls": bool,
    "store": bool,
    "stream_options": dict,
    "response_format": dict,
    "metadata": dict,
    "tools": list,
    "user": str,
}
_TAKEN_AS_GIVEN: Final = frozenset(
    [
        "logit_bias",
        "modalities",
        "moderation",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "stop",
        "tool_choice",
        "verbosity",
        "web_search_options",
    ]
)
_CHAT: Final = frozenset({"model", "messages", *_NUMBERS, *_TYPED, *_TAKEN_AS_GIVEN})
_EMBEDDINGS: Final = frozenset({"model", "input", "dimensions", "encoding_format", "user"})


def parse_json(body: bytes) -> dict[str, Any]:
    """The body as a JSON object, null members left out as the API does."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"We could not parse the JSON body of your request: {error}.") from error
    if not isinstance(value, dict):
        raise ApiError(400, "We could not parse the JSON body of your request: it is not a JSON object.")
    return {name: member for name, member in value.items() if member is not None}


def parse_chat(body: dict[str, Any], models: Sequence[str] | None, conversation_id: str | None = None) -> Request:
    """A checked chat request; `models` None accepts any model name."""
    _check_names(body, _CHAT)
    model = _model(body, models)
    if "embedding" in model:
        text = "This is not a chat model and thus not supported in the v1/chat/completions endpoint."
        raise invalid(text, "model", 404)
    messages = tuple(check_messages(body.get("messages")))
    _check_scalars(body)
    tools = tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(body.get("tools", ())))
    _check_combinations(body)
    forced, required = _tool_choice(body.get("tool_choice", "auto"), [tool["function"]["name"] for tool in tools])
    return Request(
        model=model,
        messages=messages,
        tools=tools,
        forced_tool=forced,
        tool_required=required,
        response_format=_response_format(body),
        stream=body.get("stream", False),
        include_usage=bool(body.get("stream_options", {}).get("include_usage")),
        n=body.get("n", 1),
        logprobs=body.get("logprobs", False),
        top_logprobs=body.get("top_logprobs", 0),
        max_tokens=body.get("max_completion_tokens", body.get("max_tokens")),
        conversation_id=conversation_id,
    )


def parse_embeddings(body: dict[str, Any], models: Sequence[str] | None) -> EmbeddingRequest:
    """A checked embeddings request."""
    _check_names(body, _EMBEDDINGS)
    model = _model(body, models)
    if "embedding" not in model:
        raise ApiError(403, "You are not allowed to generate embeddings from this model")
    most = _DIMENSIONS.get(model, _DEFAULT_DIMENSIONS)
    encoding = body.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise invalid(f"Invalid value: '{encoding}'. Supported values are: 'float' and 'base64'.", "encoding_format")
    return EmbeddingRequest(
        model=model,
        inputs=_inputs(body),
        dimensions=_number("dimensions", body["dimensions"], int, 1, most) if "dimensions" in body else most,
        as_base64=encoding == "base64",
    )


def _check_names(body: dict[str, Any], known: frozenset[str]) -> None:
    unknown = next((name for name in body if name not in known), None)
    if unknown is not None:
        raise invalid(f"Unknown parameter: '{unknown}'.", unknown, code="unknown_parameter")


def _model(body: dict[str, Any], models: Sequence[str] | None) -> str:
    if "model" not in body:
        raise ApiError(400, "you must provide a model parameter")
    model: str = of_type(body["model"], str, "model")
    if models is None or model in models or _SNAPSHOT.sub("", model) in models:
        return model
    text = f"The model `{model}` does not exist or you do not have access to it."
    raise ApiError(404, f"{text} The simulator serves: {', '.join(models)}.", code="model_not_found")


def _check_scalars(body: dict[str, Any]) -> None:
    for name, (kind, least, most) in _NUMBERS.items():
        if name in body:
            _number(name, body[name], kind, least, most)
    for name, kind in _TYPED.items():
        if name in body:
            of_type(body[name], kind, name)
    stop = body.get("stop", [])
    if not isinstance(stop, str) and not (isinstance(stop, list) and all(isinstance(text, str) for text in stop)):
        raise invalid("Invalid type for 'stop': expected a string or an array of strings.", "stop", code="invalid_type")
    if len(stop) > MAX_STOPS and isinstance(stop, list):
        raise invalid(f"Invalid 'stop': array too long. Expected at most {MAX_STOPS} elements.", "stop")


def _number(name: str, value: object, kind: type, least: float | None, most: float | None) -> Any:
    number = of_type(value, kind, name)
    word = "integer" if kind is int else "decimal"
    if least is not None and not number >= least:
        text = f"{word} below minimum value. Expected a value >= {least}, but got {number} instead."
        raise invalid(f"Invalid '{name}': {text}", name, code=f"{word}_below_min_value")
    if most is not None and number > most:
        text = f"{word} above maximum value. Expected a value <= {most}, but got {number} instead."
        raise invalid(f"Invalid '{name}': {text}", name, code=f"{word}_above_max_value")
    return number


def _check_combinations(body: dict[str, Any]) -> None:
    """Parameters that the API allows only together with another one."""
    for name, needed, wanted in (
        ("stream_options", "stream", "'stream' is enabled"),
        ("tool_choice", "tools", "'tools' are specified"),
        ("parallel_tool_calls", "tools", "'tools' are specified"),
        ("top_logprobs", "logprobs", "'logprobs' is enabled"),
    ):
        if name in body and not body.get(needed):
            raise invalid(f"Invalid value for '{name}': '{name}' is only allowed when {wanted}.", name)
    if "max_tokens" in body and "max_completion_tokens" in body:
        raise invalid("Setting 'max_tokens' and 'max_completion_tokens' together is not supported.", "max_tokens")
    tools = body.get("tools")
    if tools is not None and not 1 <= len(tools) <= MAX_TOOLS:
        raise invalid(f"Invalid 'tools': expected an array of 1 to {MAX_TOOLS} elements, got {len(tools)}.", "tools")


def _tool(tool: object, path: str) -> dict[str, Any]:
    spec: dict[str, Any] = of_type(tool, dict, path)
    if spec.get("type") != "function":
        raise invalid(f"Invalid value: '{spec.get('type')}'. Supported values are: 'function'.", f"{path}.type")
    function = of_type(missing(spec, "function", path), dict, f"{path}.function")
    name = _name(missing(function, "name", f"{path}.function"), f"{path}.function.name")
    parameters = of_type(function.get("parameters") or {}, dict, f"{path}.function.parameters")
    if function.get("strict"):
        check_strict(parameters, f"function '{name}'", f"{path}.function.parameters")
    return spec


def _name(value: object, param: str) -> str:
    name: str = of_type(value, str, param)
    if not _NAME.fullmatch(name):
        text = "string does not match pattern. Expected a string that matches the pattern '^[a-zA-Z0-9_-]{1,64}$'."
        raise invalid(f"Invalid '{param}': {text}", param)
    return name


def _tool_choice(choice: object, names: list[str]) -> tuple[str | None, bool]:
    """The tool that must be called, and whether any must."""
    if choice in ("none", "auto", "required"):
        return None, choice == "required"
    try:
        name = choice["function"]["name"]  # type: ignore[index] # the shape is what is being tested
    except (TypeError, KeyError) as error:  # of another shape: it is told which there are
        supported = "'none', 'auto', 'required' and a named function"
        raise invalid(f"Invalid value: {choice!r}. Supported values are: {supported}.", "tool_choice") from error
    if name not in names:
        raise invalid(f"Tool choice '{name}' not found in 'tools' parameter.", "tool_choice")
    return name, True


def _response_format(body: dict[str, Any]) -> dict[str, Any] | None:
    spec = body.get("response_format", {"type": "text"})
    kind = spec.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        if "json" not in json.dumps(body["messages"]).lower():
            text = "'messages' must contain the word 'json' in some form"
            raise invalid(f"{text}, to use 'response_format' of type 'json_object'.", "messages")
        return {"type": kind}
    if kind != "json_schema":
        supported = "'json_object', 'json_schema', and 'text'"
        raise invalid(f"Invalid value: '{kind}'. Supported values are: {supported}.", "response_format.type")
    path = "response_format.json_schema"
    schema = of_type(missing(spec, "json_schema", "response_format"), dict, path)
    name = _name(missing(schema, "name", path), f"{path}.name")
    inner = of_type(schema.get("schema") or {}, dict, f"{path}.schema")
    if schema.get("strict"):
        check_strict(inner, f"response_format '{name}'", "response_format")
    return {"type": kind, "name": name, "schema": inner}


def _inputs(body: dict[str, Any]) -> tuple[str | tuple[int, ...], ...]:
    given = missing(body, "input", "")
    texts = given if isinstance(given, list) and not _is_tokens(given) else [given]
    if not 1 <= len(texts) <= MAX_INPUTS:
        raise invalid(f"Invalid 'input': expected an array of 1 to {MAX_INPUTS} elements, got {len(texts)}.", "input")
    return tuple(_input(text) for text in texts)


def _input(value: object) -> str | tuple[int, ...]:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value and _is_tokens(value):
        return tuple(value)
    raise invalid("'$.input' is invalid: expected non-empty strings or non-empty arrays of tokens.", "input")


def _is_tokens(value: list[object]) -> bool:
    return bool(value) and all(isinstance(token, int) and not isinstance(token, bool) for token in value)
