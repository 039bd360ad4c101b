"""Where a request goes is part of its key, whoever says so: a field of the model, or the environment."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.language_models import FakeListLLM
from langchain_openai import AzureChatOpenAI, ChatOpenAI, OpenAI

from langchain_llmops.cache.fingerprint import Fingerprints
from langchain_llmops.cache.model import cached
from langchain_llmops.cache.place import place_of
from langchain_llmops.simulator import Scripted, running
from tests.support.cache import request
from tests.support.models import ScriptedModel


@pytest.fixture(scope="module")
def servers():
    """URLs of two providers that answer in their own words."""
    with (
        running(Scripted([{"default": {"content": "A"}}])) as one,
        running(Scripted([{"default": {"content": "B"}}])) as other,
    ):
        yield one.base_url, other.base_url


def by_environment(url, monkeypatch, **fields) -> ChatOpenAI:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    model = ChatOpenAI(model="gpt-4o-mini", api_key="k", **fields)
    monkeypatch.delenv("OPENAI_BASE_URL")
    return model


def by_field(url, _, **fields) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o-mini", api_key="k", base_url=url, **fields)


ASK = {
    "a model with a cache": lambda model, cache: model.model_copy(update={"cache": cache}).invoke("hi").text,
    "the same, async": lambda model, cache: asyncio.run(model.model_copy(update={"cache": cache}).ainvoke("hi")).text,
    "a cached model": lambda model, cache: cached(model, cache=cache).invoke("hi").text,
    "its stream": lambda model, cache: "".join(one.text for one in cached(model, cache=cache).stream("hi")),
}


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
@pytest.mark.parametrize("made", [by_environment, by_field])
def test_no_provider_is_given_the_answers_of_another(servers, cache, monkeypatch, ask, made) -> None:
    models = [made(url, monkeypatch) for url in servers]
    assert [ask(model, cache) for model in (*models, *models)] == ["A", "B", "A", "B"]
    assert cache.answers.counts["hit:L1"] == 2


def test_however_a_place_is_told_it_is_the_same_place(servers, cache, monkeypatch) -> None:
    for made in (by_environment, by_field):
        made(servers[0], monkeypatch, cache=cache).invoke("hi")
        made(servers[0] + "/", monkeypatch, cache=cache).invoke("hi")
    assert (cache.answers.counts["miss"], cache.answers.counts["hit:L1"]) == (1, 3)


def test_models_tell_their_place_by_their_client_or_a_field(monkeypatch) -> None:
    azure = {
        "azure_endpoint": "https://x.openai.azure.com",
        "api_version": "1",
        "api_key": "k",
        "azure_deployment": "d",
    }
    assert place_of(ChatOpenAI(api_key="k")) == "https://api.openai.com/v1"
    assert place_of(AzureChatOpenAI(**azure)) == "https://x.openai.azure.com/openai/deployments/d"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://there/v1")
    assert place_of(OpenAI(api_key="k")) == "http://there/v1"

    class Hosted(FakeListLLM):
        endpoint_url: str | None = None

    assert place_of(Hosted(responses=["x"], endpoint_url="http://mine/")) == "http://mine"
    assert (place_of(Hosted(responses=["x"])), place_of(ScriptedModel()), place_of(object())) == ("", "", "")


def test_a_text_models_place_counts_too(cache) -> None:
    class Hosted(FakeListLLM):
        endpoint_url: str

    models = [Hosted(responses=[url], endpoint_url=url, cache=cache) for url in ("http://a", "http://b")]
    assert [model.invoke("hi") for model in (*models, *models)] == ["http://a", "http://b"] * 2
    assert cache.answers.counts["hit:L1"] == 2


class Broken:
    @property
    def base_url(self) -> str:
        raise RuntimeError("no client")


@pytest.mark.parametrize("made", [lambda model, _: model, lambda model, cache: cached(model, cache=cache)])
def test_a_model_that_fails_to_tell_its_place_is_asked_and_not_cached(cache, made) -> None:
    class Odd(ScriptedModel):
        client: Broken = Broken()

    model = made(Odd(cache=cache), cache)
    assert [model.invoke("hi").text for _ in range(2)] == ["ok", "ok"]
    assert cache.answers.counts == {"bypass": 2}


def test_of_the_fields_only_those_that_the_place_repeats_do_not_count() -> None:
    def key(place, **fields) -> str:
        asked = request("hi", model=ChatOpenAI(model="gpt-4o-mini", api_key="k", **fields))
        return Fingerprints().key(*asked, "", place).digest

    there = {"base_url": "http://there/v1"}
    assert key("http://there/v1", **there) == key("http://there/v1")
    assert key("http://elsewhere", **there) != key("http://elsewhere")
    assert key("http://there/v1", **there, temperature=0.0) != key("http://there/v1", **there)
    assert key("", **there) != key("")
