"""The bus as Prometheus series: right sums, bounded labels, and nobody's name in them."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from langchain_llmops.core.events import CacheLooked, CallFinished, Event, FellBack, Retried, Routed
from langchain_llmops.core.types import CallRecord, ErrorKind, Identity, Money, Usage
from langchain_llmops.telemetry.names import MAX_NAME, MAX_NAMES
from langchain_llmops.telemetry.prometheus import PrometheusReader, exposition
from tests.support.recorded import chat

WHO = Identity(tenant="t", user="user-ada", session="session-9", request="request-1", ip="10.0.0.9")
CALL = chat(
    identity=WHO, provider="openai", usage=Usage(1000, 200), money=Money(Decimal("0.0001"), Decimal("0.0002")),
    route="simple", ttft_s=0.1,
)  # fmt: skip

FULL = replace(
    CALL,
    usage=Usage(1000, 200, 300, 40, 50, 60, 7, 8),
    inter_token_s=0.02,
    streamed=True,
    estimated=True,
    clamped=True,
    unpriced=True,
    retries=2,
    saved_usd=Decimal("0.1"),
    node="model",
    tags=("beta",),
)


@pytest.fixture
def reader() -> PrometheusReader:
    return PrometheusReader()


def value(reader, series: str, /, **labels: str) -> float | None:
    return reader.registry.get_sample_value(series, labels)


def tell(reader, *records: CallRecord) -> None:
    for record in records:
        reader(CallFinished(record))


def test_a_call_is_counted_timed_and_priced(reader) -> None:
    tell(reader, CALL, CALL)
    assert value(reader, "llmops_calls_total", kind="model", name="gpt-4o-mini", route="simple", outcome="ok") == 2
    assert value(reader, "llmops_tokens_total", model="gpt-4o-mini", direction="input") == 2000
    assert value(reader, "llmops_tokens_total", model="gpt-4o-mini", direction="output") == 400
    assert value(reader, "llmops_cost_usd_total", model="gpt-4o-mini") == pytest.approx(0.0006)
    assert value(reader, "llmops_call_duration_seconds_sum", kind="model", name="gpt-4o-mini") == pytest.approx(0.6)
    assert value(reader, "llmops_call_duration_seconds_count", kind="model", name="gpt-4o-mini") == 2
    assert value(reader, "llmops_time_to_first_token_seconds_sum", model="gpt-4o-mini") == pytest.approx(0.2)


def test_a_hit_costs_nothing_and_saves(reader) -> None:
    hit = replace(CALL, usage=Usage(), money=Money(), cache_level="L1", saved=Usage(9, 9), saved_usd=Decimal("0.0003"))
    tell(reader, hit)
    assert value(reader, "llmops_calls_total", kind="model", name="gpt-4o-mini", route="simple", outcome="hit") == 1
    assert value(reader, "llmops_saved_usd_total", model="gpt-4o-mini") == pytest.approx(0.0003)
    assert value(reader, "llmops_cost_usd_total", model="gpt-4o-mini") == 0


def test_what_a_failed_attempt_may_have_cost_is_counted_apart(reader) -> None:
    tell(reader, replace(CALL, error_kind=ErrorKind.TIMEOUT, estimated=True))
    assert value(reader, "llmops_calls_total", kind="model", name="gpt-4o-mini", route="simple", outcome="timeout") == 1
    assert value(reader, "llmops_failed_cost_usd_total", model="gpt-4o-mini") == pytest.approx(0.0003)
    assert value(reader, "llmops_cost_usd_total", model="gpt-4o-mini") is None
    assert value(reader, "llmops_tokens_total", model="gpt-4o-mini", direction="input") is None


def test_an_unpriced_call_is_seen(reader) -> None:
    tell(reader, replace(CALL, money=None, unpriced=True))
    assert value(reader, "llmops_unpriced_calls_total", model="gpt-4o-mini") == 1


def test_tools_and_turns_are_timed_but_have_no_tokens(reader) -> None:
    tell(reader, replace(CALL, kind="tool", model=None, name="lookup", route=None, money=None, ttft_s=None))
    assert value(reader, "llmops_calls_total", kind="tool", name="lookup", route="", outcome="ok") == 1
    assert value(reader, "llmops_call_duration_seconds_count", kind="tool", name="lookup") == 1
    assert value(reader, "llmops_tokens_total", model="lookup", direction="input") is None


def test_looks_routes_retries_and_fallbacks_are_counted(reader) -> None:
    for event in (
        CacheLooked("hit", "L2", WHO),
        CacheLooked("miss", None, WHO),
        Routed("simple", "gpt-4o-mini", ("short",), WHO),
        Retried("gpt-4o-mini", ErrorKind.RATE_LIMIT, 2, 0.5, WHO),
        FellBack("gpt-4o-mini", "gpt-4o", ErrorKind.TIMEOUT, WHO),
        Event(),
    ):
        reader(event)
    assert value(reader, "llmops_cache_looks_total", outcome="hit", level="L2") == 1
    assert value(reader, "llmops_cache_looks_total", outcome="miss", level="") == 1
    assert value(reader, "llmops_routed_total", route="simple", model="gpt-4o-mini") == 1
    assert value(reader, "llmops_retries_total", model="gpt-4o-mini", error_kind="rate_limit") == 1
    assert (
        value(reader, "llmops_fallbacks_total", from_model="gpt-4o-mini", to_model="gpt-4o", error_kind="timeout") == 1
    )


@pytest.mark.parametrize(
    "part", ["cache_read", "cache_write", "cache_write_1h", "reasoning", "audio_input", "audio_output"]
)
def test_a_part_of_the_tokens_is_counted_beside_the_whole(reader, part) -> None:
    tell(reader, replace(CALL, usage=Usage(1000, 200, **{f"{part}_tokens": 30})), FULL, CALL)
    expected = 30 + getattr(FULL.usage, f"{part}_tokens")
    assert value(reader, "llmops_token_parts_total", model="gpt-4o-mini", part=part) == expected
    assert value(reader, "llmops_tokens_total", model="gpt-4o-mini", direction="input") == 3000


def test_pauses_between_tokens_are_timed(reader) -> None:
    tell(reader, FULL, CALL)
    assert value(reader, "llmops_inter_token_seconds_sum", model="gpt-4o-mini") == pytest.approx(0.02)
    assert value(reader, "llmops_inter_token_seconds_count", model="gpt-4o-mini") == 1


@pytest.mark.parametrize("fact", ["estimated", "clamped", "unpriced"])
def test_figures_that_are_not_the_providers_own_are_counted(reader, fact) -> None:
    tell(reader, replace(CALL, **{fact: True}), CALL)
    assert value(reader, f"llmops_{fact}_calls_total", model="gpt-4o-mini") == 1


def test_errors_are_counted_by_kind_for_models_and_tools(reader) -> None:
    tool = replace(CALL, kind="tool", model=None, name="lookup", error_kind=ErrorKind.OTHER)
    tell(reader, CALL, replace(CALL, error_kind=ErrorKind.TIMEOUT), tool, tool)
    assert value(reader, "llmops_errors_total", kind="model", name="gpt-4o-mini", error_kind="timeout") == 1
    assert value(reader, "llmops_errors_total", kind="tool", name="lookup", error_kind="other") == 2
    assert value(reader, "llmops_errors_total", kind="model", name="gpt-4o-mini", error_kind="ok") is None


def test_a_call_made_again_after_a_failure_is_counted_once(reader) -> None:
    tell(reader, CALL, replace(CALL, retries=1), replace(CALL, retries=2))
    assert value(reader, "llmops_repeated_calls_total", kind="model", name="gpt-4o-mini") == 2


def test_watched_figures_are_read_at_the_scrape(reader) -> None:
    figures = {"open": 3, "failures": {"Ledger": 1, "Call \ud83d": 2}}
    reader.watch("llmops_open_runs", "Open runs.", lambda: figures["open"])
    reader.watch("llmops_reader_failures", "By reader.", lambda: figures["failures"], label="reader", counter=True)
    assert value(reader, "llmops_open_runs") == 3
    assert value(reader, "llmops_reader_failures_total", reader="Ledger") == 1
    figures["open"] = 0
    figures["failures"]["Ledger"] = 4
    page = exposition(reader.registry).decode()
    assert "llmops_open_runs 0.0" in page
    assert 'llmops_reader_failures_total{reader="Ledger"} 4.0' in page
    with pytest.raises(ValueError, match="Duplicated"):
        reader.watch("llmops_open_runs", "Open runs.", lambda: 0)


def test_the_page_does_not_grow_with_users(reader) -> None:
    """Nor with sessions, requests, runs or traces: 2,000 users cost what two cost."""

    def page_after(users: range) -> int:
        for number in users:
            who = Identity(user=f"user-{number}", session=f"s-{number}", request=f"r-{number}", ip=f"10.0.0.{number}")
            ids = {"run_id": f"run-{number}", "trace_id": f"trace-{number}", "prompt_hash": f"{number:x}"}
            tell(reader, replace(FULL, identity=who, **ids), replace(CALL, identity=who, kind="tool", **ids))
            reader(CacheLooked("miss", None, who))
        return exposition(reader.registry).count(b"\n")

    assert page_after(range(2)) == page_after(range(2, 2000))


def test_no_series_ever_names_a_person(reader) -> None:
    tell(reader, FULL, replace(FULL, error_kind=ErrorKind.OTHER))
    reader(CacheLooked("hit", "L1", WHO))
    reader(Routed("simple", "gpt-4o-mini", ("short",), WHO))
    reader(Retried("m", ErrorKind.TIMEOUT, 2, 0.5, WHO))
    reader(FellBack("m", "n", ErrorKind.TIMEOUT, WHO))
    page = generate_latest(reader.registry).decode()
    for name in ("user-ada", "session-9", "request-1", "10.0.0.9", "run-1", "trace-1"):
        assert name not in page
    labels = {label for f in text_string_to_metric_families(page) for s in f.samples for label in s.labels}
    assert labels <= {"kind", "name", "route", "outcome", "model", "direction", "level", "error_kind"} | {
        "from_model", "to_model", "le", "part"
    }  # fmt: skip


def test_names_without_end_share_one_series(reader) -> None:
    """A model name is text from outside: the number of series is bounded, the sums stay whole."""
    for number in range(5 * MAX_NAMES):
        tell(reader, replace(CALL, model=f"model-{number}"))
    (family,) = [f for f in reader.registry.collect() if f.name == "llmops_cost_usd"]
    totals = [sample for sample in family.samples if sample.name.endswith("_total")]
    assert len(totals) <= MAX_NAMES + 1
    assert sum(sample.value for sample in totals) == pytest.approx(5 * MAX_NAMES * 0.0003)
    assert value(reader, "llmops_cost_usd_total", model="other") > 0


def test_names_without_end_leave_no_trace_in_memory(reader) -> None:
    for number in range(5 * MAX_NAMES):
        tell(reader, replace(CALL, model=f"model-{number}"))
    assert len(reader._series) <= MAX_NAMES + 1


def test_a_very_long_name_is_cut(reader) -> None:
    tell(reader, replace(CALL, model="x" * 1_000_000))
    assert len(exposition(reader.registry)) < 20_000
    assert value(reader, "llmops_cost_usd_total", model="x" * MAX_NAME) > 0


def test_every_outcome_fits_the_page(reader) -> None:
    tell(reader, *(replace(CALL, error_kind=kind, model='na"me\n\\') for kind in ErrorKind))
    families = list(text_string_to_metric_families(generate_latest(reader.registry).decode()))
    outcomes = {s.labels["outcome"] for f in families for s in f.samples if s.name == "llmops_calls_total"}
    assert outcomes == {str(kind) for kind in ErrorKind}


def test_a_model_name_that_is_no_text_does_not_break_the_page(reader) -> None:
    """A lone surrogate, as JSON may carry one: the page of every other series must stay readable."""
    tell(reader, replace(CALL, model="half an emoji \ud83d"), CALL)
    assert "gpt-4o-mini" in generate_latest(reader.registry).decode()


def test_readers_of_one_registry_are_told_apart() -> None:
    registry = CollectorRegistry()
    assert PrometheusReader(registry).registry is registry
    with pytest.raises(ValueError, match="Duplicated"):
        PrometheusReader(registry)
    assert PrometheusReader().registry is not PrometheusReader().registry


WORKER = """
import itertools, sys
from decimal import Decimal
from langchain_llmops.core.events import CallFinished
from langchain_llmops.core.types import CallRecord, Money, Usage
from langchain_llmops.telemetry.prometheus import PrometheusReader, exposition

