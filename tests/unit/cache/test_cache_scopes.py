"""Who shares a cached answer: tenants, namespaces, users and sessions."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from langchain_llmops.cache.tiered import TieredCache
from langchain_llmops.core.context import CURRENT_METADATA
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.types import Identity
from langchain_llmops.telemetry.handler import OpsCallbackHandler
from tests.support.cache import KEPT
from tests.support.models import ScriptedModel


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


def test_identity_is_read_from_the_context_of_the_call(make) -> None:
    cache = make(scope="user")

    def as_user(name: str, call, *args):
        context = contextvars.copy_context()
        context.run(CURRENT_METADATA.set, {"user_id": name})
        return context.run(call, *args)

    as_user("ada", cache.update, "p", "m", KEPT)
    assert as_user("ada", cache.lookup, "p", "m") is not None
    assert as_user("eve", cache.lookup, "p", "m") is None
    assert cache.lookup("p", "m") is None


def test_a_scope_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="scope must be one of shared, user, session, not 'team'"):
        TieredCache(scope="team")
