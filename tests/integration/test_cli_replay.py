"""A replay asks what was recorded of another model or with another prompt, and compares."""

from __future__ import annotations

import json

import pytest

from langchain_llmops.cli.tables import usd
from langchain_llmops.core.types import ErrorKind
from langchain_llmops.simulator import Echo, FaultPlan, running
from tests.support.commands import RECORDS, STEP, asked, fill, table
from tests.support.recorded import NOON, call

pytestmark = pytest.mark.usefixtures("clean")

TOOL = {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}}}
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is my order?"}]
CALLED = [{"id": "c1", "type": "function", "function": {"name": "lookup", "arguments": '{"order": 1}'}}]
ANSWERED = [
    *ASKED,
    {"role": "assistant", "content": "", "tool_calls": CALLED},
    {"role": "tool", "tool_call_id": "c1", "content": "on its way"},
]


def kept(messages, answer) -> str:
    return json.dumps({"messages": messages, "tools": [TOOL], "answer": answer})


@pytest.fixture
def recorded(tmp_path):
    """A folder with a trace whose content was kept: a tool call, and the answer after it."""
    first = kept(ASKED, {"content": "", "tool_calls": [{"name": "lookup", "args": {"order": 1}, "id": "c1"}]})
    second = kept(ANSWERED, {"content": "It is on its way.", "tool_calls": []})
    records = [
        RECORDS[0],
        call(run_id="a", parent_run_id="turn-1", content=first, cost="0.01", started_at=NOON + 1, **STEP),
        call(run_id="b", parent_run_id="turn-1", content=second, cost="0.02", started_at=NOON + 2, **STEP),
        call("tool", run_id="c", parent_run_id="turn-1", started_at=NOON + 2, **STEP),
    ]
    fill(f"sqlite:///{tmp_path / 'ledger.db'}", records)
    return tmp_path


class Listening(Echo):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        self.asked = []

    def answer(self, request):
        self.asked.append(request)
        return super().answer(request)


@pytest.fixture
def listening():
    return Listening()


@pytest.fixture
def provider(monkeypatch, listening):
    monkeypatch.setenv("OPENAI_API_KEY", "simulated")
    monkeypatch.setenv("LLMOPS_RETRY_BASE_S", "0.001")
    with running(listening) as simulator:
        yield simulator


def replay(provider, state, *options):
    return ("replay", "request-1", "--model", "openai:gpt-4o-mini", "--base-url", provider.base_url, "--state", state,
            *options)  # fmt: skip


def test_a_replay_asks_the_recorded_messages_of_another_model_and_compares(llmops, recorded, provider):
    found = json.loads(asked(llmops, *replay(provider, recorded, "--json")))
    first, second = found["calls"]
    assert first["recorded"]["answer"] == 'lookup({"order": 1})'
    assert second["recorded"]["answer"] == "It is on its way."
    assert {call["replayed"]["model"] for call in found["calls"]} == {"gpt-4o-mini"}
    assert "Where is my order?" in first["replayed"]["answer"]
    assert found["total"]["recorded"]["cost_usd"] == 0.03
    assert 0 < found["total"]["replayed"]["cost_usd"] < 0.03
    assert provider.stats.requests == 2


def test_a_replay_is_shown_side_by_side(llmops, recorded, provider):
    out = asked(llmops, *replay(provider, recorded))
    assert max(len(line) for line in out.splitlines()) <= 80
    rows = table(out)
    assert rows["model"] == ["gpt-4o", "gpt-4o-mini"]
    assert "Call 2 of 2" in out
    assert "All calls" in out


def test_a_replay_shows_the_lines_of_an_answer_and_nothing_that_steers_the_terminal(llmops, tmp_path, provider):
    content = kept(ASKED, {"content": "One line,\nand \x1b[31manother.", "tool_calls": []})
    record = call(run_id="a", content=content, who=("u", "s", "request-1"))
    fill(f"sqlite:///{tmp_path / 'ledger.db'}", [record])
    lines = asked(llmops, *replay(provider, tmp_path)).splitlines()
    assert any("One line," in line for line in lines)
    assert not any("One line," in line and "another." in line for line in lines)
    assert any("and \ufffd[31manother." in line for line in lines)


def test_a_replay_is_recorded_apart_from_the_session_that_it_repeats(llmops, recorded, provider):
    before = asked(llmops, "cost", "--session", "s1", "--csv", "--state", recorded)
    asked(llmops, *replay(provider, recorded))
    assert asked(llmops, "cost", "--session", "s1", "--csv", "--state", recorded) == before
    tags = json.loads(asked(llmops, "cost", "--by", "tag", "--json", "--state", recorded))["rows"]
    assert {row["tag"]: row["calls"] for row in tags}["llmops:replay"] == 2
    sessions = json.loads(asked(llmops, "cost", "--by", "session", "--json", "--state", recorded))["rows"]
    assert sorted(row["session"][:7] for row in sessions) == ["replay-", "s1"]
    users = json.loads(asked(llmops, "cost", "--by", "user", "--json", "--state", recorded))["rows"]
    assert {row["user"]: row["calls"] for row in users} == {"ada": 2, None: 2}


def test_another_prompt_takes_the_place_of_the_recorded_one(llmops, recorded, provider, listening, tmp_path):
    (tmp_path / "prompt.txt").write_text("Answer like a pirate.")
    asked(llmops, *replay(provider, recorded, "--prompt", tmp_path / "prompt.txt"))
    for request in listening.asked:
        prompts = [message["content"] for message in request.messages if message["role"] == "system"]
        assert prompts == ["Answer like a pirate."]