calls, dropped = int(sys.argv[1]), 0
reader = PrometheusReader(clock=itertools.count().__next__)
reader.watch("llmops_open_runs", "Open runs.", lambda: calls)
reader.watch("llmops_dropped", "Dropped.", lambda: {"ledger": dropped}, label="reader", counter=True)
for _ in range(calls):
    dropped += 1
    reader(CallFinished(CallRecord(kind="model", run_id="r", trace_id="t", name="m", started_at=0.0, latency_s=0.3,
                                   model="gpt", usage=Usage(10, 5), money=Money(Decimal("0.5")))))
dropped += 10  # with no event after it
if sys.argv[2] == "ends":
    reader.refresh()
print("ready", flush=True)
if sys.stdin.readline() == "scrape\\n":
    sys.stdout.write(exposition(reader.registry).decode())
"""


def test_one_scrape_holds_the_sums_of_all_worker_processes(tmp_path) -> None:
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-W", "error", "-c", WORKER, str(calls), end],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
                )
            )
            for calls, end in ((3, "scrapes"), (4, "ends"))
        ]
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        page, _ = workers[0].communicate("scrape\n", timeout=60)
        workers[1].communicate("", timeout=60)
    samples = {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for f in text_string_to_metric_families(page)
        for s in f.samples
    }
    labels = (("kind", "model"), ("name", "gpt"))
    assert samples["llmops_calls_total", (*labels, ("outcome", "ok"), ("route", ""))] == 7
    assert samples["llmops_call_duration_seconds_count", labels] == 7
    assert samples["llmops_call_duration_seconds_bucket", (labels[0], ("le", "0.32"), labels[1])] == 7
    assert samples["llmops_cost_usd_total", (("model", "gpt"),)] == 3.5
    assert samples["llmops_tokens_total", (("direction", "input"), ("model", "gpt"))] == 70
    assert samples["llmops_open_runs", ()] == 7
    assert samples["llmops_dropped_total", (("reader", "ledger"),)] == 27


FORK = """
import os
from decimal import Decimal
from langchain_llmops.core.events import CallFinished
from langchain_llmops.core.types import CallRecord
from langchain_llmops.telemetry.prometheus import PrometheusReader, exposition

