"""The pages: pure functions from rows to HTML; whatever comes from a run is escaped."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from langchain_llmops.core.context import ROUTE, RUNG
from langchain_llmops.ledger.schema import from_pico
from langchain_llmops.recorder.listing import FILTERS, MOST_CHARACTERS, PREVIEWED, in_order
from langchain_llmops.recorder.runs import mapping, status
from langchain_llmops.recorder.style import STYLE
from langchain_llmops.recorder.words import last_words, lines_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from langchain_llmops.recorder.listing import Page

__all__ = ["missing_page", "thread_page", "threads_page", "trace_page", "traces_page"]

MOST_WORDS: Final = 4_000
SHORT: Final = 140
TRACEBACK: Final = "Traceback (most recent call last):"
BLANK_LINES: Final = re.compile(r"\n(?:[ \t]*\n)+")
NONE: Final = "-"
CACHE_LEVEL: Final = "llmops_cache_level"  # as `telemetry.tracer` writes it
MOST_OPINIONS: Final = 5
FIGURES: Final = frozenset(("traces", "runs", "failed runs", "tokens", "cost", "took"))
NARROWEST_BAR: Final = 0.5


def traces_page(page: Page, filters: Mapping[str, str], problems: Sequence[str], url: str) -> str:
    """The list of traces, newest first."""
    head = ("trace", "user", "session", "status", "runs", "tokens", "cost", "took", "began (UTC)")
    rows = [_trace_row(row) for row in page.rows]
    nothing = "" if rows else _nothing(filters, url)
    body = _form(filters) + _problems(problems) + _table(head, rows) + nothing + _older("/", filters, page.after)
    return _layout("Traces", body)


def threads_page(page: Page) -> str:
    """The list of threads, the latest first."""
    head = ("thread", "user", "traces", "runs", "failed runs", "tokens", "cost", "last began (UTC)")
    rows = [
        (
            _link(_thread_url(row["thread"]), row["thread"]),
            _word(row["user_id"]),
            _number(row["traces"]),
            _number(row.get("runs")),
            _number(row.get("errors") or None),
            _number(row.get("total_tokens")),
            _usd(row.get("cost_pico")),
            _when(row["started_us"]),
        )
        for row in page.rows
    ]
    nothing = "" if rows else "<p class=quiet>No run has named a session_id or a thread_id yet.</p>"
    return _layout("Threads", _table(head, rows) + nothing + _older("/threads", {}, page.after))


def thread_page(thread: str, turns: Sequence[Mapping[str, Any]]) -> str:
    """A conversation: what was asked and answered in each of its traces."""
    shown = _link("/?" + urlencode({"session": thread}), "as a list")
    facts = _joined(_counted(len(turns), "trace"), *_spent(turns), shown)
    return _layout(thread, f"<p class=quiet>{facts}</p>" + "".join(_turn(turn) for turn in turns))


def trace_page(runs: Sequence[Mapping[str, Any]], feedback: Sequence[Mapping[str, Any]]) -> str:
    """One trace: its runs as a tree, each with tokens, cost, time and what went in and out."""
    tree = in_order(runs)
    root = tree[0][1]
    timed = [run for run in runs if run["started_us"] is not None]
    start = min((run["started_us"] for run in timed), default=0)
    span = max(1, max((run["ended_us"] or run["started_us"] for run in timed), default=start) - start)
    said = {run["id"]: [item for item in feedback if item.get("run_id") == run["id"]] for run in runs}
    rows = "".join(_run(run, depth, start, span, said[run["id"]]) for depth, run in tree)
    head = "".join(f"<span>{name}</span>" for name in ("run", "type", "tokens", "cost", "took", "when"))
    body = f"{_facts(root, runs, feedback)}<div class='run head'>{head}</div>{rows}"
    return _layout(root["name"] or "(its start has not come)", body)


def missing_page(line: str) -> str:
    """Something that is not here."""
    return _layout("Not here", f"<p>{escape(line)}</p><p>{_link('/', 'Back to all traces')}</p>")


def _trace_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    root = row["root"]
    name = (root and root["name"]) or "(its root has not come)"
    state = status(root) if root else "open"
    errors = row.get("errors") or 0
    within = f" <span class=quiet>{errors} within</span>" if errors and state != "error" else ""
    thread = _link(_thread_url(row["thread"]), row["thread"]) if row["thread"] else NONE
    return (
        _link(f"/traces/{row['id']}", name) + (_preview(root) if root else ""),
        _word(row["user_id"]),
        thread,
        _badge(state) + within,
        _number(row.get("runs")),
        _number(row.get("total_tokens")),
        _usd(row.get("cost_pico")),
        _took(root) if root else NONE,
        _when(row["started_us"]),
    )


def _preview(root: Mapping[str, Any]) -> str:
    said = last_words(_parsed(root["inputs"], PREVIEWED), spoken_by_user=True)
    return f"<div class='quiet preview'>{escape(said[:SHORT])}</div>" if said else ""


def _turn(turn: Mapping[str, Any]) -> str:
    asked = last_words(_parsed(turn["inputs"]), spoken_by_user=True)
    answered = last_words(_parsed(turn["outputs"]), spoken_by_user=False)
    link = _link(f"/traces/{turn['trace_id']}", turn["name"] or "trace")
    runs = _counted(turn["runs"], "run")
    facts = _joined(_when(turn["started_us"]), link, _badge(status(turn)), runs, *_spent([turn]), _took(turn))
    answer = _error(turn["error"]) if turn["error"] else _said("assistant", answered or turn["outputs"])
    return f"<article>{_said('user', asked or turn['inputs'])}{answer}<p class=quiet>{facts}</p></article>"


def _facts(root: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], feedback: Sequence[Mapping[str, Any]]) -> str:
    metadata = _metadata(root)
    thread = metadata.get("session_id") or metadata.get("thread_id")
    line = _joined(
        _badge(status(root)),
        f"user {_word(metadata['user_id'])}" if metadata.get("user_id") else "",
        f"thread {_link(_thread_url(str(thread)), str(thread))}" if thread else "",
        _counted(len(runs), "run"),
        *_spent([run for run in runs if run["run_type"] == "llm"]),
        _took(root),
        *(_opinion(item) for item in feedback[:MOST_OPINIONS]),
        f"{_number(len(feedback))} feedback in all" if len(feedback) > MOST_OPINIONS else "",
        _when(root["started_us"]),
    )
    failed = f"<p class=error>{escape(_first_line(root['error']))}</p>" if root["error"] else ""
    return f"<p>{line}</p>{failed}<p class=quiet>trace {escape(root['trace_id'])}</p>"


def _run(run: Mapping[str, Any], depth: int, start: int, span: int, feedback: Sequence[Mapping[str, Any]]) -> str:
    state = status(run)
    name = f"<span class=name style='--depth:{depth}'>{_word(run['name'])}{_model(run)}</span>"
    kind = f"<span class='kind {escape(run['run_type'] or '')}'>{_word(run['run_type'])}</span>"
    cells = {"tokens": _number(run["total_tokens"]), "cost": _usd(run["cost_pico"]), "took": _took(run)}
    figures = "".join(f"<span {_cell(name, words)}>{words}</span>" for name, words in cells.items())
    summary = f"<summary class='run {state}'>{name}{kind}{figures}{_bar(run, start, span)}</summary>"
    parts = [_error(run["error"])] if run["error"] else []
    parts += [_section("inputs", run["inputs"], shown=True), _section("outputs", run["outputs"], shown=True)]
    parts += [_section("metadata", run["extra"]), _section("tags", run["tags"])]
    parts += [_section("attachments received, not kept", run["attachments"]), _feedback(feedback)]
    raw = _link(f"/runs/{run['id']}", "the whole run as JSON")
    return (
        f"<details id='run-{escape(run['id'])}'>{summary}<div class=body>{''.join(parts)}<p>{raw}</p></div></details>"
    )


def _model(run: Mapping[str, Any]) -> str:
    """Which model was asked, by which route, and what is special about it: a class names the runs of all its models."""
    if run["run_type"] != "llm":
        return ""
    metadata = _metadata(run)
    told = [_word(metadata[name]) for name in ("ls_model_name", ROUTE) if metadata.get(name)]
    told += [f"rung {_word(metadata[RUNG])}"] if metadata.get(RUNG) else []
    told += [f"{_word(level)} hit"] if (level := metadata.get(CACHE_LEVEL)) and level != "miss" else []
    words = _joined(*told)
    return f" <span class=quiet>{words}</span>" if words else ""


def _bar(run: Mapping[str, Any], start: int, span: int) -> str:
    """Where within the trace the run was at work."""
    if run["started_us"] is None:
        return "<span class=bar></span>"
    left = min(100 * (run["started_us"] - start) / span, 100 - NARROWEST_BAR)
    width = 100 * ((run["ended_us"] or start + span) - run["started_us"]) / span
    width = max(NARROWEST_BAR, min(width, 100 - left))
    return f"<span class=bar><i style='margin-left:{left:.2f}%;width:{width:.2f}%'></i></span>"


def _section(title: str, words: str | None, *, shown: bool = False) -> str:
    if words in (None, "{}", "[]"):
        return ""
    value = _parsed(words)
    inside = "".join(_said(role, said) for role, said in lines_of(value)) if shown else ""
    pretty = words or "" if value is None else json.dumps(value, indent=2, ensure_ascii=False)
    inside = inside or f"<pre>{_cut(pretty)}</pre>"
    return f"<details{' open' if shown else ''}><summary>{escape(title)}</summary>{inside}</details>"


def _feedback(items: Iterable[Mapping[str, Any]]) -> str:
    told = [(_word(item.get("key")), _score(item), _word(item.get("comment"))) for item in items]
    return _table(("feedback", "score", "comment"), told)


def _opinion(item: Mapping[str, Any]) -> str:
    comment = f" title='{_word(item['comment'])}'" if item.get("comment") else ""
    return f"<span{comment}>{_word(item.get('key'))} {_score(item)}</span>"


def _score(item: Mapping[str, Any]) -> str:
    """A number, or the `value` that LangSmith has for what is none."""
    score = item.get("score")
    score = item.get("value") if score is None else score
    return f"{score:g}" if isinstance(score, float) else _word(score)


def _said(role: str, words: str | None) -> str:
    label = f"<b>{escape(role)}</b>" if role else ""
    return f"<div class='said {escape(role)}'>{label}<p>{_cut(words or NONE)}</p></div>"


def _error(words: str) -> str:
    """LangChain sends the error and its traceback in one text."""
    line, mark, trace = words.partition(TRACEBACK)
    rest = f"<details><summary>traceback</summary><pre>{_cut(BLANK_LINES.sub(chr(10), mark + trace))}</pre></details>"
    return _said("error", line or words) + (rest if mark else "")


def _first_line(error: str) -> str:
    """What went wrong in a line; in a traceback alone that is the last."""
    line = error.partition(TRACEBACK)[0].strip() or error.strip().rpartition("\n")[2]
    line = line.partition("\n")[0]
    return line if len(line) <= SHORT else f"{line[:SHORT]} …"


def _form(filters: Mapping[str, str]) -> str:
    fields = "".join(
        f"<input name={name} placeholder={name} aria-label={name} value='{escape(filters.get(name, ''))}'>"
        for name in FILTERS
        if name != "errors"
    )
    errors = " checked" if filters.get("errors") else ""
    return (
        f"<form>{fields}<label><input type=checkbox name=errors value=1{errors}> only errors</label>"
        "<button>Filter</button> <a href='/'>all</a></form>"
    )


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return ""
    return f"<p class=error>{len(problems)} requests were refused, the last: {escape(problems[-1])}</p>"


def _nothing(filters: Mapping[str, str], url: str) -> str:
    if any(filters.values()):
        return "<p class=quiet>No trace passes these filters.</p>"
    lines = f"export LANGSMITH_TRACING=true\nexport LANGSMITH_ENDPOINT={url}\nexport LANGSMITH_API_KEY=local"
    return f"<p>No trace yet. Set these for any LangChain program and run it:</p><pre>{escape(lines)}</pre>"


def _older(path: str, filters: Mapping[str, str], after: str | None) -> str:
    if after is None:
        return ""
    query = urlencode({**{name: value for name, value in filters.items() if value}, "after": after})
    return f"<p>{_link(f'{path}?{query}', 'older')}</p>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th {_cell(name)}>{escape(name)}</th>" for name in head)
    named = [zip(head, row, strict=True) for row in rows]
    lines = ("".join(f"<td {_cell(name, words)}>{words}</td>" for name, words in row) for row in named)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>" if body else ""


def _cell(name: str, words: str = "") -> str:
    kind = ("figure none" if words == NONE else "figure") if name in FIGURES else ""
    return f"class='{kind}' data-name='{escape(name)}'"


def _layout(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)} · llmops traces</title><style>{STYLE}</style><body>"
        f"<nav><a href='/'>Traces</a> <a href='/threads'>Threads</a></nav><h1>{escape(title)}</h1>{body}</body></html>"
    )


def _link(url: str, words: str) -> str:
    return f"<a href='{escape(url)}'>{escape(words)}</a>"


def _thread_url(thread: str) -> str:
    return f"/threads/{quote(thread, safe='')}"


def _badge(state: str) -> str:
    return f"<span class='state {state}'>{state}</span>"


def _word(value: object) -> str:
    return NONE if value is None else escape(str(value))


def _number(value: int | None) -> str:
    return NONE if value is None else f"{int(value):,}"


def _joined(*facts: str) -> str:
    return " · ".join(fact for fact in facts if fact)


def _spent(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Tokens and money of all rows together; a dash where no row knows."""
    tokens, pico = (_sum(row[name] for row in rows) for name in ("total_tokens", "cost_pico"))
    return _counted(tokens, "token"), _usd(pico) if pico is not None else f"{NONE} cost"


