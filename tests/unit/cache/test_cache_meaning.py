"""The semantic level within the cache: other wordings of a question, for their own group alone."""

from __future__ import annotations

import asyncio
import threading
from uuid import UUID

import pytest
from langchain_core.messages import HumanMessage, SystemMessage

from langchain_llmops.cache.hashing import HashingEmbeddings
from langchain_llmops.cache.model import cached
from langchain_llmops.cache.semantic import SemanticLevel
from langchain_llmops.cache.tiered import TieredCache
from tests.support.models import ScriptedModel, answer
from tests.support.semantic import ASKED, OTHER, CountingEmbeddings


def level(mode: str = "serve", embeddings=None, **options) -> SemanticLevel:
    return SemanticLevel(embeddings or HashingEmbeddings(), mode=mode, **options)


@pytest.fixture
def serving(make, clock):
    return make(semantic=level(clock=clock))


def told(message) -> dict:
    return message.response_metadata["llmops_cache"]


def test_another_wording_is_answered_and_says_so(serving) -> None:
    model = ScriptedModel(cache=serving)
    model.invoke(ASKED)
    hit = model.invoke(OTHER)
    assert (hit.text, model.calls) == ("ok", 1)
    assert told(hit)["level"] == "semantic"
    assert 0 < told(hit)["score"] <= 1
    assert hit.usage_metadata["total_tokens"] == 0
    assert serving.stats()["hit:semantic"] == serving.stats()["semantic:served"] == 1


def test_in_shadow_mode_nothing_is_served_and_would_be_hits_are_counted(make, clock) -> None:
    cache = make(semantic=level("shadow", clock=clock))
    model = ScriptedModel(cache=cache)
    model.invoke(ASKED)
    assert "llmops_cache" not in model.invoke(OTHER).response_metadata
    assert model.calls == 2
    assert cache.stats()["semantic:would_be"] == 1
    assert "hit:semantic" not in cache.stats()


def test_without_it_another_wording_is_another_question(make) -> None:
    model = ScriptedModel(cache=make())
    model.invoke(ASKED)
    model.invoke(OTHER)
    assert model.calls == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"metadata": {"user_id": "ada"}}, {"metadata": {"user_id": "eve"}}),
        ({"metadata": {"user_id": "ada", "tenant_id": "a"}}, {"metadata": {"user_id": "ada", "tenant_id": "b"}}),
    ],
)
def test_tenants_and_users_are_never_compared(make, clock, one, other) -> None:
    model = ScriptedModel(cache=make(scope="user", semantic=level(clock=clock)))
    model.invoke(ASKED, one)
    model.invoke(OTHER, other)
    assert model.calls == 2


def test_system_prompts_histories_tools_and_models_are_never_mixed(serving) -> None:
    model = ScriptedModel(cache=serving)
    model.invoke(ASKED)
    model.invoke([SystemMessage("Be rude."), HumanMessage(OTHER)])
    model.invoke([HumanMessage("hi"), answer("hello"), HumanMessage(OTHER)])
    model.bind(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]).invoke(OTHER)
    model.bind(temperature=0).invoke(OTHER)
    assert model.calls == 5
    assert "hit:semantic" not in serving.stats()


def test_an_invalidated_answer_is_not_served_to_another_wording(make, clock) -> None:
    cache = make(semantic=level(clock=clock), tags_of=lambda prompt, llm: ["doc"])
    model = ScriptedModel(cache=cache)
    model.invoke(ASKED)
    cache.invalidate(["doc"])
    model.invoke(OTHER)
    assert model.calls == 2


def test_streams_and_output_classes_are_served_too(serving) -> None:
    model = cached(ScriptedModel(), cache=serving)
    model.invoke(ASKED)
    assert "".join(chunk.text for chunk in model.stream(OTHER)) == "ok"
    assert serving.stats()["hit:semantic"] == 1


async def test_embeddings_that_fail_cost_a_hit_and_no_call(make, clock) -> None:
    cache = make(semantic=level(embeddings=CountingEmbeddings(RuntimeError("down")), clock=clock))
    model = ScriptedModel(cache=cache)
    assert (await model.ainvoke(ASKED)).text == "ok"
    assert (await model.ainvoke(OTHER)).text == "ok"
    assert cache.stats()["semantic:errors"] > 0


async def test_tasks_that_ask_the_same_wording_at_once_are_all_served(serving) -> None:
    model = ScriptedModel(cache=serving)
    await model.ainvoke(ASKED)
    hits = await asyncio.gather(*(model.ainvoke(OTHER) for _ in range(5)))
    assert model.calls == 1
    assert {told(hit)["level"] for hit in hits} == {"semantic"}


def test_what_somebody_thinks_of_a_semantic_hit_is_a_judgement_and_of_others_is_none(serving) -> None:
    model = ScriptedModel(cache=serving)
    first = model.invoke(ASKED)
    hit = model.invoke(OTHER)
    assert not serving.judge(first.id, right=False)
    assert serving.judge(hit.id, right=False)
    assert not serving.judge(hit.id, right=False)
    assert serving.stats()["semantic:wrong"] == 1
    assert model.invoke(OTHER).id is not None
    assert model.calls == 2  # its entry's threshold moved


def test_a_run_id_judges_as_its_message_does(serving) -> None:
    model = ScriptedModel(cache=serving)
    model.invoke(ASKED)
    run = UUID(int=7)
    model.invoke(OTHER, {"run_id": run})
    assert serving.judge(str(run), right=True)


class Hanging(HashingEmbeddings):
    """Answers when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.go_on.set()

    def embed_query(self, text: str) -> list[float]:
        assert self.go_on.wait(20)
        return super().embed_query(text)

    async def aembed_query(self, text: str) -> list[float]:
        return await asyncio.to_thread(self.embed_query, text)


@pytest.mark.parametrize("mode", ["shadow", "serve"])
def test_sync_calls_do_not_wait_for_embeddings_that_hang(clock, mode) -> None:
    embeddings = Hanging()
    timeout_s = 0.05 if mode == "serve" else 20.0
    cache = TieredCache(semantic=level(mode, embeddings, clock=clock, timeout_s=timeout_s), clock=clock)
    model = ScriptedModel(cache=cache)
    model.invoke(ASKED)
    assert cache.flush()
    embeddings.go_on.clear()
    assert "llmops_cache" not in model.invoke(OTHER).response_metadata  # and not after 20 s, with a failed wait
    assert cache.stats()["semantic:errors"] == (1 if mode == "serve" else 0)
    embeddings.go_on.set()
    assert cache.flush()
