"""The report: every figure told once, in text, HTML and JSON, whatever names the traffic brought."""

from __future__ import annotations

import json
from copy import deepcopy
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_llmops.ledger.report import WIDTH, Report

FIGURES = {
    "conversations": 1234,
    "turns": 5678,
    "failed_turns": 0,
    "model_calls": 9012,
    "tool_calls": 345,
    "tokens": {"input": 1_000_000, "output": 20_000, "cache_read": 500, "saved_by_cache": 77, "total": 1_020_000},
    "cost_usd": 12.3456,
    "baseline_cost_usd": 20.5,
    "baseline_model": "gpt-4o",
    "saved_usd": 8.1544,
    "saved_pct": 39.77756,
    "unpriced_calls": 0,
    "estimated_calls": 0,
    "cache": {
        "hits": 40,
        "misses": 60,
        "hit_rate": 0.4,
        "by_level": {"L1": 30, "L2": 10},
        "saved_usd": 0.25,
        "saved_usd_by_level": {"L1": 0.2, "L2": 0.05},
    },
    "routes": {
        "simple": {
            "calls": 90,
            "hits": 40,
            "misses": 50,
            "cost_usd": 0.5,
            "models": {"gpt-4o-mini": 80, "gpt-4o": 10},
        },
        "complex": {"calls": 10, "hits": 0, "misses": 10, "cost_usd": 11.8456, "models": {"gpt-4o": 10}},
    },
    "latency": {
        "model": {"p50": 0.1234, "p95": 1.5, "p99": 2.25},
        "embedding": {"p50": None, "p95": None, "p99": None},
        "tool": {"p50": 0.001, "p95": 0.002, "p99": 0.003},
        "turn": {"p50": 1.25, "p95": 3.5, "p99": 4.0},
    },
    "errors": {},
    "failed_attempts": {"count": 0, "cost_usd": 0.0},
    "slowest": [],
    "dearest": [],
}
ERROR = {"model_attempts": 7, "tool_calls": 3, "retried": 5, "fell_back": 2, "failed_turns": 1, "cost_usd": 0.0123}


def report(**changes: object) -> Report:
    return Report({**deepcopy(FIGURES), **changes})


