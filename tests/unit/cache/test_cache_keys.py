"""The key of a call: everything the provider sees and who may share the answer, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from langchain_llmops.cache.fingerprint import Fingerprints, Uncacheable, scope_of
from langchain_llmops.cache.policy import Policy
from langchain_llmops.cache.tiered import TieredCache
from langchain_llmops.core.types import Identity
from tests.support.cache import request
from tests.support.models import ScriptedModel


def fingerprint(prompt: str, llm_string: str, *, owner: str, namespace: str) -> str:
    return Fingerprints(namespace=namespace).key(prompt, llm_string, owner).digest


def key(messages, *, owner: str = "", namespace: str = "", **call) -> str:
    return fingerprint(*request(messages, **call), owner=owner, namespace=namespace)


# A conversation in the words of the provider: (role, text, calls) where a call is (name, argument), and a tool
# result answers the call of that number.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
calls = st.lists(st.tuples(st.sampled_from(["lookup", "refund"]), texts), min_size=1, max_size=2)
turns = st.one_of(
    st.tuples(st.just("human"), texts, st.just(())),
    st.tuples(st.just("system"), texts, st.just(())),
    st.tuples(st.just("ai"), texts, st.just(())),
    st.tuples(st.just("tools"), texts, calls.map(tuple)),
)
conversations = st.lists(turns, min_size=1, max_size=4)
ids = st.integers(0, 10**6).map(str)
decorations = st.fixed_dictionaries({"salt": ids, "tokens": st.integers(0, 999), "blocks": st.booleans()})


def messages_of(conversation, decoration) -> list:
    """The conversation as LangChain messages, with ids, usage and metadata that no provider sees."""
    salt, tokens = decoration["salt"], decoration["tokens"]
    usage = {"input_tokens": tokens, "output_tokens": 1, "total_tokens": tokens + 1}
    told = {"model_name": f"m{salt}", "finish_reason": "stop", "logprobs": None}
    found = []
    for place, (role, text, listed) in enumerate(conversation):
        content = [{"type": "text", "text": text}] if decoration["blocks"] and role != "tools" else text
        own = {"id": f"{salt}-{place}"}
        if role == "human":
            found.append(HumanMessage(content, **own))
        elif role == "system":
            found.append(SystemMessage(content, **own))
        elif role == "ai":
            found.append(AIMessage(content, usage_metadata=usage, response_metadata=told, **own))
        else:
            made = [
                {"name": name, "args": {"q": argument}, "id": f"call-{salt}-{place}-{number}", "type": "tool_call"}
                for number, (name, argument) in enumerate(listed)
            ]
            found.append(AIMessage("", tool_calls=made, usage_metadata=usage, response_metadata=told, **own))
            found += [ToolMessage(text, tool_call_id=call["id"], id=f"t{call['id']}") for call in made]
    return found


@given(conversations, decorations, decorations)
def test_equal_requests_share_a_key_whatever_their_ids_usage_and_metadata(conversation, one, other) -> None:
    assert key(messages_of(conversation, one)) == key(messages_of(conversation, other))


def test_what_was_streamed_is_the_same_history_as_what_was_not() -> None:
    piece = AIMessageChunk("a", chunk_position="last", tool_calls=[CALL])
    assert key([HumanMessage("q"), piece]) == key([HumanMessage("q"), AIMessage("a", tool_calls=[CALL])])


@settings(max_examples=200)
@given(conversations, conversations, decorations)
def test_only_equal_requests_share_a_key(one, other, decoration) -> None:
    same = key(messages_of(one, decoration)) == key(messages_of(other, decoration))
    assert same == (one == other)


CALL = {"name": "lookup", "args": {"q": "1"}, "id": "c1", "type": "tool_call"}
OTHER = {"name": "lookup", "args": {"q": "1"}, "id": "c2", "type": "tool_call"}
BAD = {"name": "lookup", "args": "{", "id": "c3", "error": None, "type": "invalid_tool_call"}
# pairs of histories that a provider tells apart
DIFFERENT = {
    "a letter": ([HumanMessage("a")], [HumanMessage("b")]),
    "a space": ([HumanMessage("a")], [HumanMessage("a ")]),
    "the role": ([HumanMessage("a")], [SystemMessage("a")]),
    "a role of one's own": ([ChatMessage("a", role="critic")], [ChatMessage("a", role="author")]),
    "developer or system": (
        [SystemMessage("a")],
        [SystemMessage("a", additional_kwargs={"__openai_role__": "developer"})],
    ),
    "the speaker's name": ([HumanMessage("a", name="ada")], [HumanMessage("a", name="eve")]),
    "the function's name": ([FunctionMessage("a", name="f")], [FunctionMessage("a", name="g")]),
    "one message or two": ([HumanMessage("ab")], [HumanMessage("a"), HumanMessage("b")]),
    "the order": ([HumanMessage("a"), HumanMessage("b")], [HumanMessage("b"), HumanMessage("a")]),
    "an image": (
        [HumanMessage([{"type": "image_url", "image_url": {"url": "http://a"}}])],
        [HumanMessage([{"type": "image_url", "image_url": {"url": "http://b"}}])],
    ),
    "a marked block": (
        [HumanMessage([{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}])],
        [HumanMessage([{"type": "text", "text": "a"}])],
    ),
    "a tool call's name": ([AIMessage("", tool_calls=[CALL])], [AIMessage("", tool_calls=[{**CALL, "name": "x"}])]),
    "a tool call's arguments": ([AIMessage("", tool_calls=[CALL])], [AIMessage("", tool_calls=[{**CALL, "args": {}}])]),
    "a tool call or none": ([AIMessage("", tool_calls=[CALL])], [AIMessage("")]),
    "a tool call that is none": (
        [AIMessage("", invalid_tool_calls=[BAD])],
        [AIMessage("", invalid_tool_calls=[{**BAD, "args": "["}])],
    ),
    "which call is answered": (
        [
            AIMessage("", tool_calls=[CALL, OTHER]),
            ToolMessage("x", tool_call_id="c1"),
            ToolMessage("y", tool_call_id="c2"),
        ],
        [
            AIMessage("", tool_calls=[CALL, OTHER]),
            ToolMessage("x", tool_call_id="c2"),
            ToolMessage("y", tool_call_id="c1"),
        ],
    ),
    "a tool's failure": (
        [AIMessage("", tool_calls=[CALL]), ToolMessage("x", tool_call_id="c1", status="error")],
        [AIMessage("", tool_calls=[CALL]), ToolMessage("x", tool_call_id="c1")],
    ),
    "thoughts that are sent back": (
        [AIMessage("a", additional_kwargs={"reasoning_content": "x"})],
        [AIMessage("a", additional_kwargs={"reasoning_content": "y"})],
    ),
}


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_any_change_that_the_provider_sees_changes_the_key(one, other) -> None:
    assert key(one) != key(other)


@tool
def lookup(q: str) -> str:
    """Look something up."""
    return q


@tool
def refund(q: str) -> str:
    """Pay something back."""
    return q


class Answer(BaseModel):
    city: str


def openai(**fields) -> ChatOpenAI:
    return ChatOpenAI(**{"model": "gpt-4o-mini", "api_key": "k", **fields})


SETTINGS = {
    "model": {"model": "gpt-4o"},
    "temperature": {"temperature": 0.0},
    "top_p": {"top_p": 0.5},
    "max_tokens": {"max_tokens": 5},
    "seed": {"seed": 7},
    "stop": {"stop_sequences": ["x"]},
    "server": {"base_url": "http://elsewhere/v1"},
    "organisation": {"organization": "org-2"},
    "model_kwargs": {"model_kwargs": {"not_yet_known": 2}},
    "reasoning": {"reasoning_effort": "high"},
    "headers": {"default_headers": {"x-tenant": "b"}},
}


@pytest.mark.parametrize("fields", SETTINGS.values(), ids=SETTINGS)
def test_any_setting_that_the_provider_sees_changes_the_key(fields) -> None:
    assert key("hi", model=openai()) != key("hi", model=openai(**fields))


CLIENT = {
    "retries": {"max_retries": 9},
    "timeout": {"timeout": 3.0},
    "streaming usage": {"stream_usage": True},
    "tags": {"tags": ["a"]},
    "metadata": {"metadata": {"user_id": "u"}},
    "name": {"name": "mine"},
    "verbose": {"verbose": True},
    "api key": {"api_key": "another"},
}


@pytest.mark.parametrize("fields", CLIENT.values(), ids=CLIENT)
def test_how_we_ask_does_not_change_the_key(fields) -> None:
    assert key("hi", model=openai()) == key("hi", model=openai(**fields))


BOUND = {
    "a tool": lambda model: model.bind_tools([lookup]),
    "two tools": lambda model: model.bind_tools([lookup, refund]),
    "another tool": lambda model: model.bind_tools([refund]),
    "a forced tool": lambda model: model.bind_tools([lookup], tool_choice="lookup"),
    "a stop word": lambda model: model.bind(stop=["x"]),
    "json": lambda model: model.bind(response_format={"type": "json_object"}),
    "a schema": lambda model: model.bind(response_format={"type": "json_schema", "json_schema": {"name": "a"}}),
    "another schema": lambda model: model.bind(response_format={"type": "json_schema", "json_schema": {"name": "b"}}),
    "nothing": lambda model: model,
}


def test_what_is_bound_to_a_model_is_part_of_the_key() -> None:
    keys = {name: key("hi", bound=bound) for name, bound in BOUND.items()}
    assert len(set(keys.values())) == len(BOUND), keys
    assert keys == {name: key("hi", bound=bound) for name, bound in BOUND.items()}


OPAQUE = {
    "a schema by the name of its class": lambda model: model.bind(response_format=Answer),
    "a function": lambda model: model.bind(hook=print.__class__),
    "an object": lambda model: model.bind(hook=object()),
}


@pytest.mark.parametrize("bound", OPAQUE.values(), ids=OPAQUE)
def test_what_the_cache_cannot_see_is_not_cached(bound) -> None:
    """The same class name may stand for another schema tomorrow."""
    with pytest.raises(Uncacheable, match="cannot see"):
        key("hi", bound=bound)


WARM = {
    "set on the model": ({"model": openai(temperature=0.7)}, "hi"),
    "bound to the model": ({"bound": lambda model: model.bind(temperature=0.7)}, "hi"),
    "given with the call": ({"temperature": 0.7}, "hi"),
    "set on a model that does not serialize": ({"model": ScriptedModel(temperature=0.7)}, "hi"),
    "a whole number": ({"model": openai(temperature=1)}, "hi"),
}


@pytest.mark.parametrize(("call", "text"), WARM.values(), ids=WARM)
def test_an_answer_meant_to_vary_is_not_cached(call, text) -> None:
    asked = Fingerprints().key(*request(text, **call), "")
    with pytest.raises(Uncacheable, match="temperature is above 0"):
        Policy().check(asked)
    Policy(warm=True).check(asked)


def test_a_cold_model_is_cached() -> None:
    assert key("hi", model=openai(temperature=0)) == key("hi", model=openai(temperature=0))
    assert key("hi", model=ScriptedModel(temperature=0.0))


# who may share


parts = st.text(max_size=6)


@given(*[parts] * 4)
def test_namespaces_and_owners_never_share(space, elsewhere, owner, nobody) -> None:
    asked = ('[{"kwargs": {"type": "human", "content": "hi"}}]', "model")
    mine = fingerprint(*asked, namespace=space, owner=owner)
    yours = fingerprint(*asked, namespace=elsewhere, owner=nobody)
    assert (mine == yours) == ((space, owner) == (elsewhere, nobody))


people = st.builds(Identity, tenant=parts, user=parts.filter(bool), session=parts.filter(bool))


@given(people, people, st.sampled_from(["user", "session"]), st.sampled_from(["user", "session"]))
def test_an_answer_is_shared_only_within_its_scope(one, other, scope, another) -> None:
    def owner(who, scope):
        return scope, who.tenant or "own", who.user, who.session if scope == "session" else None

    mine, yours = scope_of(scope, one, "own"), scope_of(another, other, "own")
    assert (mine == yours) == (owner(one, scope) == owner(other, another))


@given(people, people)
def test_a_shared_answer_belongs_to_a_tenant_and_to_nobody_in_it(one, other) -> None:
    same = (one.tenant or "own") == (other.tenant or "own")
    assert (scope_of("shared", one, "own") == scope_of("shared", other, "own")) == same
    assert scope_of("shared", None, "own") == scope_of("shared", Identity(user="u"), "own")


@pytest.mark.parametrize("scope", ["user", "session"])
@pytest.mark.parametrize("identity", [None, Identity(), Identity(tenant="t"), Identity(user="", session="")])
def test_with_nobody_named_there_is_no_scope_to_share_in(scope, identity) -> None:
    with pytest.raises(Uncacheable, match=f"the run names no {scope}"):
        scope_of(scope, identity, "own")


# text models, and strings of any kind


TEXTS = [
    "hi", "[]", "[1, 2]", "{}", "null", '[{"a": 1}]', '[{"b": 2}]', '[{"kwargs": {"content": "x"}}]', '[{"kwargs": 1}]',
    '[{"type": "constructor", "kwargs": {"tool_calls": [1]}}]', "[" * 50_000, '[{"a":' * 50_000,
]  # fmt: skip


def test_a_text_prompt_is_its_text_even_when_it_looks_like_json() -> None:
    keys = {text: fingerprint(text, "model", owner="", namespace="") for text in TEXTS}
    assert len(set(keys.values())) == len(TEXTS)


def test_a_text_model_gets_its_own_answer_back(cache: TieredCache) -> None:
    model = FakeListLLM(responses=["first", "second", "third"], cache=cache)
    assert [model.invoke(text) for text in ('[{"a": 1}]', '[{"b": 2}]', '[{"a": 1}]')] == ["first", "second", "first"]


@given(
    st.text() | st.sampled_from(TEXTS[:-2]),
    st.text() | st.sampled_from(["}---[", "{}---[", '{"kwargs": 3}---[]', "[]"]),
)
def test_whatever_the_strings_the_cache_never_raises(prompt, llm_string) -> None:
    assert TieredCache().lookup(prompt, llm_string) is None


def test_keys_are_the_same_in_every_process() -> None:
    """Nothing in them depends on hash seeds or addresses: processes share the second level."""
    asked = request([HumanMessage("hi"), AIMessage("", tool_calls=[CALL])], bound=BOUND["two tools"])
    code = (
        "from langchain_llmops.cache.fingerprint import Fingerprints\n"
        f"print(Fingerprints(namespace='n').key(*{asked!r}, 'o').digest)"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert keys == {fingerprint(*asked, owner="o", namespace="n")}
