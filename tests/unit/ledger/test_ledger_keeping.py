"""Feedback and outcomes, and how long everything is kept, on SQLite and PostgreSQL."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_llmops.core.concurrency import run_sync
from langchain_llmops.core.errors import ConfigurationError, StoreError
from langchain_llmops.core.events import Retried
from langchain_llmops.core.types import ErrorKind, Identity
from langchain_llmops.ledger import background, keeping
from langchain_llmops.ledger.keeping import ORPHAN_GRACE_S
from langchain_llmops.ledger.writer import SWEEP_AGAIN_S, SWEEP_EVERY_S, Ledger
from langchain_llmops.stores.base import open_store
from tests.support.models import eventually

NOTHING = {"calls": 0, "events": 0, "feedback": 0, "outcomes": 0}


# feedback and outcomes


def test_feedback_is_stored_when_the_call_returns(open_kept) -> None:
    kept = open_kept(tenant="acme")
    kept.ledger.feedback("r1", True)
    kept.ledger.feedback("r1", 0.5, key="judge", comment="meh \x00\ud83d", tenant="other")
    assert kept.rows("SELECT at, tenant, run_id, key, score, comment FROM llmops_feedback ORDER BY id") == [
        (kept.clock.now, "acme", "r1", "user", 1.0, None),
        (kept.clock.now, "other", "r1", "judge", 0.5, "meh \ufffd?"),
    ]


async def test_outcomes_are_stored_when_the_call_returns(kept) -> None:
    await kept.ledger.aoutcome("s1", True)
    await kept.ledger.aoutcome("s1", False, comment="gave up", tenant="t")
    await kept.ledger.afeedback("r1", -2)
    sql = await kept.ledger.sql()
    assert await sql.fetch("SELECT tenant, session_id, ok, comment FROM llmops_outcomes ORDER BY id") == [
        (None, "s1", 1, None),
        ("t", "s1", 0, "gave up"),
    ]
    assert await sql.fetch("SELECT score FROM llmops_feedback") == [(-2.0,)]


WRONG = {
    "a score that is no number": (lambda ledger: ledger.feedback("r", "good"), "score must be a finite number"),
    "a score that is not a number": (lambda ledger: ledger.feedback("r", math.nan), "score must be a finite number"),
    "an endless score": (lambda ledger: ledger.feedback("r", math.inf), "score must be a finite number"),
    "an absurd score": (lambda ledger: ledger.feedback("r", 10**400), "score must be a finite number"),
    "no run": (lambda ledger: ledger.feedback("", 1), "run_id must be a non-empty string, not ''"),
    "a run that is no text": (lambda ledger: ledger.feedback(7, 1), "run_id must be a non-empty string, not 7"),
    "no key": (lambda ledger: ledger.feedback("r", 1, key=""), "key must be a non-empty string"),
    "an empty tenant": (lambda ledger: ledger.feedback("r", 1, tenant=""), "tenant must be a non-empty string"),
    "a comment that is no text": (lambda ledger: ledger.feedback("r", 1, comment=3), "comment must be text, not 3"),
    "an outcome that is neither": (lambda ledger: ledger.outcome("s", 1), "ok must be True or False, not 1"),
    "no session": (lambda ledger: ledger.outcome(None, True), "session_id must be a non-empty string"),
    "nobody to erase": (lambda ledger: ledger.erase_user("", None), "user_id must be a non-empty string"),
    "no tenant to erase from": (lambda ledger: ledger.erase_user("u", ""), "tenant must be a non-empty string"),
    "an age below zero": (lambda ledger: ledger.retain(-1), "max_age_s must be seconds, 0 or more, not -1"),
    "an age that is none": (lambda ledger: ledger.retain(math.nan), "max_age_s must be seconds"),
}


@pytest.mark.parametrize(("act", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_argument_is_one_clear_line(act, said) -> None:
    ledger = Ledger(open_store("memory://"))
    with pytest.raises(ConfigurationError, match=said) as caught:
        act(ledger)
    assert "\n" not in str(caught.value)
    run_sync(ledger.aclose())


def test_feedback_that_cannot_be_stored_is_raised(tmp_path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"no database" * 1000)
    ledger = Ledger(open_store(f"sqlite:///{tmp_path / 'ledger.db'}"))
    with pytest.raises(ConfigurationError, match="cannot use"):
        ledger.feedback("r", 1)
    run_sync(ledger.aclose())


@given(st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.integers(-(10**15), 10**15))
def test_any_finite_score_comes_back(score) -> None:
    ledger = Ledger(open_store("memory://"))
    ledger.feedback("r", score)

    async def kept():
        return await (await ledger.sql()).fetch("SELECT score FROM llmops_feedback")

    assert run_sync(kept()) == [(float(score),)]
    run_sync(ledger.aclose())


# erasing a user


def fill(kept, user: str, session: str, tenant: str | None, run: str) -> None:
    kept.tell(2, user=user, session=session, tenant=tenant)
    kept.tell(user=user, session=session, tenant=tenant, run_id=run)
    kept.ledger(Retried("gpt-4o", ErrorKind.RATE_LIMIT, 2, 0.5, Identity(tenant=tenant, user=user, session=session)))


def test_everything_of_a_user_goes_and_nothing_of_anybody_else(kept, monkeypatch) -> None:
    monkeypatch.setattr(keeping, "ROWS_PER_TRANSACTION", 2)
    everyone = [("ann", "s1", "acme", "r1"), ("bob", "s2", "acme", "r2"), ("ann", "s1", "rival", "r3")]
    for user, session, tenant, run in everyone:
        fill(kept, user, session, tenant, run)
        kept.ledger.feedback(run, 1, tenant=tenant)
        kept.ledger.outcome(session, True, tenant=tenant)
    kept.ledger.outcome("s1", True)
    erased = kept.ledger.erase_user("ann", "acme")
    assert erased == {"calls": 3, "events": 1, "feedback": 1, "outcomes": 2}
    assert kept.ledger.buffered == 0, "what was buffered is reached too"
    left = [("bob", "acme"), ("ann", "rival")]
    assert sorted(kept.rows("SELECT DISTINCT user_id, tenant FROM llmops_calls")) == sorted(left)
    assert sorted(kept.rows("SELECT user_id, tenant FROM llmops_events")) == sorted(left)
    assert sorted(kept.rows("SELECT run_id FROM llmops_feedback")) == [("r2",), ("r3",)]
    assert sorted(kept.rows("SELECT session_id, tenant FROM llmops_outcomes")) == [("s1", "rival"), ("s2", "acme")]
    assert kept.ledger.erase_user("ann", "acme") == NOTHING


async def test_a_user_without_a_tenant_is_not_one_of_every_tenant(kept) -> None:
    fill(kept, "ann", "s", None, "r1")
    fill(kept, "ann", "s", "acme", "r2")
    erased = await kept.ledger.aerase_user("ann", None)
    assert erased == {"calls": 3, "events": 1, "feedback": 0, "outcomes": 0}


@pytest.mark.parametrize("name", ["' OR 1=1 --", "u" * 5000, "a\x00b", "\ud83d", "%", "é"])
def test_a_user_of_any_name_is_found_as_it_was_kept(kept, name) -> None:
    kept.tell(user=name)
    kept.tell(user="somebody")
    assert kept.ledger.erase_user(name, "t")["calls"] == 1
    assert kept.rows("SELECT user_id FROM llmops_calls") == [("somebody",)]


WAYS = {"a run": "r1", "a trace": "t1", "a request": "q1"}


@pytest.mark.parametrize("named", WAYS.values(), ids=WAYS)
def test_feedback_goes_with_its_user_whatever_it_names_and_also_when_it_came_first(open_kept, named) -> None:
    kept = open_kept(tenant="acme")
    kept.ledger.feedback(named, 1, comment="Ann said so")
    kept.ledger.feedback("r2", 1)
    kept.tell(run_id="r1", trace_id="t1", identity=Identity("acme", user="ann", session="s", request="q1"))
    kept.tell(run_id="r2", trace_id="t2", identity=Identity("acme", user="bob", session="s", request="q2"))
    assert kept.ledger.erase_user("ann", "acme")["feedback"] == 1
    assert kept.rows("SELECT run_id FROM llmops_feedback") == [("r2",)]


def test_feedback_on_another_tenant_s_request_of_the_same_name_stays(kept) -> None:
    for tenant in ("acme", "rival"):
        kept.tell(identity=Identity(tenant, user="ann", request="q1"))
        kept.ledger.feedback("q1", 1, tenant=tenant)
    assert kept.ledger.erase_user("ann", "acme")["feedback"] == 1
    assert kept.rows("SELECT tenant FROM llmops_feedback") == [("rival",)]


# age


@pytest.mark.parametrize("tenant", [None, "acme"])
@pytest.mark.parametrize("named", WAYS.values(), ids=WAYS)
def test_what_was_said_of_a_call_goes_with_it_however_young(open_kept, tenant, named) -> None:
    kept = open_kept(tenant=tenant)
    kept.tell(run_id="r1", trace_id="t1", identity=Identity(tenant, user="bob", session="s9", request="q1"))
    kept.clock.now += 100
    kept.ledger.feedback(named, 1, comment="Bob said so")
    kept.ledger.outcome("s9", True, comment="Bob ok")
    assert kept.ledger.retain(50) == {"calls": 1, "events": 0, "feedback": 1, "outcomes": 1}
    assert [kept.count(table) for table in NOTHING] == [0] * 4


def test_what_was_said_of_a_conversation_stays_while_erasing_its_user_would_find_it(kept) -> None:
    def tell(run: str, user: str | None) -> None:
        kept.tell(run_id=run, trace_id="t1", identity=Identity("t", user=user, session="s", request="q1"))
        kept.clock.now += 100

    tell("r1", "ann")
    tell("r2", "ann")
    tell("r3", None)
    for named in ("r1", "t1", "q1"):
        kept.ledger.feedback(named, 1)
    kept.ledger.outcome("s", True)
    assert kept.ledger.retain(250) == {"calls": 1, "events": 0, "feedback": 1, "outcomes": 0}
    assert kept.ledger.retain(150) == {"calls": 1, "events": 0, "feedback": 2, "outcomes": 1}
    assert (kept.count(), kept.count("outcomes")) == (1, 0)


def test_another_user_s_call_does_not_keep_what_was_said_of_a_conversation(kept) -> None:
    kept.tell(user="ann")
    kept.clock.now += 100
    kept.tell(user="bob")
    kept.ledger.outcome("s", True, comment="Ann is happy")
    assert kept.ledger.retain(50)["outcomes"] == 1


def test_a_call_of_nobody_leaves_what_others_need(kept) -> None:
    kept.tell(user=None)
    kept.clock.now += 100
    kept.tell(user="bob")
    kept.ledger.outcome("s", True)
    assert kept.ledger.retain(50) == {"calls": 1, "events": 0, "feedback": 0, "outcomes": 0}
    assert kept.ledger.erase_user("bob", "t")["outcomes"] == 1


def test_what_belongs_to_no_call_is_kept_for_a_day_in_case_the_call_still_runs(kept) -> None:
    kept.ledger.feedback("unknown", 1)
    kept.ledger.outcome("unknown", True)
    kept.tell(run_id="r", session="s")
    kept.ledger.feedback("r", 1)
    kept.ledger.outcome("s", True)
    kept.clock.now += ORPHAN_GRACE_S - 1
    assert kept.ledger.retain(10 * ORPHAN_GRACE_S) == NOTHING
    kept.clock.now += 2
    assert kept.ledger.retain(10 * ORPHAN_GRACE_S) == NOTHING | {"feedback": 1, "outcomes": 1}
    assert kept.rows("SELECT run_id FROM llmops_feedback") == [("r",)]
    assert kept.rows("SELECT session_id FROM llmops_outcomes") == [("s",)]


def test_one_tenant_s_age_leaves_what_was_said_at_another(open_kept) -> None:
    kept = open_kept(tenant="acme")
    for tenant in ("acme", "rival"):
        kept.tell(tenant=tenant)
        kept.ledger.feedback("unknown", 1, tenant=tenant)
        kept.ledger.outcome("s", True, tenant=tenant)
    kept.clock.now += 2 * ORPHAN_GRACE_S
    assert kept.ledger.retain(60) == {"calls": 1, "events": 0, "feedback": 1, "outcomes": 1}
    for table in ("calls", "feedback", "outcomes"):
        assert kept.rows(f"SELECT tenant FROM llmops_{table}") == [("rival",)]


@pytest.mark.parametrize("page", [1, 3])
def test_every_page_of_what_was_said_is_looked_at(kept, monkeypatch, page) -> None:
    monkeypatch.setattr(keeping, "ROWS_PER_TRANSACTION", page)
    kept.tell(run_id="old")
    kept.clock.now += 100
    kept.tell(run_id="new")
    for _ in range(4):
        kept.ledger.feedback("new", 1)
        kept.ledger.feedback("old", 1)
    assert kept.ledger.retain(50)["feedback"] == 4
    assert kept.count("feedback") == 4


def test_what_is_too_old_goes_from_every_table(kept, monkeypatch) -> None:
    monkeypatch.setattr(keeping, "ROWS_PER_TRANSACTION", 2)
    for _ in range(2):
        fill(kept, "u", "s", "t", "r")
        kept.ledger.feedback("r", 1)
        kept.ledger.outcome("s", True)
        kept.ledger.flush()
        kept.clock.now += 100
    assert kept.ledger.retain(201) == NOTHING
    assert kept.ledger.retain(150) == {"calls": 3, "events": 1, "feedback": 1, "outcomes": 1}
    assert [kept.count(table) for table in NOTHING] == [3, 1, 1, 1]


async def test_age_reaches_what_is_still_buffered(kept) -> None:
    kept.tell(started_at=kept.clock.now - 60)
    kept.tell()
    assert (await kept.ledger.aretain(30))["calls"] == 1


def test_the_writer_itself_looks_for_old_rows_at_most_once_an_hour(open_kept, monkeypatch) -> None:
    monkeypatch.setattr(background, "FLUSH_AFTER_S", 0.01)
    kept = open_kept(retention_s=60.0)

    def tell_old() -> None:
        kept.tell(started_at=kept.clock.now - 61)
        eventually(lambda: kept.ledger.buffered == 0 and kept.ledger._background._keeper is None)

    tell_old()
    eventually(lambda: kept.count() == 0)
    tell_old()
    kept.timer.now += SWEEP_EVERY_S - 1
    kept.clock.now -= 10**6
    tell_old()
    kept.clock.now += 10**6
    assert kept.count() == 2
    kept.timer.now += 1
    tell_old()
    eventually(lambda: kept.count() == 0)


def test_without_a_retention_nothing_goes(kept) -> None:
    kept.tell(started_at=0.0)
    kept.ledger.flush()
    eventually(lambda: kept.ledger._background._keeper is None)
    assert kept.count() == 1


def test_a_sweep_that_fails_is_told_once_is_no_failed_write_and_is_soon_tried_again(
    open_kept, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(background, "FLUSH_AFTER_S", 0.01)
    kept = open_kept(retention_s=60.0)
    kept.rows("SELECT 1")
    kept.rows("ALTER TABLE llmops_outcomes RENAME TO hidden")

    def tell_old() -> None:
        kept.tell(started_at=kept.clock.now - 61)
        eventually(lambda: kept.ledger.buffered == 0 and kept.ledger._background._keeper is None)

    for _ in range(3):
        tell_old()
        kept.timer.now += SWEEP_AGAIN_S
    assert (kept.count(), kept.ledger.failures, kept.ledger.dropped) == (3, 0, 0)
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith("rows older than the ledger's retention cannot be removed and stay; tried again (")
    assert "write" not in told
    with pytest.raises(StoreError):
        kept.ledger.retain(60)
    kept.rows("ALTER TABLE hidden RENAME TO llmops_outcomes")
    kept.timer.now -= 1
    tell_old()
    assert kept.count() == 4, "not before a pause is over"
    kept.timer.now += 1
    tell_old()
    assert kept.count() == 0
