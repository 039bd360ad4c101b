"""A report that a person, a notebook and a program can read."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Report", "counted", "printable"]

WIDTH = 100
UNROUTED = "direct"


@dataclass(frozen=True)
class _Section:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Report:
    """Figures of a stretch of traffic. `print(report)`, show it in a notebook, or take `as_dict()`.

    What was not in use (routes, cache, a baseline …) has its keys in `as_dict()` and no place in what is shown.

    Money is US dollars, latencies are seconds. `cost_usd` is the sum over answered calls; what failed attempts may have
    cost is `failed_attempts.cost_usd`, apart from it. `baseline_cost_usd` prices the same answers on `baseline_model`
    without a cache: a statement of price, not of quality. Calls without a price are on neither side of it; where the
    baseline model has none, `baseline_cost_usd`, `saved_usd` and `saved_pct` are None and `saving_note` says why.
    """

    figures: Mapping[str, Any] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        return dict(self.figures)

    def __str__(self) -> str:
        out = StringIO()
        console = Console(file=out, width=WIDTH, no_color=True, highlight=False)
        for section in self._sections():
            headed = any(section.columns)
            style = box.SIMPLE_HEAD if headed else None
            table = Table(title=section.title, title_justify="left", title_style="bold", box=style, show_header=headed)
            for index, column in enumerate(section.columns):
                table.add_column(column, justify="left" if index == 0 else "right")
            for row in section.rows:
                table.add_row(*(Text(printable(cell)) for cell in row))
            console.print(table)
            console.print()
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).rstrip("\n") + "\n"

    def _repr_html_(self) -> str:
        return '<div class="llmops-report">' + "".join(_html(section) for section in self._sections()) + "</div>"

    def page(self, title: str = "llmops report") -> str:
        """A whole HTML page with the report."""
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
            f"<body><h1>{escape(title)}</h1>{self._repr_html_()}</body></html>"
        )

    def _sections(self) -> list[_Section]:
        shown = (_summary, _routes, _cache, _latency, _errors, _checkpoints, _lifecycle, _conversations, _replay)
        return [section for section in (show(self.figures) for show in shown) if section.rows]


STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.05rem;margin:1.6rem 0 .4rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #e3e3e3}
th:first-child,td:first-child{text-align:left}th{font-weight:600;color:#555}
"""


def _html(section: _Section) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in section.columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in section.rows)
    return f"<h2>{escape(section.title)}</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _summary(f: Mapping[str, Any]) -> _Section:
    tokens = f["tokens"]
    rows = [
        ("conversations", f"{f['conversations']:,}"),
        ("turns", f"{f['turns']:,}" + (f" (and {f['failed_turns']:,} that failed)" if f["failed_turns"] else "")),
        ("model calls", f"{f['model_calls']:,}"),
        ("tool calls", f"{f['tool_calls']:,}"),
        ("tokens in / out", f"{tokens['input']:,} / {tokens['output']:,}"),
        *([] if _is_routed(f) else _models(f)),
        ("cost", _usd(f["cost_usd"])),
        *(_saving(f) if _may_save(f) else []),
    ]
    if f["failed_attempts"]["count"]:
        failed = f["failed_attempts"]
        rows.append(
            ("failed attempts, apart from the cost above", f"{failed['count']:,}, at most {_usd(failed['cost_usd'])}")
        )
    if f["unpriced_calls"]:
        rows.append(("calls of models without a price (not in the cost)", f"{f['unpriced_calls']:,}"))
    if f["estimated_calls"]:
        rows.append(("calls whose tokens are our estimate", f"{f['estimated_calls']:,}"))
    return _Section("Traffic and money", ("", ""), rows)


def _is_routed(f: Mapping[str, Any]) -> bool:
    return any(name != UNROUTED for name in f["routes"])


def _may_save(f: Mapping[str, Any]) -> bool:
    """Whether there is a router, a cache hit or a baseline to save by, or a loss by calls that were asked again."""
    return _is_routed(f) or bool(f["baseline_model"] or f["cache"]["hits"] or f["saved_usd"])


