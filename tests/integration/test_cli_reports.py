"""The reports and the replay as a user asks for them: every form, every filter, one clear line for what is wrong."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace
from decimal import Decimal

import pytest

from langchain_llmops.cli.scope import duration_s, parse_moment
from langchain_llmops.cli.tables import seconds, usd
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.types import ErrorKind
from langchain_llmops.simulator import Echo, FaultPlan, running
from tests.support.commands import asked, fill, filled, table
from tests.support.recorded import NOON, URLS, call, embedding, hit

WHO = ("ada", "s1", "request-1")
STEP = {"trace_id": "turn-1", "who": WHO}
RECORDS = [
    call("turn", run_id="turn-1", name="LangGraph", started_at=NOON, latency_s=2.5, **STEP),
    call(run_id="model-1", parent_run_id="turn-1", started_at=NOON + 1, cost="0.01", latency_s=1.5, **STEP),
    call("tool", run_id="tool-1", parent_run_id="turn-1", started_at=NOON + 2, name="lookup", latency_s=0.002, **STEP),
    replace(
        call(run_id="model-2", parent_run_id="turn-1", started_at=NOON + 3, cost="0.002", **STEP),
        error_kind=ErrorKind.TIMEOUT, error_class="ReadTimeout",
    ),
    hit(who=("bob", "s2", "request-2"), started_at=NOON + 4, tags=("demo",)),
    call(who=("bob", "s2", "request-2"), started_at=NOON + 90_000, cost="0.03", route="complex", model="gpt-4o-mini"),
    call(who=("bob", "s3", "request-3"), started_at=NOON + 90_001, cost=None, model="own-13b"),
]  # fmt: skip

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def state(tmp_path):
    fill(f"sqlite:///{tmp_path / 'ledger.db'}", RECORDS, outcomes=[("s1", True)], feedback=[("turn-1", 1)])
    return tmp_path


@pytest.fixture(params=URLS)
def where(request, tmp_path):
    """The option that names a filled ledger."""
    return filled(request, tmp_path, RECORDS)


# every report, in every form, from both databases

REPORTS = {
    "cost": ("cost",),
    "user": ("cost", "--by", "user"),
    "tag": ("cost", "--by", "tag"),
    "projection": ("cost", "--project", "10000/day"),
    "success": ("cost", "--per-success"),
    "latency": ("latency",),
    "errors": ("errors",),
    "logs": ("logs",),
}
TRACE = ("trace", "request-1")


@pytest.mark.parametrize("report", [*REPORTS.values(), TRACE], ids=[*REPORTS, "trace"])
def test_every_report_reads_both_databases_in_every_form(llmops, where, report):
    shown = asked(llmops, *report, *where)
    assert max(len(line) for line in shown.splitlines()) <= 80
    found = json.loads(asked(llmops, *report, *where, "--json"))
    assert any(found.values())
    rows = list(csv.DictReader(io.StringIO(asked(llmops, *report, *where, "--csv"))))
    assert rows
    assert None not in rows[0]


@pytest.mark.parametrize("report", REPORTS)
def test_what_matches_nothing_is_one_line_and_no_failure(llmops, state, report):
    arguments = (*REPORTS[report], "--user", "nobody", "--state", state)
    assert asked(llmops, *arguments).replace("\n", " ").startswith("Nothing matched")
    json.loads(asked(llmops, *arguments, "--json"))


@pytest.mark.parametrize("report", REPORTS)
def test_an_empty_ledger_is_no_failure_either(llmops, tmp_path, report):
    fill(f"sqlite:///{tmp_path / 'ledger.db'}", [])
    assert "Nothing matched" in asked(llmops, *REPORTS[report], "--state", tmp_path)


@pytest.mark.parametrize("report", [*REPORTS.values(), TRACE, ("replay", "x", "--model", "gpt-4o")])
def test_asking_where_no_ledger_is_names_the_folder_and_makes_none(llmops, tmp_path, report):
    code, out, err = llmops(*report, "--state", tmp_path / "nothing")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert f"there is no ledger in {tmp_path / 'nothing'}" in err
    assert list(tmp_path.iterdir()) == []


def test_a_database_without_a_ledger_is_left_as_it_was(llmops, postgres_url):
    import psycopg

    code, _, err = llmops("cost", "--postgres", postgres_url)
    assert code == 2
    assert "there is no ledger in" in err
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT to_regclass('llmops_calls'), to_regclass('llmops_schema')").fetchone() == (
            None,
            None,
        )


def test_a_file_that_is_no_database_is_one_line(llmops, tmp_path):
    (tmp_path / "ledger.db").write_bytes(b"this is no database" * 99)
    code, _, err = llmops("cost", "--state", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "cannot use" in err


def test_a_folder_that_is_named_goes_before_a_database_of_the_environment(llmops, state, monkeypatch):
    monkeypatch.setenv("LLMOPS_POSTGRES_URL", "postgresql://u:hunter2@127.0.0.1:1/x")
    assert "gpt-4o" in asked(llmops, "cost", "--by", "model", "--state", state)
    code, _, err = llmops("cost")
    assert code == 2
    assert "hunter2" not in err


# figures


def test_the_cost_table_has_the_sums_and_says_what_is_not_in_them(llmops, state):
    out = asked(llmops, "cost", "--by", "user", "--state", state)
    rows = table(out)
    assert rows["bob"] == ["3", "1", "200", "40", "$0.0300", "$0"]
    assert rows["ada"] == ["2", "0", "100", "20", "$0.0100", "$0.00200"]
    assert rows["all"] == ["5", "1", "300", "60", "$0.0400", "$0.00200"]
    for note in ("1 call of a model without a price is", "1 failed attempt is", "The cache saved $0.00100"):
        assert note in out


def test_json_and_csv_have_the_same_money_to_the_last_digit(llmops, state):
    found = json.loads(asked(llmops, "cost", "--by", "day", "--state", state, "--json"))
    rows = list(csv.DictReader(io.StringIO(asked(llmops, "cost", "--by", "day", "--state", state, "--csv"))))
    assert [row["day"] for row in found["rows"]] == [row["day"] for row in rows] == ["2025-11-01", "2025-11-02"]
    assert [Decimal(str(row["cost_usd"])) for row in found["rows"]] == [Decimal(row["cost_usd"]) for row in rows]
    assert found["total"]["cost_usd"] == 0.04


def test_money_in_csv_is_never_an_exponent(llmops, tmp_path):
    fill(f"sqlite:///{tmp_path / 'ledger.db'}", [call(cost="0.0000000001")])
    (row,) = csv.DictReader(io.StringIO(asked(llmops, "cost", "--csv", "--state", tmp_path)))
    assert row["cost_usd"] == "0.0000000001"


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        (("--user", "ada"), 4),
        (("--session", "s3"), 1),
        (("--model", "gpt-4o-mini"), 1),
        (("--tenant", "t"), 7),
        (("--tenant", "other"), 0),
        (("--since", "2025-11-02"), 2),
        (("--until", "2025-11-02"), 5),
        (("--since", "2025-11-01", "--until", "2025-11-02T00:00:00+00:00"), 5),
        (("--slower-than", "1500ms"), 2),
        (("--slower-than", "2s"), 1),
        (("--limit", "3"), 3),
    ],
)
def test_an_option_narrows_what_is_listed(llmops, state, options, calls):
    found = json.loads(asked(llmops, "logs", *options, "--state", state, "--json"))["calls"]
    assert len(found) == calls
    assert [call["at"] for call in found] == sorted((call["at"] for call in found), reverse=True)


def test_a_projection_multiplies_the_cost_of_a_conversation_and_names_its_unit(llmops, state):
    options = ("cost", "--project", "10000/day", "--models", "gpt-4o,own-13b,gpt-4o-mini", "--state", state)
    out = asked(llmops, *options)
    assert "10,000 conversations per day" in out
    assert "From 3 conversations (sessions)" in out
    assert "1 call of a model without a price counts as nothing" in out
    found = json.loads(asked(llmops, *options, "--json"))
    per = {row["for"]: row for row in found["projection"]}
    one = 0.04 / 3
    assert per["1 conversation"]["cost_usd"] == pytest.approx(one)
    assert per["1 day"]["cost_usd"] == pytest.approx(one * 10_000)
    assert per["1 month"]["cost_usd"] == pytest.approx(one * 10_000 * 365 / 12)
    assert per["1 year"]["cost_usd"] == pytest.approx(one * 10_000 * 365)
    assert all(row["low_usd"] <= row["cost_usd"] <= row["high_usd"] for row in per.values())
    # 300 tokens in and 60 out were asked of providers: of gpt-4o, gpt-4o-mini and own-13b
    costs = {row["model"]: row["per_conversation_usd"] for row in found["models"]}
    assert costs["gpt-4o"] == pytest.approx((300 * 2.5 + 60 * 10) / 1e6 / 3)
    assert costs["gpt-4o-mini"] == pytest.approx((300 * 0.15 + 60 * 0.6) / 1e6 / 3)
    assert costs["own-13b"] is None
    assert [row["model"] for row in found["models"]] == ["gpt-4o-mini", "gpt-4o", "as recorded", "own-13b"]


def test_a_projection_says_what_it_counted_and_how_it_shared_the_rest(llmops, tmp_path):
    sessions = [call(who=("u", f"s{number}", None), cost="0.00045") for number in range(10)]
    fill(f"sqlite:///{tmp_path / 'ledger.db'}", [*sessions, *(embedding("0.00001") for _ in range(30))])
    options = ("cost", "--project", "1/day", "--models", "gpt-4o", "--state", tmp_path)
    out = asked(llmops, *options)
    assert out.startswith("1 conversation per day")
    assert "From 10 conversations (sessions) that cost $0.00480" in out
    assert "$0.000300 of it is of 30 calls outside of any conversation" in out
    assert table(out)["gpt-4o"] == table(out)["as recorded"] == ["$0.000480", "$0.0146", "1.00"]
    found = json.loads(asked(llmops, *options, "--json"))
    assert found["sample"]["sessions"] == found["sample"]["count"] == 10
    assert found["projection"][0]["cost_usd"] == found["projection"][0]["low_usd"] == pytest.approx(0.00048)


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ([None], "From 1 conversation (requests or traces without a session)"),
        (["s"], "From 1 conversation (sessions)"),
        (["s", None, None], "From 3 conversations (1 session, and 2 requests or traces without one)"),
    ],
)
def test_a_projection_tells_sessions_from_requests(llmops, tmp_path, named, told):
    fill(f"sqlite:///{tmp_path / 'ledger.db'}", [call(who=("u", session, None)) for session in named])
    assert told in asked(llmops, "cost", "--project", "2000000/month", "--state", tmp_path)


def test_a_rate_is_told_in_digits(llmops, state):
    assert "2,000,000 conversations per month" in asked(llmops, "cost", "--project", "2000000/month", "--state", state)
    assert "0.5 conversations per hour" in asked(llmops, "cost", "--project", "0.5/hour", "--state", state)


@pytest.mark.parametrize("report", [("logs",), ("latency",), ("cost",)])
def test_a_call_without_a_request_is_listed_with_its_trace(llmops, tmp_path, report):
    fill(f"sqlite:///{tmp_path / 'ledger.db'}", [call(trace_id="trace-7", run_id="run-7")])
    line = next(line for line in asked(llmops, *report, "--state", tmp_path).splitlines() if "model gpt-4o " in line)
    assert line.split()[-1] == "trace-7"
    assert asked(llmops, "trace", line.split()[-1], "--state", tmp_path).startswith("Request trace-7")


@pytest.mark.parametrize(("rate", "daily"), [("240/hour", 5760), ("70/week", 10), ("365/month", 12), ("730/year", 2)])
def test_a_rate_may_be_per_any_usual_time(llmops, state, rate, daily):
    found = json.loads(asked(llmops, "cost", "--project", rate, "--state", state, "--json"))
    assert found["projection"][1]["conversations"] == pytest.approx(daily)


def test_a_success_is_judged_by_outcome_and_feedback(llmops, state):
    found = json.loads(asked(llmops, "cost", "--per-success", "--state", state, "--json"))["per_success"][0]
    assert (found["successful"], found["unjudged"], found["per_success_usd"]) == (1, 2, 0.01)


def test_a_trace_is_drawn_as_a_tree_with_sums_on_every_step(llmops, state):
    out = asked(llmops, "trace", "request-1", "--state", state)
    rows = table(out)
    assert rows["turn LangGraph"] == ["2.50 s", "100", "20", "$0.0100"]
    assert rows["├─ model gpt-4o"] == ["1.50 s", "100", "20", "$0.0100"]
    assert rows["├─ tool lookup"] == ["2.0 ms", "0", "0", "$0"]
    assert rows["└─ model gpt-4o failed: timeout"] == ["100 ms", "0", "0", "≤ $0.00200"]
    assert "user ada, session s1, began 2025-11-01 12:26:40 UTC" in out


# tenants


@pytest.fixture
def shared(llmops, where):
    """The option that names a ledger in which two tenants have a user and a session of the same names."""
    url = f"sqlite:///{where[1] / 'ledger.db'}" if where[0] == "--state" else where[1]
    turn = call("turn", tenant="rival", who=("ada", "s1", None), latency_s=9)
    fill(url, [call(tenant="rival", who=("ada", "s1", None), cost="0.5"), turn])
    return where


@pytest.mark.parametrize(("by", "name"), [("user", "ada"), ("session", "s1")])
def test_the_same_name_at_two_tenants_is_two_rows(llmops, shared, by, name):
    found = json.loads(asked(llmops, "cost", "--by", by, *shared, "--json"))["rows"]
    rows = list(csv.DictReader(io.StringIO(asked(llmops, "cost", "--by", by, *shared, "--csv"))))
    assert {(row["tenant"], row["cost_usd"]) for row in found if row[by] == name} == {("t", 0.01), ("rival", 0.5)}
    assert [(row["tenant"], row[by]) for row in rows] == [(row["tenant"], row[by]) for row in found]
    lines = [line.split()[:2] for line in asked(llmops, "cost", "--by", by, *shared).splitlines() if line.strip()]
    assert ["tenant", by] in lines
    assert ["t", name] in lines
    assert ["rival", name] in lines


@pytest.mark.parametrize("report", [("cost",), ("latency",)])
def test_conversations_of_two_tenants_are_told_apart(llmops, shared, report):
    out = asked(llmops, *report, *shared)
    assert [line.split()[:2] for line in out.splitlines() if " s1 " in line] == [["rival", "s1"], ["t", "s1"]]


def test_one_tenant_needs_no_column_but_programs_always_have_it(llmops, shared):
    for by in ("user", "session"):
        own = ("cost", "--by", by, "--tenant", "t", *shared)
        assert "tenant" not in asked(llmops, *own)
        assert {row["tenant"] for row in json.loads(asked(llmops, *own, "--json"))["rows"]} == {"t"}
        assert asked(llmops, *own, "--csv").startswith(f"tenant,{by},")
        assert asked(llmops, *own, "--csv", "--until", "2000-01-01").startswith(f"tenant,{by},")


# tags


def test_the_tags_of_langchain_are_left_out_unless_asked_for(llmops, tmp_path):
    own = ("seq:step:2", "map:key:a", "graph:step:7", "branch:default", "retry:attempt:2", "langsmith:hidden")
    fill(f"sqlite:///{tmp_path / 'ledger.db'}", [call(tags=("mine", *own)), call(tags=own), call(tags=("seq:steps",))])
    by_tag = ("cost", "--by", "tag", "--state", tmp_path, "--json")
    found = {row["tag"]: row["calls"] for row in json.loads(asked(llmops, *by_tag))["rows"]}
    assert found == {"mine": 1, None: 1, "seq:steps": 1}
    found = {row["tag"]: row["calls"] for row in json.loads(asked(llmops, *by_tag, "--all-tags"))["rows"]}
    assert found == {"mine": 1, "seq:steps": 1, **dict.fromkeys(own, 2)}


def test_an_error_names_a_request_to_look_at(llmops, state):
    (found,) = json.loads(asked(llmops, "errors", "--state", state, "--json"))["errors"]
    assert (found["error_kind"], found["error_class"], found["count"]) == ("timeout", "ReadTimeout", 1)
    assert found["example"] == "request-1"


def test_names_from_outside_never_steer_the_terminal(llmops, tmp_path):
    nasty = ["\x1b[31mred", "[bold]b[/bold]", "a\nb", "\ud83d"]
    records = [call(who=(name, name, name), model=name, tags=(name,)) for name in nasty]
    fill(f"sqlite:///{tmp_path / 'ledger.db'}", records)
    for report in (("cost", "--by", "tag"), ("cost", "--by", "user"), ("logs",), ("latency",)):
        out = asked(llmops, *report, "--state", tmp_path)
        assert "\x1b" not in out
        assert "[bold]b" in out
        json.loads(asked(llmops, *report, "--state", tmp_path, "--json"))


# what is wrong


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("cost", "--by", "planet"), "--by takes one of user, session, day, model, tag, route, node, not 'planet'"),
        (("cost", "--since", "yesterday"), "--since takes a length like 7d"),
        (("cost", "--since", "999999999w", "--until", "2025-13-01"), "--until takes a length like 7d"),
        (("cost", "--since", "1d", "--until", "2d"), "--since must be before --until"),
        (("cost", "--json", "--csv"), "--json or --csv, not both"),
        (("cost", "--by", "user", "--per-success"), "give one of --by, --project and --per-success"),
        (("cost", "--project", "10000"), "--project takes conversations per time"),
        (("cost", "--project", "0/day"), "--project takes conversations per time"),
        (("cost", "--limit", "0"), "Invalid value for '--limit'"),
        (("logs", "--slower-than", "slow"), "--slower-than takes a length like 2s"),
        (("cost", "--by", "user", "--all-tags"), "--all-tags goes with --by tag"),
        (("cost", "--models", "gpt-4o"), "--models goes with --project"),
        (("cost", "--per-success", "--models", "gpt-4o"), "--models goes with --project"),
        (("cost", "--by", "user", "--threshold", "0.5"), "--threshold goes with --per-success"),
        (("cost", "--project", "9/day", "--limit", "5"), "--limit goes with --by"),
        (("cost", "--per-success", "--limit", "5"), "--limit goes with --by"),
        (("cost", "--per-success", "--threshold", "nan"), "--threshold must be a finite number"),
        (("cost", "--project", "9/day", "--models", "\udcff"), "--models must be valid UTF-8"),
        (("cost", "--state", "/tmp/\udcff"), "--state must be valid UTF-8"),
        (("trace",), "Missing argument 'ID'"),
        (("replay", "request-1"), "give --model, --prompt FILE, or both"),
        (("replay", "nobody", "--model", "gpt-4o"), "has no 'nobody'"),
        (("replay", "tool-1", "--model", "gpt-4o", "--prompt", "/no/such/file"), "/no/such/file: No such file"),
        (("replay", "tool-1", "--model", "gpt-4o", "--prompt", "/tmp"), "--prompt: cannot read /tmp: Is a directory"),
        (("replay", "tool-1", "--model", "gpt-4o", "--prompt", sys.executable), "is not UTF-8 text"),
        (("replay", "request-1", "--model", "gpt-4o"), "set LLMOPS_LOG_CONTENT=1"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_fix(llmops, state, arguments, reason):
    where = () if "--state" in arguments else ("--state", state)
    code, out, err = llmops(*arguments, *where)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert reason in err


@pytest.mark.parametrize("words", ["\udcff", "ad\ud83d", "a\x00b"])
@pytest.mark.parametrize("option", ["--user", "--session", "--tenant", "--model"])
def test_what_no_database_can_be_asked_for_is_the_option_s_fault(llmops, where, option, words):
    code, out, err = llmops("logs", option, words, *where)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{option} must be valid UTF-8 text without NUL characters" in err


def test_moments_are_lengths_before_now_or_dates_in_utc():
    assert parse_moment("7d", 1e9, "--since") == 1e9 - 7 * 86400
    assert parse_moment("1.5h", 1e9, "--since") == 1e9 - 5400
    assert parse_moment("2001-09-09", 0, "--since") == parse_moment("2001-09-09T02:00+02:00", 0, "--since")
    assert (duration_s("500ms", "-"), duration_s("2 s", "-"), duration_s("1.5m", "-")) == (0.5, 2.0, 90.0)
    with pytest.raises(ConfigurationError, match="-1s"):
        duration_s("-1s", "--slower-than")


def test_money_and_time_are_shown_with_the_digits_that_matter():
    shown = {"0": "$0", "0.0000004567": "$0.000000457", "0.05": "$0.0500", "0.5": "$0.500", "0.9999": "$1.000"}
    shown |= {"1": "$1.00", "12.346": "$12.35", "1234.6": "$1,235"}
    assert {amount: usd(Decimal(amount)) for amount in shown} == shown
    assert [seconds(s) for s in (0.0004, 0.25, 1.0, 75.5, None)] == ["0.4 ms", "250 ms", "1.00 s", "75.50 s", "-"]


# replay

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
        assert (side["cost_usd"], side["may_have_cost_usd"], side["input_tokens"]) == (0, 0, 0)
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
    assert failed["may_have_cost_usd"] > 0
    total = found["total"]["replayed"]
    assert (total["cost_usd"], total["input_tokens"]) == (answered["cost_usd"], answered["input_tokens"])
    assert total["may_have_cost_usd"] == failed["may_have_cost_usd"]


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
