"""Requests that cannot be read in full: what is known of them counts, and the rest keeps them out of the cache."""

from __future__ import annotations

import enum

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage

from langchain_llmops.cache.fingerprint import Fingerprints, Uncacheable
from langchain_llmops.cache.model import cached
from langchain_llmops.cache.policy import Policy
from tests.support.cache import request
from tests.support.models import ScriptedModel


class Harm(enum.Enum):
    HATE = 1


class Told(ScriptedModel):
    """A model that LangChain describes in JSON, with the repr of what a call is asked with behind it."""

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return True


UNREAD = {"safety_settings": {Harm.HATE: 4}}
NO_LITERALS = {"an enum": UNREAD, "infinity": {"penalty": float("inf")}}
WARM = {
    "on a model that serializes": (Told, {"temperature": 0.7}, {}),
    "on a model that does not": (ScriptedModel, {"temperature": 0.7}, {}),
    "with the call": (Told, {}, {"temperature": 1}),
    "as text": (Told, {}, {"temperature": "0.7"}),
    "among others": (Told, {}, {"generation_config": {"temperature": 0.7}}),
}


@pytest.mark.parametrize("odd", NO_LITERALS.values(), ids=NO_LITERALS)
@pytest.mark.parametrize(("kind", "fields", "call"), WARM.values(), ids=WARM)
def test_an_answer_meant_to_vary_is_not_cached_whatever_else_it_is_asked_with(kind, fields, call, odd) -> None:
    asked = Fingerprints().key(*request("hi", model=kind(**fields), **call, **odd), "")
    with pytest.raises(Uncacheable, match="temperature is above 0"):
        Policy().check(asked)


@pytest.mark.parametrize(
    "cold",
    [{}, {"hint": "the temperature of the room"}, {"temperature": 0}, {"temperature": 0.0}, {"temperature": None}],
)
@pytest.mark.parametrize("odd", NO_LITERALS.values(), ids=NO_LITERALS)
def test_a_cold_one_is_cached_whatever_else_it_is_asked_with(cache, cold, odd) -> None:
    model = Told(cache=cache)
    for _ in range(2):
        model.invoke("hi", **cold, **odd)
    assert model.calls == 1
    model.invoke("hi", **cold, **odd, seed=1)
    assert model.calls == 2


class Settings:
    def __repr__(self) -> str:
        return "Settings(temperature=hot)"


@pytest.mark.parametrize("call", [{"settings": Settings()}, {"temperature": "hot"}, {"temperature": "hot", **UNREAD}])
def test_a_temperature_that_cannot_be_read_keeps_an_answer_out(call) -> None:
    with pytest.raises(Uncacheable, match="temperature cannot be read"):
        Fingerprints().key(*request("hi", model=Told(), **call), "")


RAISING = {
    "keys of two kinds": {"logit_bias": {"1": 1, 2: 2}},
    "keys that are tuples": {"table": {(1, 2): 1}},
    "keys of two kinds in a tool": {"tools": [{"a": {"1": 1, 2: 2}}]},
}


@pytest.mark.parametrize("made", [lambda model, _: model, lambda model, cache: cached(model, cache=cache)])
@pytest.mark.parametrize("call", RAISING.values(), ids=RAISING)
def test_a_request_that_no_key_can_be_made_of_is_asked_and_counted(cache, call, made) -> None:
    model = made(Told(cache=cache), cache)
    assert [model.invoke("hi", **call).text for _ in range(2)] == ["ok", "ok"]
    assert cache.answers.counts == {"bypass": 2}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.none() | st.tuples(st.integers()), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.text(), st.dictionaries(st.text(max_size=12) | st.just("temperature"), anything, max_size=4))
def test_whatever_is_asked_with_there_is_a_key_or_a_reason_for_none(prompt, call) -> None:
    try:
        key = Fingerprints().key(prompt, str(sorted(call.items())), "")
    except Uncacheable as reason:
        assert str(reason)
    else:
        assert len(key.digest) == 64


class Pixels:
    def __init__(self, *pixels: int) -> None:
        self.pixels = pixels

    def __repr__(self) -> str:
        return "Pixels(0, ..., 0)"


@pytest.mark.parametrize(
    "messages",
    [
        lambda pixels: [HumanMessage([{"type": "image", "data": pixels}])],
        lambda pixels: [HumanMessage("hi", additional_kwargs={"image": pixels})],
        lambda pixels: [AIMessage("", tool_calls=[{"name": "draw", "args": {"image": pixels}, "id": "1"}])],
    ],
)
def test_what_langchain_writes_down_as_a_cut_repr_is_not_cached(cache, messages) -> None:
    model = ScriptedModel("one", "two", cache=cache)
    assert [model.invoke(messages(Pixels(0, number, 0))).text for number in (1, 2)] == ["one", "two"]
    assert cache.stats()["bypass"] == 2


def test_text_that_only_speaks_of_such_a_thing_is_cached(cache) -> None:
    model = ScriptedModel(cache=cache)
    for _ in range(2):
        model.invoke([HumanMessage('{"lc": 1, "type": "not_implemented", "repr": "x"}')])
    assert model.calls == 1
