"""The reports as a user asks for them: every form, every filter, every tenant, right to the last digit."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal

import pytest

from langchain_llmops.cli.tables import seconds, usd
from langchain_llmops.core.types import ErrorKind
from tests.support.commands import asked, fill, table
from tests.support.recorded import call, embedding

pytestmark = pytest.mark.usefixtures("clean")


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
def test_what_matches_nothing_has_the_columns_and_keys_of_what_matches(llmops, state, report):
    filled = (*REPORTS[report], "--state", state)
    empty = (*filled, "--user", "nobody")
    header, *rows = asked(llmops, *filled, "--csv").splitlines()
    assert rows
    assert asked(llmops, *empty, "--csv").splitlines() == [header]
    full, bare = (json.loads(asked(llmops, *arguments, "--json")) for arguments in (filled, empty))
    assert list(bare) == list(full)
    assert all(bare[name] == [] for name, rows in full.items() if isinstance(rows, list))


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


def test_an_empty_database_of_the_environment_is_none_and_an_empty_option_a_mistake(llmops, state, monkeypatch):
    monkeypatch.setenv("LLMOPS_POSTGRES_URL", "")
    monkeypatch.setenv("LLMOPS_STATE_DIR", str(state))
    assert asked(llmops, "cost") == asked(llmops, "cost", "--state", state)
    assert "--postgres takes postgresql://host/db" in llmops("cost", "--postgres", "")[2]


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


@pytest.mark.parametrize("report", [("cost",), ("logs",)])
def test_what_a_failed_attempt_may_have_cost_is_listed_as_an_upper_bound(llmops, state, report, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = asked(llmops, *report, "--state", state)
    failed = [line for line in out.splitlines() if "failed: timeout" in line]
    assert failed
    assert all("≤ $0.00200" in line for line in failed)


@pytest.mark.parametrize(("report", "name"), [("logs", "calls"), ("cost", "dearest_calls")])
def test_a_failed_call_costs_nothing_and_its_upper_bound_is_apart(llmops, state, report, name):
    found = json.loads(asked(llmops, report, "--state", state, "--json"))[name]
    paid = [call for call in found if call["kind"] == "model" and not call["unpriced"]]
    (failed,) = [call for call in paid if call["error_kind"]]
    assert (failed["cost_usd"], failed["failed_cost_usd"]) == (0, 0.002)
    assert {call["failed_cost_usd"] for call in paid if call is not failed} == {0}
    assert all(call["failed_cost_usd"] is None for call in found if call["kind"] in ("turn", "tool"))


def test_what_failed_calls_cost_adds_up_in_every_report(llmops, state):
    rows = list(csv.DictReader(io.StringIO(asked(llmops, "logs", "--state", state, "--csv"))))
    (error,) = json.loads(asked(llmops, "errors", "--state", state, "--json"))["errors"]
    steps = json.loads(asked(llmops, "trace", "request-1", "--state", state, "--json"))["steps"]
    total = json.loads(asked(llmops, "cost", "--state", state, "--json"))["total"]
    for name in ("cost_usd", "failed_cost_usd"):
        assert float(sum(Decimal(row[name] or 0) for row in rows)) == pytest.approx(total[name])
    assert error["failed_cost_usd"] == total["failed_cost_usd"] == 0.002
    assert sum(step["own_failed_cost_usd"] for step in steps) == 0.002
    assert sum(step["own_cost_usd"] for step in steps) == 0.01


def test_what_nobody_knows_of_a_failed_call_is_its_upper_bound(llmops, tmp_path):
    record = call(cost=None, model="own-13b", error_kind=ErrorKind.TIMEOUT)
    fill(f"sqlite:///{tmp_path / 'ledger.db'}", [record])
    (found,) = json.loads(asked(llmops, "logs", "--state", tmp_path, "--json"))["calls"]
    assert (found["cost_usd"], found["failed_cost_usd"]) == (0, None)


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


def test_money_and_time_are_shown_with_the_digits_that_matter():
    shown = {"0": "$0", "0.0000004567": "$0.000000457", "0.05": "$0.0500", "0.5": "$0.500", "0.9999": "$1.000"}
    shown |= {"1": "$1.00", "12.346": "$12.35", "1234.6": "$1,235"}
    assert {amount: usd(Decimal(amount)) for amount in shown} == shown
    assert [seconds(s) for s in (0.0004, 0.25, 1.0, 75.5, None)] == ["0.4 ms", "250 ms", "1.00 s", "75.50 s", "-"]
