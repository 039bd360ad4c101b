"""Models as the suite manages them: no retries of their own, one pool, usable from any loop, and left unchanged."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.caches import InMemoryCache
from langchain_openai import ChatOpenAI

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.models import HttpPool, ModelFactory
from langchain_llmops.resilience.fallback import FallbackChain
from langchain_llmops.simulator import Scripted, running
from tests.support.models import ScriptedModel


@pytest.fixture
def pool(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    pool = HttpPool(timeout_s=7.0)
    yield pool
    pool.close()


@pytest.fixture
def cache() -> InMemoryCache:
    return InMemoryCache()


@pytest.fixture
def factory(pool, cache) -> ModelFactory:
    return ModelFactory(pool, timeout_s=7.0, cache=cache)


@pytest.fixture(scope="module")
def server():
    with running(Scripted([{"default": {"content": "hello"}}])) as server:
        yield server


def test_a_model_by_name_has_our_retries_timeout_cache_and_pool(factory, pool, cache) -> None:
    model = factory.model("openai:gpt-4o-mini", api_key="k")
    assert isinstance(model, ChatOpenAI)
    assert (model.model_name, model.max_retries, model.request_timeout, model.cache) == ("gpt-4o-mini", 0, 7.0, cache)
    assert model.root_client.max_retries == 0
    assert model.root_client._client is pool.sync
    assert model.stream_usage is True


@pytest.mark.parametrize("name", ["gpt-4o", "openai:gpt-4o", "o3-mini"])
def test_models_share_one_pool(factory, pool, name) -> None:
    assert factory.model(name, api_key="k").root_client._client is pool.sync


def test_options_of_the_caller_win(factory) -> None:
    model = factory.model("openai:gpt-4o", api_key="k", timeout=1.0, cache=False, temperature=0.5, max_retries=3)
    assert (model.request_timeout, model.cache, model.temperature, model.max_retries) == (1.0, False, 0.5, 3)


@pytest.mark.parametrize("name", ["", "nobody:model", "no-such-model", "openai:"])
def test_a_name_nobody_knows_is_one_clear_error(factory, name) -> None:
    with pytest.raises(ConfigurationError, match=f"^model '{name}': ") as caught:
        factory.model(name, api_key="k")
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_one_clear_error(factory, monkeypatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match="^model 'openai:gpt-4o': .*OPENAI_API_KEY") as caught:
        factory.model("openai:gpt-4o")
    assert "\n" not in str(caught.value)


def test_a_missing_integration_says_what_to_install(factory) -> None:
    with pytest.raises(ConfigurationError, match="^model 'anthropic:claude-3-5-haiku-latest': .*langchain-anthropic"):
        factory.model("anthropic:claude-3-5-haiku-latest")


# models that exist


def test_a_model_that_exists_is_taken_over_and_not_changed(factory, cache) -> None:
    given = ChatOpenAI(model="gpt-4o", api_key="k", temperature=0.3, tags=["mine"], metadata={"a": 1})
    model = factory.model(given)
    assert (model.max_retries, model.cache, model.root_client.max_retries) == (0, cache, 0)
    assert (model.model_name, model.temperature, model.tags, model.metadata["a"]) == ("gpt-4o", 0.3, ["mine"], 1)
    assert (given.max_retries, given.cache, given.root_client.max_retries) == (None, None, 2)


def test_a_model_with_everything_set_is_taken_over_as_it_is(factory) -> None:
    options = {
        "base_url": "http://elsewhere/v1", "organization": "org", "seed": 7, "top_p": 0.5, "max_tokens": 9,
        "timeout": 3.0, "default_headers": {"x": "1"}, "model_kwargs": {"not_yet_known": 1}, "stop": ["x"],
        "reasoning_effort": "low", "extra_body": {"y": 2},
    }  # fmt: skip
    given = ChatOpenAI(model="gpt-4o", api_key="secret", **options)
    model = factory.model(given)
    assert model._default_params == given._default_params
    assert model.openai_api_key.get_secret_value() == "secret"
    assert (model.openai_api_base, model.request_timeout, model.default_headers) == (
        "http://elsewhere/v1", 3.0, {"x": "1"}
    )  # fmt: skip


def test_the_models_own_choice_about_caching_holds(factory, cache) -> None:
    other = InMemoryCache()
    assert factory.model(ChatOpenAI(model="gpt-4o", api_key="k", cache=False)).cache is False
    assert factory.model(ChatOpenAI(model="gpt-4o", api_key="k", cache=other)).cache is other
    assert factory.model(ScriptedModel()).cache is cache


def test_any_chat_model_is_taken_over(factory, cache) -> None:
    given = ScriptedModel("mine")
    model = factory.model(given)
    assert model.invoke("hi").text == "mine"
    assert (model.cache, given.cache) == (cache, None)


def test_a_chain_of_ours_manages_itself(factory) -> None:
    chain = FallbackChain([ScriptedModel()])
    assert factory.model(chain) is chain


# the pool


def test_one_model_survives_two_event_loops(factory, server) -> None:
    """ChatOpenAI alone fails the second time: "Event loop is closed"."""
    model = factory.model("openai:gpt-4o-mini", base_url=server.base_url, api_key="k", cache=False)
    for _ in range(3):
        assert asyncio.run(model.ainvoke("hi")).text == "hello"
    assert model.invoke("hi").text == "hello"


async def test_many_tasks_share_the_pool(factory, server) -> None:
    model = factory.model("openai:gpt-4o-mini", base_url=server.base_url, api_key="k", cache=False)
    answers = await asyncio.gather(*(model.ainvoke("hi") for _ in range(20)))
    assert {message.text for message in answers} == {"hello"}


async def test_a_streamed_answer_reports_its_usage(factory, server) -> None:
    """ChatOpenAI asks for none when it is given a base URL."""
    model = factory.model("openai:gpt-4o-mini", base_url=server.base_url, api_key="k", cache=False)
    pieces = [piece async for piece in model.astream("hi")]
    assert any(piece.usage_metadata and piece.usage_metadata["output_tokens"] > 0 for piece in pieces)
    assert any(piece.usage_metadata for piece in model.stream("hi"))


def test_where_a_proxy_is_set_langchains_own_clients_honour_it(monkeypatch, pool) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert pool.options() == {}


async def test_a_pool_closes_both_sides() -> None:
    pool = HttpPool(timeout_s=1.0)
    await pool.aclose()
    assert pool.sync.is_closed
    assert pool.asynchronous.is_closed
