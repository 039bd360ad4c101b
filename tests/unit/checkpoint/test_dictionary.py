"""The compression dictionary that is shipped."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langchain_llmops.checkpoint.dictionary import checkpoint_dictionary
from langchain_llmops.core.envelope import Envelope
from langchain_llmops.core.errors import EnvelopeError

ASKED = "Where is my order, please? It should have come on Tuesday, and I have heard nothing since."
MESSAGES = (
    HumanMessage(ASKED, id="a"),
    AIMessage("", id="b", tool_calls=[{"name": "track_parcel", "args": {"number": 991}, "id": "call_1"}]),
    ToolMessage("def wait(self) -> None:\n    return None\n", tool_call_id="call_1", name="read_file"),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.type)
def test_a_short_message_takes_half_of_what_it_takes_without(message):
    data = JsonPlusSerializer().dumps_typed(message)[1]
    with_it, without = Envelope(dictionary=checkpoint_dictionary()), Envelope()
    stored = with_it.seal(data)
    assert with_it.open(stored) == data
    assert len(stored) < 0.55 * len(without.seal(data))
    with pytest.raises(EnvelopeError, match="need compression dictionary 32769"):
        without.open(stored)


def test_it_is_read_once_and_small():
    assert checkpoint_dictionary() is checkpoint_dictionary()
    assert len(checkpoint_dictionary()) == 32 * 1024
