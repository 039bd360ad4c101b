"""`ops.as_user`: whose calls those are that name nobody."""

from __future__ import annotations

import asyncio

import pytest

from langchain_llmops import ConfigurationError, LLMOps, Settings
from tests.support.models import ScriptedModel


@pytest.fixture(params=["user", "session"])
def ops(request, tmp_path):
    with LLMOps(Settings(state_dir=tmp_path, log_calls="off", cache_scope=request.param)) as ops:
        yield ops


@pytest.fixture
def model(ops):
    return ops.models.model(ScriptedModel(lambda messages: "ok"))


def test_two_users_never_share_what_is_asked_in_their_blocks(ops, model):
    for name in ("a", "b", "a", "b"):
        with ops.as_user(name, f"session of {name}"):
            model.invoke("hi")
    assert model.calls == 2


def test_two_tenants_with_one_user_never_share(ops, model):
    for tenant in ("acme", "rival", "acme", None):
        with ops.as_user("a", "s", tenant):
            model.invoke("hi")
    assert model.calls == 3


def test_a_call_that_names_nobody_bypasses_the_cache_and_is_counted(ops, model):
    with ops.as_user("a", "s"):
        model.invoke("hi")
    for _ in range(2):
        model.invoke("hi")
    assert model.calls == 3
    assert ops.cache.stats()["bypass"] == 2


def test_who_a_run_names_goes_before_the_block(ops, model):
    with ops.as_user("a", "s"):
        for user in ("b", "a"):
            model.invoke("hi", {"metadata": {"user_id": user, "session_id": "s"}})
        model.invoke("hi")
    assert model.calls == 2


async def test_a_block_holds_across_awaits_and_in_its_own_tasks_only(ops, model):
    async def ask(name):
        with ops.as_user(name, "s"):
            await asyncio.sleep(0)
            return await asyncio.gather(*(model.ainvoke(text) for text in ("x", "y")))

    await asyncio.gather(*map(ask, "abab"))
    assert model.calls == 4
    await model.ainvoke("x")
    assert ops.cache.stats()["bypass"] == 1


def test_a_config_that_names_nobody_is_of_the_user_of_its_block(ops):
    with ops.as_user("a", "s", "acme"):
        named, other = ops.config()["metadata"], ops.config(user_id="b")["metadata"]
    assert (named["user_id"], named["session_id"], named["tenant_id"]) == ("a", "s", "acme")
    assert (other["user_id"], other.get("session_id"), other["tenant_id"]) == ("b", None, "acme")
    assert "user_id" not in ops.config()["metadata"]


def test_a_config_made_before_the_block_leaves_the_user_to_it(ops, model):
    nobody = ops.config()
    for name in ("a", "b", "a"):
        with ops.as_user(name, f"session of {name}"):
            model.invoke("hi", nobody)
    assert model.calls == 2
    assert "bypass" not in ops.cache.stats()


@pytest.mark.parametrize("wrong", [("",), (None,), (7,), ("a", ""), ("a", "s", 7)], ids=repr)
def test_what_is_no_name_is_refused_before_the_block(ops, wrong):
    with pytest.raises(ConfigurationError, match=r"^(user|session|tenant)_id must be a non-empty string, not .*$"):
        ops.as_user(*wrong)