call = CallRecord(kind="model", run_id="r", trace_id="t", name="m", started_at=0.0, latency_s=0.3)
reader = PrometheusReader()
reader(CallFinished(call))
reader._waiting.append(call)  # as when the fork comes between a call and its counting
child = os.fork()
if child == 0:
    reader(CallFinished(call))
    reader.refresh()
    counted = reader.registry.get_sample_value("llmops_call_duration_seconds_count", {"kind": "model", "name": "m"})
    os._exit(int(counted))
_, status = os.waitpid(child, 0)
lines = exposition(reader.registry).decode().splitlines()
(counted,) = [line.split()[-1] for line in lines if line.startswith("llmops_calls_total{")]
print(os.waitstatus_to_exitcode(status), counted)
"""


@pytest.mark.parametrize(
    ("several", "told"), [(False, "1 2.0"), (True, "1 3.0")], ids=["one process", "several processes"]
)
def test_a_forked_child_counts_no_call_that_waits_in_its_parent(tmp_path, several, told) -> None:
    """The parent's two calls and the child's one: a page of all processes has three, the child's own figure is one."""
    done = subprocess.run(
        [sys.executable, "-c", FORK],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": ":".join(sys.path)} | ({"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)} if several else {}),
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, told, "")


KILLED = """
import os, signal
from langchain_llmops.core.events import CallFinished
from langchain_llmops.core.types import CallRecord
from langchain_llmops.telemetry.prometheus import PrometheusReader

call = CallRecord(kind="model", run_id="r", trace_id="t", name="m", started_at=0.0, latency_s=0.3)
reader = PrometheusReader()
for _ in range(3):
    reader(CallFinished(call))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_that_is_killed_has_counted_all_its_calls(tmp_path) -> None:
    """No call waits where only what is in the shared files outlives the process."""
    env = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", KILLED], check=False, timeout=60, env=env)
    scrape = (
        "from prometheus_client import CollectorRegistry\n"
        "from langchain_llmops.telemetry.prometheus import exposition\n"
        "print(exposition(CollectorRegistry()).decode())\n"
    )
    page = subprocess.run([sys.executable, "-c", scrape], capture_output=True, text=True, timeout=60, env=env).stdout
    assert 'llmops_calls_total{kind="model",name="m",outcome="ok",route=""} 3.0' in page


def test_names_of_turns_crowd_out_no_model() -> None:
    reader = PrometheusReader()
    for number in range(300):
        record = CallRecord(kind="turn", run_id="1", trace_id="1", name=f"job {number}", started_at=0.0, latency_s=0.0)
        reader(CallFinished(record))
    model = CallRecord(kind="model", run_id="1", trace_id="1", name="m", model="gpt-4o", started_at=0.0, latency_s=0.0)
    reader(CallFinished(model))
    wanted = {"kind": "model", "name": "gpt-4o", "route": "", "outcome": "ok"}
    assert reader.registry.get_sample_value("llmops_calls_total", wanted) == 1