def test_the_recorded_tools_and_tool_results_are_asked_again_and_never_the_cache(llmops, recorded, provider, listening):
    for _ in range(2):
        asked(llmops, *replay(provider, recorded))
    assert [[tool["function"]["name"] for tool in request.tools] for request in listening.asked] == [["lookup"]] * 4
    assert [message["role"] for message in listening.asked[1].messages] == ["system", "user", "assistant", "tool"]


def test_attempts_that_failed_are_not_asked_again(llmops, recorded, provider, listening):
    failed = call(run_id="d", content=kept(ASKED, {}), error_kind=ErrorKind.TIMEOUT, started_at=NOON, **STEP)
    fill(f"sqlite:///{recorded / 'ledger.db'}", [failed])
    asked(llmops, *replay(provider, recorded))
    assert len(listening.asked) == 2


def test_a_call_that_fails_is_shown_in_its_place_and_the_others_go_on(llmops, recorded, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "simulated")
    monkeypatch.setenv("LLMOPS_MAX_ATTEMPTS", "1")
    with running(Echo(), faults=FaultPlan(schedule={1: "rate_limit"})) as provider:
        found = json.loads(asked(llmops, *replay(provider, recorded, "--json")))
    assert [call["replayed"]["failed"] for call in found["calls"]] == [True, False]
    assert "FallbackExhaustedError" in found["calls"][0]["replayed"]["answer"]


def test_a_replay_that_reaches_no_provider_says_why_and_costs_nothing(llmops, recorded, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "simulated")
    monkeypatch.setenv("LLMOPS_MAX_ATTEMPTS", "1")
    with running(Echo()) as gone:
        pass
    code, out, err = llmops(*replay(gone, recorded, "--json"))
    assert (code, err) == (1, "")
    found = json.loads(out)
    for side in (*(one["replayed"] for one in found["calls"]), found["total"]["replayed"]):
        assert (side["cost_usd"], side["failed_cost_usd"], side["input_tokens"]) == (0, 0, 0)
    assert "Connection refused" in found["calls"][0]["replayed"]["answer"]
    assert "may have cost" not in llmops(*replay(gone, recorded))[1]


def test_what_failed_attempts_of_a_replay_may_have_cost_is_apart(llmops, recorded, provider, monkeypatch):
    asked(llmops, *replay(provider, recorded))
    monkeypatch.setenv("LLMOPS_MAX_ATTEMPTS", "2")
    with running(Echo(), faults=FaultPlan(schedule={1: "malformed"})) as faulty:
        out = asked(llmops, *replay(faulty, recorded))
        found = json.loads(asked(llmops, *replay(provider, recorded, "--json")))["total"]["replayed"]
    assert "Failed attempts may have cost $0.0000" in out
    assert table(out)["cost"][1] == usd(found["cost_usd"])


def test_a_call_that_only_failed_has_no_cost_but_what_it_may_have_cost(llmops, recorded, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "simulated")
    monkeypatch.setenv("LLMOPS_MAX_ATTEMPTS", "1")
    with running(Echo(), faults=FaultPlan(schedule={1: "malformed"})) as faulty:
        found = json.loads(asked(llmops, *replay(faulty, recorded, "--json")))
    failed, answered = (one["replayed"] for one in found["calls"])
    assert (failed["failed"], failed["cost_usd"], failed["input_tokens"]) == (True, 0, 0)
    assert failed["failed_cost_usd"] > 0
    total = found["total"]["replayed"]
    assert (total["cost_usd"], total["input_tokens"]) == (answered["cost_usd"], answered["input_tokens"])
    assert total["failed_cost_usd"] == failed["failed_cost_usd"]


def test_a_replay_says_that_sampling_settings_are_not_the_recorded_ones(llmops, recorded, provider):
    assert "Sampling settings (temperature" in asked(llmops, *replay(provider, recorded))
    assert json.loads(asked(llmops, *replay(provider, recorded, "--json")))["sampling"] == "model defaults"
    assert "temperature" in asked(llmops, "replay", "--help")


def test_a_replay_that_nobody_answers_is_a_failure(llmops, recorded, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "simulated")
    monkeypatch.setenv("LLMOPS_MAX_ATTEMPTS", "1")
    with running(Echo(), faults=FaultPlan(rates={"rate_limit": 1.0})) as provider:
        code, out, err = llmops(*replay(provider, recorded))
    assert (code, err) == (1, "")
    assert "2 of 2 calls failed." in out


@pytest.mark.parametrize("content", ["not json", '{"messages": [{"role": "alien"}], "answer": {}}', "[]", "{}"])
def test_content_that_cannot_be_read_is_one_line(llmops, tmp_path, content):
    fill(f"sqlite:///{tmp_path / 'ledger.db'}", [call(run_id="run", content=content)])
    code, _, err = llmops("replay", "run", "--model", "gpt-4o", "--state", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "the content of run run cannot be read" in err


def test_a_replay_without_a_key_is_one_line(llmops, recorded):
    code, _, err = llmops("replay", "request-1", "--model", "openai:gpt-4o", "--state", recorded)
    assert (code, err.count("\n")) == (2, 1)
    assert "openai:gpt-4o" in err
