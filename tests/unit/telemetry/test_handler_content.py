"""What a record keeps of a call's content, and strange content and metadata, which lose no paid call."""

from __future__ import annotations

import json

import pytest
from langchain_core.messages import HumanMessage, SystemMessage

from langchain_llmops.core.context import ROUTE
from langchain_llmops.core.types import Usage
from langchain_llmops.telemetry.handler import OpsCallbackHandler
from tests.support.models import ScriptedModel, answer
from tests.unit.telemetry.conftest import COST

SECRET = "my key is sk-abcdefghijklmnop"


def test_content_is_not_kept_unless_asked(config, told) -> None:
    ScriptedModel(answer("top secret answer")).invoke(SECRET, config)
    assert told.only.content is None
    assert "secret" not in repr(told.only)
    assert "sk-abc" not in repr(told.only)


def test_content_that_is_asked_for_is_redacted(bus, told) -> None:
    handler = OpsCallbackHandler(bus, keep_content=True)
    call = {"name": "pay", "args": {"password": "hunter22", "sum": 5}, "id": "1", "type": "tool_call"}
    ScriptedModel(answer("the answer", tool_calls=[call])).invoke(
        [SystemMessage("be brief"), HumanMessage(SECRET)], {"callbacks": [handler]}
    )
    content = json.loads(told.only.content)
    assert content["messages"][0] == {"role": "system", "content": "be brief"}
    assert content["answer"]["content"] == "the answer"
    assert content["answer"]["tool_calls"][0]["name"] == "pay"
    assert content["answer"]["tool_calls"][0]["args"] == {"password": "***", "sum": 5}
    assert content["tools"] == []
    assert "abcdefghijklmnop" not in told.only.content


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text of me")


STRANGE = {
    "a model that is a number": {"ls_model_name": 5},
    "a model that is a list": {"ls_model_name": ["x"]},
    "a provider that is a mapping": {"ls_provider": {}},
    "a provider with a mapping in it": {"ls_provider": {"a": 1}},
    "a user without a text": {"user_id": Broken()},
    "bytes": {"user_id": b"x", "session_id": b"y", "anything": b"z"},
    "a route that is a list": {ROUTE: ["a"], "langgraph_node": {"b": 1}},
}


@pytest.mark.parametrize("metadata", STRANGE.values(), ids=STRANGE)
def test_strange_metadata_loses_no_paid_call(handler, told, metadata) -> None:
    model = ScriptedModel(answer(response_metadata={"model_name": "gpt-4o-mini"}))
    assert model.invoke("hi", {"callbacks": [handler], "metadata": metadata}).text == "ok"
    assert told.only.usage == Usage(10, 5)
    assert handler.failures == 0


def circle() -> dict:
    round_and_round: dict = {}
    round_and_round["again"] = round_and_round
    return round_and_round


BLOCKS = {
    "a document": [{"type": "media", "mime_type": "application/pdf", "data": "AAAA"}],
    "a video": [{"type": "video", "url": "x"}, {"type": "text", "text": "what is this?"}],
    "a quoted address": '<a href="https://x/?token=abcdef">"password": "hunter22"</a>',
    "a lone surrogate": "\ud800",
    "a book": "x" * 20_000_000,
}


@pytest.mark.parametrize("content", BLOCKS.values(), ids=BLOCKS)
def test_whatever_is_said_is_kept_as_json_and_the_call_is_priced(bus, told, content) -> None:
    handler = OpsCallbackHandler(bus, keep_content=True)
    ScriptedModel().invoke([HumanMessage(content)], {"callbacks": [handler]})
    kept = json.loads(told.only.content)
    assert kept["messages"][0]["role"] in ("user", "human")
    assert len(told.only.content) < 1_000_000
    assert "abcdef" not in told.only.content
    assert "hunter22" not in told.only.content
    assert told.only.money == COST
    assert handler.failures == 0


def test_arguments_that_go_in_circles_lose_no_paid_call(bus, told) -> None:
    handler = OpsCallbackHandler(bus, keep_content=True)
    call = {"name": "pay", "args": circle(), "id": "1", "type": "tool_call"}
    ScriptedModel(answer("", tool_calls=[call])).invoke("hi", {"callbacks": [handler]})
    assert told.only.money == COST


def test_a_record_that_cannot_be_made_is_counted_said_once_and_not_lost(handler, told, caplog, monkeypatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("key sk-abcdefghijklmnop")

    monkeypatch.setattr(handler._make._prices, "price", broken)
    for _ in range(3):
        assert ScriptedModel().invoke("hi", {"callbacks": [handler]}).text == "ok"
    assert [(record.kind, record.model, record.unpriced) for record in told] == [("model", "gpt-4o-mini", True)] * 3
    assert handler.failures == 3
    assert len(caplog.records) == 1
    assert "abcdefghijklmnop" not in caplog.text


def test_equal_prompts_hash_alike_and_others_apart(config, told) -> None:
    model = ScriptedModel()
    for prompt in ("a", "a", "b", [SystemMessage("a")], [HumanMessage("a"), HumanMessage("")], "\ud800"):
        model.invoke(prompt, config)
    hashes = [record.prompt_hash for record in told]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 5