class Cells(HTMLParser):
    """Titles and rows of a page; fails on markup that no cell of ours writes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self._into: str | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self._into = tag
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "h2":
            self.titles.append("")

    def handle_data(self, data):
        if self._into in ("td", "th"):
            self.rows[-1][-1] += data
        elif self._into == "h2":
            self.titles[-1] += data

    def handle_endtag(self, tag):
        self._into = None


def html(shown: Report) -> Cells:
    return Cells(shown._repr_html_())


USUAL = ["Traffic and money", "Model calls by route", "Cache", "Latency, ms"]


def test_the_sections_of_a_program_with_a_router_and_a_cache() -> None:
    assert html(report()).titles == USUAL
    for title in USUAL:
        assert title in str(report())


def test_one_is_told_as_one() -> None:
    one = {"session": "s", "seconds": 1.0, "turns": 1, "cost_usd": 0.5, "model_calls": 1}
    told = str(report(slowest=[one], dearest=[one | {"model_calls": 2000}]))
    assert "in 1 turn\n" in told
    assert "in 2,000 calls\n" in told


def test_embeddings_have_a_row_of_latency_where_there_are_any() -> None:
    quick = {"p50": 0.0321, "p95": 0.04, "p99": 0.05}
    assert ["embedding", "32.1", "40.0", "50.0"] in html(report(latency=FIGURES["latency"] | {"embedding": quick})).rows
    assert "embedding" not in str(report())


NO_QUANTILES = {"p50": None, "p95": None, "p99": None}
DIRECT = {"calls": 3, "hits": 0, "misses": 3, "cost_usd": 0.001, "models": {"gpt-4o": 2, "text-embedding-3-small": 1}}
PLAIN = {
    "routes": {"direct": DIRECT},
    "cache": {"hits": 0, "misses": 3, "hit_rate": 0.0, "by_level": {}, "saved_usd": 0.0},
    "baseline_model": None,
    "baseline_cost_usd": 0.001,
    "saved_usd": 0.0,
    "saved_pct": 0.0,
    "checkpoints": {"count": 0, "bytes": {"hot": 0, "warm": 0}},
    "latency": {**dict.fromkeys(FIGURES["latency"], NO_QUANTILES), "model": FIGURES["latency"]["model"]},
}


def test_without_router_cache_and_checkpointer_nothing_is_said_of_them() -> None:
    shown = report(**PLAIN)
    assert html(shown).titles == ["Traffic and money", "Latency, ms"]
    assert {"models", "cost", "model"} <= set(rows(shown))
    assert rows(shown)["models"] == ["gpt-4o, text-embedding-3-small"]
    for word in ("without the suite", "saved", "hits", "route", "bytes", "tool  ", "turn  "):
        assert word not in str(shown), word
    assert set(shown.as_dict()) >= set(FIGURES)


def test_a_cache_that_never_hits_is_told() -> None:
    shown = report(**PLAIN | {"cache": PLAIN["cache"] | {"in_use": True}})
    assert rows(shown)["hit rate"] == ["0.0 %"]


@pytest.mark.parametrize(
    "found",
    [
        {"cache": {**FIGURES["cache"]}},
        {"baseline_model": "gpt-4o"},
        {"saved_usd": -0.001, "saved_pct": -1.0},
        {"routes": {"direct": DIRECT, "simple": DIRECT}},
    ],
)
def test_a_saving_is_told_where_something_may_save(found) -> None:
    assert "saved" in rows(report(**{**PLAIN, **found}))


def test_a_report_of_nothing_is_one_section() -> None:
    latency = dict.fromkeys(FIGURES["latency"], NO_QUANTILES)
    assert html(report(**{**PLAIN, "routes": {}, "latency": latency})).titles == ["Traffic and money"]


@pytest.mark.parametrize(
    ("cost", "told"),
    [(0.0, "$0"), (4e-7, "$0.000000400"), (1e-12, "$0.00000000000100"), (0.00001234, "$0.0000123"), (0.5, "$0.500000")],
)
def test_a_tiny_cost_shows_the_digits_that_matter(cost, told) -> None:
    assert rows(report(cost_usd=cost))["cost"] == [told]


OPTIONAL = {
    "errors": ({"errors": {"timeout": ERROR}}, "Errors and what was done about them"),
    "checkpoints": ({"checkpoints": {"count": 3, "bytes": {"hot": 1, "warm": 2, "cold": 3}}}, "Checkpoints"),
    "slowest": ({"slowest": [{"session": "s1", "seconds": 1.5, "turns": 2}]}, "Slowest and dearest conversations"),
    "dearest": (
        {"dearest": [{"session": "s1", "cost_usd": 1.5, "model_calls": 2}]},
        "Slowest and dearest conversations",
    ),
    "replay": ({"replay": {"assistant_messages": 2454, "unknown_prefixes": 0}}, "Replay"),
}


@pytest.mark.parametrize(("figures", "title"), OPTIONAL.values(), ids=OPTIONAL)
def test_a_section_without_figures_is_left_out_and_with_them_is_shown(figures, title) -> None:
    assert title not in html(report()).titles
    assert title in html(report(**figures)).titles
    assert title in str(report(**figures))


def rows(shown: Report) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in html(shown).rows if row}


TOLD = {
    "conversations": ["1,234"],
    "turns": ["5,678"],
    "model calls": ["9,012"],
    "tool calls": ["345"],
    "tokens in / out": ["1,000,000 / 20,000"],
    "cost": ["$12.3456"],
    "the same without the suite (all on gpt-4o, no cache)": ["$20.5000"],
    "saved": ["$8.1544 (39.8 %)"],
    "simple": ["gpt-4o-mini, gpt-4o", "90", "40", "50", "$0.500000"],
    "complex": ["gpt-4o", "10", "0", "10", "$11.8456"],
    "hits in L1": ["30 (saved $0.200000)"],
    "hits in L2": ["10 (saved $0.050000)"],
    "misses": ["60"],
    "hit rate": ["40.0 %"],
    "saved by hits": ["$0.250000"],
    "model": ["123.4", "1,500.0", "2,250.0"],
    "tool": ["1.0", "2.0", "3.0"],
    "turn": ["1,250.0", "3,500.0", "4,000.0"],
}


@pytest.mark.parametrize("name", TOLD)
def test_every_figure_is_told_in_html_and_in_text(name) -> None:
    assert rows(report())[name] == TOLD[name]
    lines = [line for line in str(report()).splitlines() if line.strip().startswith(name)]
    assert any(all(cell in line for cell in TOLD[name]) for line in lines), lines


def test_levels_in_use_are_told_without_a_hit_too_and_what_only_the_process_knows_when_it_happened() -> None:
    hits = FIGURES["cache"] | {"by_level": {"L1": 30}, "saved_usd_by_level": {"L1": 0.2}}
    quiet = rows(report(cache=hits | {"process": {"hit:L1": 30, "written_bytes:L2": 9}}))
    assert (quiet["hits in L2"], len(quiet)) == (["0"], len(rows(report())))
    counts = {"hit:L1": 30, "invalidated:L1": 1, "invalidated:L2": 9, "coalesced": 2, "stale": 3, "written_bytes:L2": 9}
    busy = rows(report(cache=hits | {"process": counts}))
    assert busy["invalidated, of answers found"] == ["10 (25.0 %)"]
    assert busy["hits that waited for another's call"] == ["2"]
    assert busy["hits past their time"] == ["3"]


def test_what_happened_seldom_is_told_when_it_happened() -> None:
    told = rows(
        report(
            failed_turns=4,
            unpriced_calls=5,
            estimated_calls=6,
            failed_attempts={"count": 7, "cost_usd": 0.0123},
            errors={"timeout": ERROR},
        )
    )
    assert told["turns"] == ["5,678 (and 4 that failed)"]
    assert told["calls of models without a price (not in the cost)"] == ["5"]
    assert told["calls whose tokens are our estimate"] == ["6"]
    assert told["failed attempts, apart from the cost above"] == ["7, at most $0.012300"]
    assert told["timeout"] == ["7", "3", "5", "2", "1", "$0.012300"]
    quiet = rows(report())
    assert not {"calls of models without a price (not in the cost)", "calls whose tokens are our estimate"} & set(quiet)


def test_without_a_baseline_model_the_words_still_make_sense() -> None:
    assert "the same without the suite (all on their own model, no cache)" in rows(report(baseline_model=None))


def test_a_loss_is_told_as_one() -> None:
    assert rows(report(saved_usd=-0.5, saved_pct=-12.0))["saved"] == ["$-0.500000 (-12.0 %)"]


# names from outside


def named(name: str) -> Report:
    route = {"calls": 1, "hits": 0, "misses": 1, "cost_usd": 0.0, "models": {name: 1}}
    return report(
        baseline_model=name,
        routes={name: route},
        errors={name: ERROR},
        slowest=[{"session": name, "seconds": 1.5, "turns": 2}],
        dearest=[{"session": name, "cost_usd": 1.5, "model_calls": 2}],
    )


ATTACKS = ["<script>alert(1)</script>", "a & b", '"><img src=x onerror=1>', "</table>", "&lt;", "'"]


@pytest.mark.parametrize("name", ATTACKS)
def test_a_name_is_text_in_html_and_never_markup(name) -> None:
    page = Cells(named(name).page(title=name))
    assert page.tags <= {
        "html", "meta", "title", "style", "body", "h1", "div", "h2", "table", "thead", "tbody", "tr", "th", "td"
    }  # fmt: skip
    assert ["slowest", name, "1.500 s in 2 turns"] in page.rows
    assert name in rows(named(name))


@pytest.mark.parametrize(
    "name", ["[red]x", "[/]", "[/red]", "[link=http://x]y[/link]", ":smile:", "[", "a[b]c", "{x}", "%s"]
)
def test_a_name_is_text_in_a_terminal_and_never_markup(name) -> None:
    text = str(named(name))
    assert any(name in line for line in text.splitlines() if line.strip().startswith("slowest"))


@pytest.mark.parametrize("name", ["\x1b[31mred", "\x1b]0;title\x07", "a\rb", "a\x08b", "a\nb", "\x9b31m"])
def test_a_name_never_steers_the_terminal(name) -> None:
    shown = str(named(name))
    assert not {
        character for character in shown if (ord(character) < 32 and character != "\n") or 127 <= ord(character) < 160
    }


@given(st.text())
def test_any_name_can_be_shown(name) -> None:
    shown = named(name)
    str(shown)
    shown._repr_html_()


def test_a_long_name_keeps_the_table_in_width() -> None:
    assert max(len(line) for line in str(named("x" * 500)).splitlines()) <= WIDTH


# the forms


def test_the_dictionary_is_ready_for_json_and_cannot_change_the_report() -> None:
    shown = report()
    assert json.loads(json.dumps(shown.as_dict())) == FIGURES
    shown.as_dict()["cost_usd"] = 0
    assert shown.figures["cost_usd"] == 12.3456


def test_a_page_is_whole_and_has_its_title() -> None:
    page = report().page("Monday's <traffic>")
    assert page.startswith('<!doctype html><html lang="en"><meta charset="utf-8">')
    assert "<title>Monday&#x27;s &lt;traffic&gt;</title>" in page
    assert page.endswith("</body></html>")
    assert "http" not in page, "a page of one file asks nobody for anything"


def test_text_has_no_colours_and_ends_in_one_line_end() -> None:
    text = str(report())
    assert "\x1b" not in text
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_repr_is_short() -> None:
    assert len(repr(report())) < 100
