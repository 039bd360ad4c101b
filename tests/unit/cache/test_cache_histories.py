"""Histories in a key: ids of calls and of items say what belongs together, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models import FakeListLLM
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_llmops.cache.fingerprint import Fingerprints

TEXT_MODEL = "[('_type', 'fake'), ('stop', None)]"


def key(messages, llm_string: str = "[('model', 'm')]", *, text: bool = False) -> str:
    return Fingerprints().key(dumps(messages), llm_string, "", text=text).digest


def anthropic(calls, ids) -> list:
    return [
        AIMessage(
            [{"type": "text", "text": "so"}]
            + [{"type": "tool_use", "id": ids[one], "name": "f", "input": {"q": one}} for one in calls],
            tool_calls=[{"name": "f", "args": {"q": one}, "id": ids[one]} for one in calls],
        ),
        HumanMessage([{"type": "tool_result", "tool_use_id": ids[one], "content": str(one)} for one in calls]),
    ]


def responses(calls, ids) -> list:
    own = [
        {"type": "function_call", "id": f"fc_{ids[one]}", "call_id": ids[one], "name": "f", "arguments": f"[{one}]"}
        for one in calls
    ]
    content = [
        {"type": "reasoning", "id": f"rs_{ids[0]}", "summary": []},
        {"type": "text", "text": "so", "annotations": [], "id": f"msg_{ids[1]}"},
    ]
    named = {"__openai_function_call_ids__": {ids[one]: f"fc_{ids[one]}" for one in calls}}
    return [
        AIMessage(
            content + own,
            tool_calls=[{"name": "f", "args": {"q": one}, "id": ids[one]} for one in calls],
            additional_kwargs=named | {"reasoning": {"id": f"rs_{ids[0]}", "summary": []}},
        ),
        *(ToolMessage(str(one), tool_call_id=ids[one]) for one in calls),
        AIMessage([{"type": "function_call_output", "call_id": ids[one], "output": "x"} for one in calls]),
    ]


ids = st.lists(st.text(min_size=1), min_size=3, max_size=3, unique=True)
calls = st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True)


@pytest.mark.parametrize("history", [anthropic, responses])
@given(calls=calls, one=ids, other=ids)
def test_histories_that_differ_only_in_ids_share_a_key(history, calls, one, other) -> None:
    assert key(history(calls, one)) == key(history(calls, other))


@pytest.mark.parametrize("history", [anthropic, responses])
@given(one=calls, other=calls, ids=ids)
def test_histories_that_differ_in_more_do_not(history, one, other, ids) -> None:
    assert (key(history(one, ids)) == key(history(other, ids))) == (one == other)


def results(*answered: str) -> list:
    calls = [{"type": "tool_use", "id": name, "name": "f", "input": {}} for name in ("a", "b")]
    found = [{"type": "tool_result", "tool_use_id": name, "content": str(n)} for n, name in enumerate(answered)]
    return [AIMessage(calls), HumanMessage(found)]


def test_which_call_a_block_answers_counts() -> None:
    assert key(results("a", "b")) != key(results("b", "a"))


@pytest.mark.parametrize(
    "block",
    [
        {"type": "item_reference", "id": "msg_{}"},
        {"type": "file", "id": "{}"},
        {"type": "image", "id": "{}", "url": "u"},
        {"type": "file", "file": {"file_id": "fc_{}"}},
        {"type": "reasoning", "id": "rs_1", "encrypted_content": "{}"},
    ],
)
def test_an_id_that_is_the_content_counts(block) -> None:
    def filled(value, by):
        if isinstance(value, dict):
            return {name: filled(one, by) for name, one in value.items()}
        return value.replace("{}", by)

    assert key([HumanMessage([filled(block, "1")])]) != key([HumanMessage([filled(block, "2")])])


words = st.lists(st.text(max_size=3), min_size=1, max_size=4)


def blocks(texts) -> list:
    return [HumanMessage([{"type": "text", "text": text} for text in texts])]


@given(words, words)
def test_blocks_of_text_are_the_blocks_that_they_are(one, other) -> None:
    assert (key(blocks(one)) == key(blocks(other))) == (one == other)


@given(words)
def test_a_single_block_of_text_is_its_text_and_several_are_not(texts) -> None:
    assert (key(blocks(texts)) == key([HumanMessage("".join(texts))])) == (len(texts) == 1)


# a text model's prompt that is the JSON of messages


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_text_models_prompt_is_the_text_it_is(one, other) -> None:
    keys = [key([HumanMessage("hi", id=number)], TEXT_MODEL, text=True) for number in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)
    assert key([HumanMessage("hi", id=one)], TEXT_MODEL) == key([HumanMessage("hi", id=other)], TEXT_MODEL)


@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_two_such_prompts_that_differ_in_an_id_do_not_share(cache, colour) -> None:
    model = FakeListLLM(responses=["one", "two", "three"], cache=cache)
    said = [
        model.invoke(prompt) if colour == "sync" else await model.ainvoke(prompt)
        for prompt in [dumps([HumanMessage("hi", id=number)]) for number in ("1", "2", "1")]
    ]
    assert said == ["one", "two", "one"]
