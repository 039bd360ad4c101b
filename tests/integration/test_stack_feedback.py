"""Feedback, outcomes and tenants through the facade."""

from __future__ import annotations

import pytest
from langchain_core.runnables import RunnableLambda

from langchain_llmops import ConfigurationError, LLMOps, Settings
from langchain_llmops.core.concurrency import run_sync
from langchain_llmops.ledger.filters import Filter
from langchain_llmops.ledger.success import cost_per_success
from tests.support.models import ScriptedModel


async def rows_of(ops, statement):
    return await (await ops.ledger.sql()).fetch(statement)


def test_feedback_takes_any_id_that_a_user_has(ops, caplog):
    records = []
    ops.bus.subscribe(lambda event: records.append(event.record) if hasattr(event, "record") else None)
    chain = RunnableLambda(lambda text: text) | ScriptedModel()
    config = ops.config(user_id="u1", session_id="s1")
    answer = chain.invoke("hi", config)
    model, turn = records
    for wanted in (model.run_id, answer.id, turn.trace_id, config["metadata"]["request_id"]):
        ops.feedback(wanted, 1)
    assert not caplog.records
    kept = run_sync(rows_of(ops, "SELECT run_id FROM llmops_feedback ORDER BY id"))
    assert [row[0] for row in kept] == [model.run_id, model.run_id, turn.run_id, turn.run_id]
    assert ops.erase_user("u1")["feedback"] == 4


def test_feedback_on_an_unknown_run_is_kept_and_said(ops, caplog):
    ops.feedback("nonsense", 0.5)
    assert "feedback on 'nonsense', which the ledger does not know" in caplog.text
    assert run_sync(rows_of(ops, "SELECT run_id, score FROM llmops_feedback")) == [("nonsense", 0.5)]


def asked_of(ops, **named):
    return ScriptedModel().invoke("hi", {"callbacks": ops.callbacks, "metadata": {"session_id": "s1", **named}})


def judged(ops, tenant):
    async def ask():
        return await cost_per_success(await ops.ledger.sql(), Filter(tenant=tenant))

    return run_sync(ask()).successful


def test_feedback_on_a_request_is_never_on_that_of_another_tenant_with_the_same_name(tmp_path):
    with (
        LLMOps(Settings(state_dir=tmp_path, tenant="a")) as one,
        LLMOps(Settings(state_dir=tmp_path, tenant="b")) as two,
    ):
        asked_of(one, request_id="r1")
        one.ledger.flush()
        asked_of(two, request_id="r1")
        two.feedback("r1", 1.0)
        assert (judged(two, "a"), judged(two, "b")) == (0, 1)


def test_feedback_counts_for_the_tenant_that_the_run_named(ops):
    ops.feedback(asked_of(ops, tenant_id="x").id, 1.0)
    assert judged(ops, "x") == 1


def test_a_config_may_name_another_tenant_than_the_settings(ops):
    ScriptedModel().invoke("hi", ops.config(session_id="s1", request_id="r1", tenant_id="x"))
    ops.ledger.flush()
    assert run_sync(rows_of(ops, "SELECT tenant FROM llmops_calls")) == [("x",)]
    with pytest.raises(ConfigurationError, match="tenant_id must be a non-empty string"):
        ops.config(tenant_id="")


@pytest.mark.parametrize(("wanted", "score"), [("", 1), (None, 1), ("r1", "good")])
def test_feedback_that_is_refused_is_never_said_to_be_kept(ops, caplog, wanted, score):
    with pytest.raises(ConfigurationError):
        ops.feedback(wanted, score)
    assert "kept" not in caplog.text


def test_tenants_of_one_ledger_see_and_erase_their_own(tmp_path):
    with (
        LLMOps(Settings(state_dir=tmp_path, tenant="a")) as one,
        LLMOps(Settings(state_dir=tmp_path, tenant="b")) as other,
    ):
        for ops in (one, other, other):
            ScriptedModel().invoke(
                "hi", {"callbacks": ops.callbacks, "metadata": {"user_id": "u1", "session_id": "s1"}}
            )
        assert [ops.report().as_dict()["model_calls"] for ops in (one, other)] == [1, 2]
        assert one.erase_user("u1")["calls"] == 1
        assert [ops.report().as_dict()["model_calls"] for ops in (one, other)] == [0, 2]
        assert other.ledger.retain(0)["calls"] == 2