def _sum(figures: Iterable[int | None]) -> int | None:
    known = [figure for figure in figures if figure is not None]
    return sum(known) if known else None


def _counted(number: int | None, thing: str) -> str:
    return f"{_number(number)} {thing}" + ("" if number == 1 else "s")


def _usd(pico: int | None) -> str:
    """Cents from one dollar on, three digits that matter below."""
    if pico is None:
        return NONE
    dollars = from_pico(pico)
    return "$0" if not dollars else f"${dollars:,.{2 if dollars >= 1 else max(2, 2 - dollars.adjusted())}f}"


def _took(run: Mapping[str, Any]) -> str:
    if run["started_us"] is None or run["ended_us"] is None:
        return NONE
    return f"{max(0, run['ended_us'] - run['started_us']) / 1000:,.0f} ms"


def _when(microseconds: int | None) -> str:
    if microseconds is None:
        return NONE
    return f"<time>{datetime.fromtimestamp(microseconds / 1e6, UTC):%Y-%m-%d %H:%M:%S}</time>"


def _cut(words: str) -> str:
    if len(words) <= MOST_WORDS:
        return escape(words)
    return escape(words[:MOST_WORDS]) + "<span class=quiet> … cut here; the run as JSON has it all</span>"


def _metadata(run: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping(mapping(_parsed(run["extra"])).get("metadata"))


def _parsed(words: str | None, most: int = MOST_CHARACTERS) -> Any:
    """None for what the database cut: it is no JSON any more, and is shown as it stands."""
    return None if words is None or len(words) > most else json.loads(words)
