"""Wrong requests are refused with the status, code and parameter of the real API."""

from __future__ import annotations

import httpx
import pytest

from langchain_llmops.simulator import running

USER = {"role": "user", "content": "hi"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "ok"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
OPEN_SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
LOOSE_SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}


def strict(schema):
    return {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": schema}}


@pytest.fixture(scope="module")
def post():
    with running() as simulator, httpx.Client(base_url=simulator.base_url) as client:
        yield lambda path, body: client.post(path, **({"content": body} if isinstance(body, bytes) else {"json": body}))


def refused(response, status, code, param):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert (error["code"], error["param"]) == (code, param)
    assert error["message"]
    return error["message"]


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"model": None}, 400, None, None),
        ({"model": 3}, 400, "invalid_type", "model"),
        ({"model": "nope"}, 404, "model_not_found", None),
        ({"model": "text-embedding-3-small"}, 404, "invalid_value", "model"),
        ({"surprise": 1}, 400, "unknown_parameter", "surprise"),
        ({"messages": None}, 400, "missing_required_parameter", "messages"),
        ({"messages": "hi"}, 400, "invalid_type", "messages"),
        ({"messages": []}, 400, "empty_array", "messages"),
        ({"messages": ["hi"]}, 400, "invalid_type", "messages[0]"),
        ({"messages": [{"content": "hi"}]}, 400, "missing_required_parameter", "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, 400, "invalid_value", "messages[0].role"),
        ({"messages": [{"role": "user"}]}, 400, None, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "invalid_type", "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, 400, "invalid_type", "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "missing_required_parameter",
         "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "dance"}]}]}, 400, "invalid_value",
         "messages[0].content[0].type"),
        ({"messages": [{**USER, "tool_calls": [CALL]}]}, 400, "invalid_value", "messages[0].tool_calls"),
        ({"messages": [USER, RESULT]}, 400, None, "messages.[1].role"),
        ({"messages": [USER, CALLING]}, 400, None, "messages.[2].role"),
        ({"messages": [USER, CALLING, USER]}, 400, None, "messages.[2].role"),
        ({"messages": [USER, CALLING, RESULT, RESULT]}, 400, None, "messages.[3].role"),
        ({"messages": [USER, CALLING, {"role": "tool", "content": "x"}]}, 400, "missing_required_parameter",
         "messages[2].tool_call_id"),
        ({"messages": [{"role": "assistant", "content": None}]}, 400, None, "messages[0].content"),
        ({"temperature": 3}, 400, "decimal_above_max_value", "temperature"),
        ({"temperature": "warm"}, 400, "invalid_type", "temperature"),
        ({"temperature": True}, 400, "invalid_type", "temperature"),
        ({"top_p": -0.1}, 400, "decimal_below_min_value", "top_p"),
        ({"n": 0}, 400, "integer_below_min_value", "n"),
        ({"n": 1.5}, 400, "invalid_type", "n"),
        ({"max_tokens": 0}, 400, "integer_below_min_value", "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, 400, "invalid_value", "max_tokens"),
        ({"stream": "yes"}, 400, "invalid_type", "stream"),
        ({"stream_options": {"include_usage": True}}, 400, "invalid_value", "stream_options"),
        ({"top_logprobs": 2}, 400, "invalid_value", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "integer_above_max_value", "top_logprobs"),
        ({"stop": ["a"] * 5}, 400, "invalid_value", "stop"),
        ({"stop": 5}, 400, "invalid_type", "stop"),
        ({"tools": []}, 400, "invalid_value", "tools"),
        ({"tools": ["f"]}, 400, "invalid_type", "tools[0]"),
        ({"tools": [{"type": "magic"}]}, 400, "invalid_value", "tools[0].type"),
        ({"tools": [{"type": "function"}]}, 400, "missing_required_parameter", "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, 400, "invalid_value",
         "tools[0].function.name"),
        ({"tool_choice": "auto"}, 400, "invalid_value", "tool_choice"),
        ({"parallel_tool_calls": True}, 400, "invalid_value", "parallel_tool_calls"),
        ({"tools": [TOOL], "tool_choice": "some"}, 400, "invalid_value", "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, 400, "invalid_value",
         "tool_choice"),
        ({"response_format": {"type": "xml"}}, 400, "invalid_value", "response_format.type"),
        ({"response_format": {"type": "json_object"}}, 400, "invalid_value", "messages"),
        ({"response_format": {"type": "json_schema"}}, 400, "missing_required_parameter",
         "response_format.json_schema"),
        ({"response_format": strict({"type": "array"})}, 400, None, "response_format"),
        ({"response_format": strict(OPEN_SCHEMA)}, 400, None, "response_format"),
        ({"response_format": strict(LOOSE_SCHEMA)}, 400, None, "response_format"),
    ],
)  # fmt: skip
def test_a_wrong_chat_request_is_refused(post, change, status, code, param):
    body = {"model": "gpt-4o", "messages": [USER], **change}
    refused(post("/chat/completions", body), status, code, param)


@pytest.mark.parametrize(
    "body", [b"{", b"[1]", b"\xff", b"", b"3", b"[" * 100_000], ids=["open", "array", "utf8", "none", "number", "deep"]
)
@pytest.mark.parametrize("path", ["/chat/completions", "/embeddings"])
def test_a_body_that_is_no_json_object_is_refused(post, path, body):
    assert "could not parse the JSON body" in refused(post(path, body), 400, None, None)


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"input": None}, 400, "missing_required_parameter", "input"),
        ({"input": ""}, 400, "invalid_value", "input"),
        ({"input": []}, 400, "invalid_value", "input"),
        ({"input": ["a", ""]}, 400, "invalid_value", "input"),
        ({"input": ["a"] * 2049}, 400, "invalid_value", "input"),
        ({"input": {"a": 1}}, 400, "invalid_value", "input"),
        ({"input": [[1, 2], []]}, 400, "invalid_value", "input"),
        ({"dimensions": 0}, 400, "integer_below_min_value", "dimensions"),
        ({"dimensions": 1537}, 400, "integer_above_max_value", "dimensions"),
        ({"encoding_format": "hex"}, 400, "invalid_value", "encoding_format"),
        ({"model": "gpt-4o"}, 403, None, None),
        ({"messages": []}, 400, "unknown_parameter", "messages"),
    ],
)
def test_a_wrong_embeddings_request_is_refused(post, change, status, code, param):
    body = {"model": "text-embedding-3-small", "input": "a", **change}
    refused(post("/embeddings", body), status, code, param)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0, "top_p": 1, "seed": 7, "stop": ["x"], "user": "u", "metadata": {"a": "b"}},
        {"temperature": None, "tools": None, "stop": None, "response_format": None, "max_tokens": None},
        {"messages": [USER, CALLING, RESULT]},
        {"messages": [{"role": "developer", "content": "be kind"}, USER]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"},
                                                   {"type": "image_url", "image_url": {"url": "data:"}}]}]},
        {"tools": [TOOL], "tool_choice": "none", "parallel_tool_calls": False},
        {"response_format": {"type": "text"}},
        {"logprobs": True, "top_logprobs": 20},
    ],
)  # fmt: skip
def test_what_the_api_accepts_is_accepted(post, change):
    response = post("/chat/completions", {"model": "gpt-4o", "messages": [USER], **change})
    assert response.status_code == 200, response.text
