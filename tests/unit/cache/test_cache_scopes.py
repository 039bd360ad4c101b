"""Who shares a cached answer: tenants, namespaces, users and sessions."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.language_models import FakeListLLM

from langchain_llmops.cache.tiered import TieredCache
from langchain_llmops.core.context import acting_for
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.types import Identity
from langchain_llmops.telemetry.handler import OpsCallbackHandler
from tests.support.cache import KEPT
from tests.support.models import Hang, ScriptedModel


def ask(model, **metadata):
    handler = OpsCallbackHandler()
    return model.invoke("hi", {"callbacks": [handler], "metadata": metadata})


def test_by_default_everybody_of_a_tenant_shares(cache) -> None:
    model = ScriptedModel(cache=cache)
    for user in ("ada", "eve", "bob"):
        ask(model, user_id=user)
    assert model.calls == 1


def test_users_never_share_under_user_scope(make) -> None:
    model = ScriptedModel(cache=make(scope="user"))
    for user in ("ada", "eve", "ada", "eve"):
        ask(model, user_id=user, session_id="same")
    assert model.calls == 2


def test_sessions_never_share_under_session_scope(make) -> None:
    model = ScriptedModel(cache=make(scope="session"))
    for session in ("s1", "s2", "s1", "s2"):
        ask(model, user_id="ada", session_id=session)
    ask(model, user_id="ada", thread_id="s1")
    assert model.calls == 2


def test_two_users_with_one_name_for_a_session_do_not_share_it(make) -> None:
    model = ScriptedModel(cache=make(scope="session"))
    for user in ("ada", "eve"):
        ask(model, user_id=user, session_id="main")
    assert model.calls == 2


def test_tenants_that_runs_name_never_share(make) -> None:
    model = ScriptedModel(cache=make())
    for tenant in ("acme", "rival", "acme"):
        ask(model, tenant_id=tenant, user_id="ada")
    assert model.calls == 2


async def test_scopes_hold_for_tasks_that_run_at_once(make) -> None:
    model = ScriptedModel(lambda messages: "ok", cache=make(scope="user"))
    handler = OpsCallbackHandler()
    configs = [{"callbacks": [handler], "metadata": {"user_id": f"u{n % 10}"}} for n in range(10)]
    await asyncio.gather(*(model.ainvoke("hi", config) for config in configs))
    await asyncio.gather(*(model.ainvoke("hi", config) for config in configs))
    assert model.calls == 10


def test_tenants_and_namespaces_never_share(make) -> None:
    model = ScriptedModel()
    for cache in (make(), make(tenant="b"), make(namespace="v2"), make(tenant="b", namespace="v2")):
        model.model_copy(update={"cache": cache}).invoke("hi")
    assert model.calls == 4


@pytest.mark.parametrize("scope", ["user", "session"])
def test_a_call_that_names_nobody_bypasses_a_scoped_cache(make, scope, looks) -> None:
    cache = make(scope=scope)
    model = ScriptedModel(cache=cache)
    for _ in range(2):
        model.invoke("hi")
        ask(model)
    assert model.calls == 4
    assert {look.outcome for look in looks} == {"bypass"}
    assert cache.stats()["l1_entries"] == 0


def test_a_look_tells_who_asked(cache, looks) -> None:
    ask(ScriptedModel(cache=cache), user_id="ada")
    assert looks[0].identity == Identity(user="ada")


def test_who_asks_without_a_run_is_whom_the_block_around_names(make) -> None:
    cache = make(scope="user")
    with acting_for(Identity(user="ada")):
        cache.update("p", "m", KEPT)
        assert cache.lookup("p", "m") is not None
    with acting_for(Identity(user="eve")):
        assert cache.lookup("p", "m") is None
    assert cache.lookup("p", "m") is None


def test_a_run_is_known_without_a_handler(make) -> None:
    model = ScriptedModel(cache=make(scope="user"))
    for user in ("ada", "eve", "ada", "eve"):
        model.invoke("hi", {"metadata": {"user_id": user}})
    assert model.calls == 2


async def test_a_cancelled_call_leaves_its_identity_to_nobody(make) -> None:
    cache = make(scope="user")
    hang = Hang()
    model = ScriptedModel(hang, "ok", cache=cache)
    with pytest.raises(asyncio.CancelledError):
        await cancelled_within(model, hang)
    await model.ainvoke("hi")
    assert cache.stats()["bypass"] == 1
    assert cache.stats()["l1_entries"] == 0


async def cancelled_within(model, hang) -> None:
    """Cancels a call of ada's, and goes on in the same task."""
    task = asyncio.current_task()
    asyncio.get_running_loop().call_later(0, lambda: asyncio.ensure_future(cancel_when(hang, task)))
    await model.ainvoke("hi", {"metadata": {"user_id": "ada"}, "callbacks": [OpsCallbackHandler()]})


async def cancel_when(hang, task) -> None:
    await hang.reached.wait()
    task.cancel()


@pytest.mark.parametrize("scope", ["shared", "user", "session"])
@pytest.mark.parametrize("named", [{"thread_id": "1"}, {"session_id": "1"}, {"user_id": "bob", "session_id": "1"}])
def test_the_tenant_of_a_block_holds_whatever_else_its_runs_name(make, scope, named) -> None:
    model = ScriptedModel(cache=make(scope=scope))
    for tenant in ("acme", "globex"):
        with acting_for(Identity(tenant=tenant, user="ada")):
            model.invoke("hi", {"metadata": named})
    assert model.calls == 2


@pytest.mark.parametrize("scope", ["user", "session"])
def test_what_is_a_users_own_is_forgotten_with_them(make, scope) -> None:
    cache, other = make(scope=scope), make(scope=scope)
    model = ScriptedModel(cache=cache)
    for user in ("ada", "eve"):
        model.invoke("hi", {"metadata": {"user_id": user, "session_id": "1"}})
    other.forget_user("ada")
    for user in ("ada", "eve"):
        model.model_copy(update={"cache": other}).invoke("hi", {"metadata": {"user_id": user, "session_id": "1"}})
    assert model.calls == 3


def test_a_text_model_shares_with_nobody_but_its_caller(make) -> None:
    cache = make(scope="user")
    model = FakeListLLM(responses=["one", "two", "three"], cache=cache)
    said = [model.invoke("hi", {"metadata": {"user_id": user}}) for user in ("ada", "eve", "ada", "eve")]
    assert said == ["one", "two", "one", "two"]
    both = model.generate(
        ["hi", "hi"],
        metadata=[{"user_id": "ada"}, {"user_id": "eve"}],
        callbacks=[[], []],
        tags=[[], []],
        run_name=["a", "b"],
    )
    assert {generation.text for (generation,) in both.generations} == {"three", "one"}


def test_a_scope_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="scope must be one of shared, user, session, not 'team'"):
        TieredCache(scope="team")
