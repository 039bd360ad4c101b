"""One answer in three forms: tables for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import json
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from langchain_llmops.ledger.report import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Column", "Form", "Sheet", "clock", "count", "emit", "seconds", "text", "usd", "utc"]

Form = Literal["table", "json", "csv"]
PIPED_WIDTH = 200
CENT, DOLLAR, THOUSAND = Decimal("0.01"), 1, 1000


def text(value: Any) -> str:
    """Text from outside, as it is; a dash for none."""
    return "-" if value is None else str(value)


def count(value: float | None) -> str:
    """12345 as 12,345."""
    return "-" if value is None else f"{value:,}"


def usd(value: Decimal | float | None) -> str:
    """Dollars with the digits that matter: all from a thousand on, cents from one on, three digits below."""
    if value is None:
        return "-"
    amount = Decimal(str(value))
    if abs(amount) >= DOLLAR:
        return f"${amount:,.0f}" if abs(amount) >= THOUSAND else f"${amount:,.2f}"
    if not amount:
        return "$0"
    places = max(2, 2 - amount.adjusted())
    return f"${amount:,.{places}f}"


def seconds(value: float | None) -> str:
    """Milliseconds below a second."""
    if value is None:
        return "-"
    if value < 1:
        return f"{1000 * value:.1f} ms" if value < CENT else f"{1000 * value:.0f} ms"
    return f"{value:,.2f} s"


def clock(iso: str | None) -> str:
    """What `utc` wrote, to the second and without the year."""
    return "-" if iso is None else iso[5:19].replace("T", " ")


def utc(at: float) -> str:
    """Unix seconds as ISO 8601."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Column:
    """How a field looks in a table, or a whole row when `of_row`; numbers are flush right and never folded.

    With `lines`, text keeps its lines; elsewhere, a line break would let a name look like a row.
    """

    heading: str
    show: Callable[[Any], str] = text
    of_row: bool = False
    number: bool | None = None
    lines: bool = False

    @property
    def is_number(self) -> bool:
        """Whether it counts, costs or takes time: what has a form of its own does, unless `number` says otherwise."""
        return self.number if self.number is not None else not self.of_row and self.show not in (text, clock)


@dataclass(frozen=True)
class Sheet:
    """Rows by field name. A table shows `columns`; JSON and CSV have every field, under `name`.

    `fields` heads a CSV without rows; `columns` are all there are when it is empty.
    """

    name: str
    title: str
    columns: Mapping[str, Column]
    rows: Sequence[Mapping[str, Any]]
    fields: Sequence[str] = ()


def emit(form: Form, sheets: Sequence[Sheet], *, facts: Mapping[str, Any] | None = None, notes: Sequence[str]) -> None:
    """Print to stdout. `facts` are for JSON only, `notes` for people only; CSV has the first sheet."""
    if form == "json":
        found = {**(facts or {}), **{sheet.name: list(sheet.rows) for sheet in sheets}}
        sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False, default=_plain) + "\n")
    elif form == "csv":
        _write_csv(sheets[0])
    else:
        _print(sheets, notes)


def _write_csv(sheet: Sheet) -> None:
    names = list(sheet.rows[0]) if sheet.rows else list(sheet.fields or sheet.columns)
    out = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    out.writeheader()
    out.writerows({name: _cell(value) for name, value in row.items()} for row in sheet.rows)


def _print(sheets: Sequence[Sheet], notes: Sequence[str]) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and os.environ.get("COLUMNS") is None:
        console = Console(highlight=False, markup=False, emoji=False, width=PIPED_WIDTH)  # ids stay whole for grep
    for sheet in sheets:
        if sheet.rows:
            console.print(_table(sheet))
            console.print()
    for note in notes:
        console.print(printable(note))


def _table(sheet: Sheet) -> Table:
    table = Table(
        title=Text(printable(sheet.title), "bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for column in sheet.columns.values():
        table.add_column(
            column.heading,
            justify="right" if column.is_number else "left",
            overflow="fold",
            no_wrap=column.is_number or column.show is clock,
        )
    for row in sheet.rows:
        table.add_row(*(_shown(column, row, name) for name, column in sheet.columns.items()))
    return table


def _shown(column: Column, row: Mapping[str, Any], name: str) -> Text:
    words = column.show(row if column.of_row else row[name])
    lines = words.splitlines() if column.lines else [words]
    return Text("\n".join(map(printable, lines)))


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _cell(value: Any) -> Any:
    """Money as digits, never as an exponent."""
    return f"{value:f}" if isinstance(value, Decimal) else value
