"""Names of any length and any characters are themselves: no pattern, no path, no part of a statement."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.errors import ThreadOwnerMismatch
from langchain_llmops.stores.base import open_store
from tests.support.checkpoints import Caller, config

HOSTILE = [
    "*", "t", "T", "{t}", "t:", ":t", "t\0", "\0", "t%", "_", "../t", "..", "/", "'; DROP TABLE llmops_ck_thread; --",
    "é", "e\u0301", "\ud800", "\udfff\ud800", "\U0001f600", "x" * 10_240, "x" * 10_239 + "y", "?", "[t]", "\\",
    " t", "\n",
]  # fmt: skip
ANY_TEXT = st.text(st.characters(codec=None), max_size=30) | st.sampled_from(HOSTILE)
KEYS = st.text(max_size=30)  # LangGraph's serializer refuses surrogates in keys
PLAIN = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | ANY_TEXT
BOUNDED = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


def savers(urls: dict[str, str]):
    stores = [open_store(url, blocking=True) for url in urls.values()]
    return {tenant: TieredCheckpointSaver(*stores, tenant=tenant) for tenant in ("one", "on")}


@pytest.fixture(params=["embedded", "servers"])
def urls(request):
    if request.param == "embedded":
        return {"warm": "memory://", "hot": "memory://", "cold": "memory://"}
    names = {"warm": "postgres_url", "hot": "clean_redis_url", "cold": "s3_url"}
    return {tier: request.getfixturevalue(name) for tier, name in names.items()}


@BOUNDED
@given(
    names=st.lists(ANY_TEXT, min_size=3, max_size=4, unique=True),
    namespaces=st.lists(ANY_TEXT.filter(bool), min_size=1, max_size=1, unique=True),
    users=st.lists(ANY_TEXT.filter(bool), min_size=2, max_size=2, unique=True),
)
async def test_threads_namespaces_users_and_tenants_stay_apart(urls, names, namespaces, users):
    tenants = savers(urls)
    callers = {tenant: Caller(saver) for tenant, saver in tenants.items()}
    expected = {}
    for tenant, caller in callers.items():
        for at, name in enumerate(names):
            for ns in ("", *namespaces):
                key = (tenant, name, ns)
                expected[key] = await caller.put(name, {"who": repr(key)}, ns=ns, user=users[at % 2])
    one, (first, second, third, *_) = callers["one"], names
    if hasattr(one.saver, "archive"):
        await one.call("archive", third)
    await one.call("delete_thread", first)
    await one.call("prune", [first, second])
    await one.call("delete_user", users[1])
    gone = {first, *(name for at, name in enumerate(names) if at % 2)}
    with pytest.raises(ThreadOwnerMismatch):
        await callers["on"].put(first, {"who": "me"}, user=users[1])

    for (tenant, name, ns), made in expected.items():
        found = await callers[tenant].get(config(name, ns))
        if tenant == "one" and name in gone:
            assert found is None
            continue
        named = found.config["configurable"]
        assert (named["thread_id"], named["checkpoint_ns"], named["checkpoint_id"]) == (name, ns, made)
        assert found.checkpoint["channel_values"] == {"who": repr((tenant, name, ns))}
    for tenant, caller in callers.items():
        listed = [one.config["configurable"] for one in await caller.list(None)]
        there = {(name, ns) for of, name, ns in expected if of == tenant and not (tenant == "one" and name in gone)}
        assert sorted((one["thread_id"], one["checkpoint_ns"]) for one in listed) == sorted(there)
    for tenant, caller in callers.items():
        for name in names:
            await caller.call("delete_thread", name)
        assert await caller.list(None) == [], tenant
    await (await one.saver._engine.warm.sql()).execute("DELETE FROM llmops_ck_erasure")  # for the next example
    await one.saver.aclose()


@BOUNDED
@given(name=ANY_TEXT, target=ANY_TEXT, ns=ANY_TEXT)
async def test_a_copy_is_of_the_named_thread_alone(urls, name, target, ns):
    saver = savers(urls)["one"]
    caller = Caller(saver)
    await caller.put(name, {"who": "source"}, ns=ns)
    await caller.put(name + "x", {"who": "other"}, ns=ns)
    await caller.call("copy_thread", name, target)
    listed = {one.config["configurable"]["thread_id"] for one in await caller.list(None)}
    assert listed == {name, name + "x", target}
    if target != name + "x":
        assert (await caller.get(config(target, ns))).checkpoint["channel_values"] == {"who": "source"}
    for thread in listed:
        await caller.call("delete_thread", thread)
    await saver.aclose()


@BOUNDED
@given(told=st.dictionaries(KEYS.filter(lambda key: key.strip("\0") and not key.startswith("__")), PLAIN, max_size=3))
async def test_filters_are_compared_and_never_run(urls, told):
    saver = savers(urls)["one"]
    caller = Caller(saver)
    first = await caller.put("t", {"a": 1}, metadata={**told, "mine": "yes"})
    stored = (await caller.get(config("t"))).metadata
    await caller.put("u", {"a": 1}, metadata={"note": "another"})

    found = await caller.list(None, filter=stored)
    assert [one.config["configurable"]["checkpoint_id"] for one in found] == [first]
    for key in ("' OR 1=1 --", "a') OR ('1'='1", '"', "$.a", "note' = 'another", *HOSTILE[:8]):
        if key not in stored:
            assert await caller.list(None, filter={**stored, key: "x"}) == []
    for value in ("' OR 1=1 --", {"$gt": ""}, ["another"], {"note": "another"}):
        assert await caller.list(None, filter={"note": value}) == [
            one for one in await caller.list(None) if one.metadata.get("note") == value
        ]
    for thread in ("t", "u"):
        await caller.call("delete_thread", thread)
    await saver.aclose()
