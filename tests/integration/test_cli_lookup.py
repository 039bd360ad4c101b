"""`llmops trace` and `llmops replay` find a request by an id, or by how an id begins, and say what they cannot find."""

from __future__ import annotations

import json

import pytest

from tests.support.commands import asked, fill, filled
from tests.support.recorded import NOON, URLS, call

FIRST = "01a1fe8e-536f-71a9-ad2a-1ef96cdd6f98"
SECOND = "01a1fe8e-5210-76de-919c-dc5f273eb2b3"
RECORDS = [
    call("turn", run_id="7b1c0d2e-turn", started_at=NOON, who=("ada", "s1", FIRST), name="LangGraph"),
    call(run_id="7b1c0d2e-model", trace_id="7b1c0d2e-turn", parent_run_id="7b1c0d2e-turn", who=("ada", "s1", FIRST)),
    call(run_id="9c000000-model", started_at=NOON + 9, who=("bob", "s2", SECOND), tenant="rival"),
    call(run_id="100%_sure", who=("bob", "s2", None)),
    call(run_id="100xxsure", who=("bob", "s2", None)),
    *(call(run_id=f"many-{n:06}", who=("bob", "s2", None)) for n in range(5)),
]


@pytest.fixture(params=URLS)
def where(request, tmp_path):
    """The option that names a filled ledger."""
    return filled(request, tmp_path, RECORDS)


FOUND = {
    FIRST: ["7b1c0d2e-turn", "7b1c0d2e-model"],
    FIRST[:11]: ["7b1c0d2e-turn", "7b1c0d2e-model"],
    "7b1c0d2e": ["7b1c0d2e-turn", "7b1c0d2e-model"],
    "7b1c0d2e-m": ["7b1c0d2e-turn", "7b1c0d2e-model"],
    "9c000000": ["9c000000-model"],
    "100%_sur": ["100%_sure"],
}


@pytest.mark.parametrize("wanted", FOUND)
def test_the_beginning_of_an_id_is_enough_where_no_other_begins_so(llmops, where, wanted):
    found = json.loads(asked(llmops, "trace", wanted, *where, "--json"))["steps"]
    assert [step["run_id"] for step in found] == FOUND[wanted]


def test_the_request_is_named_in_full(llmops, where):
    assert f"Request {FIRST}" in asked(llmops, "trace", "7b1c0d2e", *where)


ABSENT = ["nonsense", "01a1fe8", "7b1c0d2e-x", "100%", "%%%%%%%%", "________", "' OR 1=1 --", "x" * 5000, "é" * 9]


@pytest.mark.parametrize("wanted", ABSENT)
@pytest.mark.parametrize("command", [("trace",), ("replay", "--model", "openai:gpt-4o")])
def test_an_unknown_id_is_one_line_that_says_where_ids_are(llmops, where, command, wanted):
    code, out, err = llmops(*command, *where, "--", wanted)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"has no {wanted!r}; `llmops logs` lists ids" in err


@pytest.mark.parametrize("command", [("trace",), ("replay", "--model", "openai:gpt-4o")])
def test_an_ambiguous_beginning_names_how_many_and_the_first(llmops, where, command):
    code, out, err = llmops(*command, "01a1fe8e", *where)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"2 requests have an id that begins with '01a1fe8e' ({SECOND}, {FIRST})" in err
    assert "5 requests" in llmops(*command, "many-000", *where)[2]
    assert "(many-000000, many-000001, many-000002, …)" in llmops(*command, "many-000", *where)[2]


def test_the_options_narrow_what_may_be_meant(llmops, where):
    found = json.loads(asked(llmops, "trace", "01a1fe8e", "--tenant", "rival", *where, "--json"))["steps"]
    assert [step["run_id"] for step in found] == ["9c000000-model"]
    assert llmops("trace", SECOND, "--tenant", "t", *where)[0] == 2


@pytest.mark.parametrize("command", [("trace",), ("replay", "--model", "openai:gpt-4o")])
def test_a_request_of_the_same_name_at_two_tenants_is_never_taken_for_one(llmops, where, command):
    url = f"sqlite:///{where[1] / 'ledger.db'}" if where[0] == "--state" else where[1]
    fill(url, [call(run_id=f"of-{tenant}", tenant=tenant, who=("u", "s", "r1")) for tenant in ("t", "rival")])
    code, out, err = llmops(*command, "r1", *where)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "2 tenants have a request 'r1' (rival, t): name one with --tenant" in err
    own = llmops(*command, "r1", "--tenant", "t", *where)
    assert "tenants" not in own[2]
    found = json.loads(asked(llmops, "trace", "r1", "--tenant", "t", *where, "--json"))["steps"]
    assert [step["run_id"] for step in found] == ["of-t"]


@pytest.mark.parametrize("command", [("trace",), ("replay", "--model", "openai:gpt-4o")])
@pytest.mark.parametrize("wanted", ["\udcff" * 9, "a\x00bcdefgh"])
def test_an_id_that_no_database_can_be_asked_for_is_one_line(llmops, where, command, wanted):
    code, out, err = llmops(*command, wanted, *where)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "ID must be valid UTF-8 text" in err
