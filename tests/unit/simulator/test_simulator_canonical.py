"""The prefix hash sees what was said and called, and nothing else."""

from __future__ import annotations

import copy
import json

from hypothesis import assume, given
from hypothesis import strategies as st

from langchain_llmops.simulator.canonical import EMPTY, canonical, chain, digest_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(st.text(max_size=5), JSON, max_size=3)


def call_of(name, arguments, call_id="call_1"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


CALLS = st.lists(st.builds(call_of, st.sampled_from(["look", "pay"]), ARGUMENTS, st.text(max_size=6)), max_size=2)
MESSAGE = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": st.text(max_size=20)}),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": st.none() | st.text(max_size=20), "tool_calls": CALLS}
    ),
    st.fixed_dictionaries(
        {"role": st.just("tool"), "content": st.text(max_size=20), "tool_call_id": st.text(max_size=6)}
    ),
)
CONVERSATION = st.lists(MESSAGE, min_size=1, max_size=5)


@given(CONVERSATION, st.text(max_size=8), st.integers(0, 4))
def test_ids_names_and_formatting_do_not_matter(messages, other_id, indent):
    changed = copy.deepcopy(messages)
    for message in changed:
        message["name"] = other_id
        if "tool_call_id" in message:
            message["tool_call_id"] = other_id
        if message["content"] == "":
            message["content"] = None
        elif message["content"]:
            half = len(message["content"]) // 2
            parts = [message["content"][:half], message["content"][half:]]
            message["content"] = [{"type": "text", "text": part} for part in parts]
        for call in message.get("tool_calls", ()):
            call["id"] = other_id
            arguments = json.loads(call["function"]["arguments"])
            shuffled = dict(reversed(arguments.items()))
            call["function"]["arguments"] = json.dumps(shuffled, indent=indent, ensure_ascii=False)
        if message.get("tool_calls") == []:
            del message["tool_calls"]
    assert digest_of(changed) == digest_of(messages)


@given(CONVERSATION, st.data())
def test_any_change_of_role_text_tool_or_argument_matters(messages, data):
    changed = copy.deepcopy(messages)
    message = data.draw(st.sampled_from(changed))
    kinds = ["role", "content"] + (["name", "arguments", "drop"] if message.get("tool_calls") else [])
    kind = data.draw(st.sampled_from(kinds))
    if kind == "role":
        message["role"] = data.draw(
            st.sampled_from(["system", "user", "assistant", "tool"]).filter(message["role"].__ne__)
        )
    elif kind == "content":
        before = message["content"] or ""
        message["content"] = data.draw(st.text(max_size=20).filter(lambda text: text != before))
    elif kind == "drop":
        message["tool_calls"].pop()
    else:
        function = data.draw(st.sampled_from(message["tool_calls"]))["function"]
        if kind == "name":
            function["name"] += "2"
        else:
            before = json.loads(function["arguments"])
            after = data.draw(ARGUMENTS)
            assume(canonical_json(after) != canonical_json(before))
            function["arguments"] = json.dumps(after)
    assert digest_of(changed) != digest_of(messages)


def canonical_json(value):
    """JSON's own equality: 1 and 1.0 are one number, true is none."""
    if isinstance(value, float) and value.is_integer():
        return json.dumps(int(value))
    if isinstance(value, list):
        return "[" + ",".join(map(canonical_json, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{canonical_json(value[k])}" for k in sorted(value)) + "}"
    return json.dumps(value)


@given(CONVERSATION, CONVERSATION)
def test_the_chain_names_every_prefix_and_order_matters(one, other):
    digests = list(chain(one))
    assert digests == [digest_of(one[: i + 1]) for i in range(len(one))]
    assert len(set(digests)) == len(one)
    assert EMPTY not in digests
    assume([canonical(m) for m in one + other] != [canonical(m) for m in other + one])
    assert digest_of(one + other) != digest_of(other + one)


def test_arguments_are_compared_as_json_where_they_are_json_and_as_text_elsewhere():
    def digest(arguments):
        call = {"id": "x", "function": {"name": "f", "arguments": arguments}}
        return digest_of([{"role": "assistant", "content": None, "tool_calls": [call]}])

    assert digest("{not json") != digest("{not  json")
    assert digest("") == digest(" {} ")
    assert digest('"{}"') != digest("{}")
    assert digest('{"a": 1e2}') == digest('{"a": 100.0}') == digest('{"a": 100}')
    assert digest('{"a": 1}') != digest('{"a": true}')
    assert digest("[" * 100_000) != digest("[" * 100_001)


def test_blocks_that_are_not_text_count_too():
    def digest(url):
        image = {"type": "image_url", "image_url": {"url": url}}
        return digest_of([{"role": "user", "content": [{"type": "text", "text": "see"}, image]}])

    assert digest("a") != digest("b")
    assert digest("a") != digest_of([{"role": "user", "content": "see"}])