def _models(f: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = [name for route in f["routes"].values() for name in route["models"]]
    return [("models", ", ".join(names))] if names else []


def _saving(f: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (
            f"the same without the suite (all on {f['baseline_model'] or 'their own model'}, no cache)",
            "not known" if f["baseline_cost_usd"] is None else _usd(f["baseline_cost_usd"]),
        ),
        ("saved", "not known" if f["saved_usd"] is None else f"{_usd(f['saved_usd'])} ({f['saved_pct']:.1f} %)"),
    ]
    return rows + ([(f["saving_note"], "")] if f.get("saving_note") else [])


def _routes(f: Mapping[str, Any]) -> _Section:
    rows = [
        (
            name,
            ", ".join(route["models"]),
            f"{route['calls']:,}",
            f"{route['hits']:,}",
            f"{route['misses']:,}",
            _usd(route["cost_usd"]),
        )
        for name, route in sorted(f["routes"].items())
        if _is_routed(f)
    ]
    return _Section("Model calls by route", ("route", "models", "calls", "cache hits", "misses", "cost"), rows)


def _cache(f: Mapping[str, Any]) -> _Section:
    cache = f["cache"]
    if not (cache["hits"] or cache.get("in_use")):
        return _Section("Cache", ("", ""), [])
    process, saved = cache.get("process") or {}, cache.get("saved_usd_by_level") or {}
    told = {level: f" (saved {_usd(usd)})" for level, usd in saved.items()}
    levels = sorted({*_levels(process), *cache["by_level"]})
    rows = [(f"hits in {level}", f"{cache['by_level'].get(level, 0):,}{told.get(level, '')}") for level in levels]
    rows += [
        ("misses", f"{cache['misses']:,}"),
        ("hit rate", f"{100 * cache['hit_rate']:.1f} %"),
        ("saved by hits", _usd(cache["saved_usd"])),
        *_in_process(process),
    ]
    return _Section("Cache", ("", ""), rows)


def _levels(process: Mapping[str, int]) -> list[str]:
    """Those of the cache that is in use, with and without hits."""
    below = [name.partition(":")[2] for name in process if name.startswith("written_bytes:")]
    return ["L1", *below] if process else []


def _in_process(process: Mapping[str, int]) -> list[tuple[str, str]]:
    """What no record tells: the counts of this process, since it began."""
    counts = {
        "hits that waited for another's call": process.get("coalesced", 0),
        "hits past their time": process.get("stale", 0),
    }
    rows = [(name, f"{count:,}") for name, count in counts.items() if count]
    lost = sum(count for name, count in process.items() if name.startswith("invalidated:"))
    found = lost + sum(count for name, count in process.items() if name.startswith("hit:"))
    return rows + ([("invalidated, of answers found", f"{lost:,} ({100 * lost / found:.1f} %)")] if lost else [])


def _latency(f: Mapping[str, Any]) -> _Section:
    kinds = ("model", "embedding", "tool", "turn")
    found = {kind: f["latency"][kind] for kind in kinds if f["latency"][kind]["p50"] is not None}
    rows = [(kind, *(_ms(quantiles[q]) for q in ("p50", "p95", "p99"))) for kind, quantiles in found.items()]
    return _Section("Latency, ms", ("component", "p50", "p95", "p99"), rows)


def _errors(f: Mapping[str, Any]) -> _Section:
    keys = ("model_attempts", "tool_calls", "retried", "fell_back", "failed_turns")
    rows = [
        (kind, *(f"{error[key]:,}" for key in keys), _usd(error["cost_usd"]))
        for kind, error in sorted(f["errors"].items())
    ]
    columns = ("error", "model attempts", "tool calls", "retried", "fell back", "failed turns", "may have cost")
    return _Section("Errors and what was done about them", columns, rows)


def _checkpoints(f: Mapping[str, Any]) -> _Section:
    checkpoints = f.get("checkpoints") or {}
    rows = [("count", f"{checkpoints['count']:,}")] if checkpoints.get("count") else []
    rows += [(f"bytes {tier}", f"{size:,}") for tier, size in checkpoints.get("bytes", {}).items() if rows]
    return _Section("Checkpoints", ("", ""), rows)


def _lifecycle(f: Mapping[str, Any]) -> _Section:
    """What a demo did with its conversations, step by step; mixed ones are warm with a cold history."""
    tiers = ("warm", "mixed", "cold")
    rows = [
        (
            step["step"],
            *(f"{step[tier]:,}" for tier in tiers),
            *(f"{step['bytes'][tier]:,}" for tier in ("hot", "warm", "cold")),
        )
        for step in f.get("lifecycle") or []
    ]
    columns = ("", "warm", "with cold history", "cold", "bytes hot", "bytes warm", "bytes cold")
    return _Section("Conversations by tier", columns, rows)


def _conversations(f: Mapping[str, Any]) -> _Section:
    slow = [
        ("slowest", row["session"], f"{row['seconds']:.3f} s in {counted(row['turns'], 'turn', 'turns')}")
        for row in f["slowest"]
    ]
    dear = [
        ("dearest", row["session"], f"{_usd(row['cost_usd'])} in {counted(row['model_calls'], 'call', 'calls')}")
        for row in f["dearest"]
    ]
    return _Section("Slowest and dearest conversations", ("", "session", ""), slow + dear)


def _replay(f: Mapping[str, Any]) -> _Section:
    rows = [(name.replace("_", " "), f"{count:,}") for name, count in (f.get("replay") or {}).items()]
    return _Section("Replay", ("", ""), rows)


def printable(text: str) -> str:
    """Names come from users and providers: what steers a terminal is shown, not obeyed."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def counted(number: int, one: str, many: str) -> str:
    """1 call, 2,000 calls."""
    return f"{number:,} {one if number == 1 else many}"


def _usd(amount: float) -> str:
    """Four decimals from a dollar on, six below, and more where the first three digits that matter need them."""
    if abs(amount) >= 1:
        return f"${amount:,.4f}"
    exact = Decimal(str(amount))
    return f"${exact:.{max(6, 2 - exact.adjusted())}f}" if exact else "$0"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f}"
