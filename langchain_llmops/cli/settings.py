"""`llmops settings`: what can be set."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from langchain_llmops.core.settings import Settings

__all__ = ["settings"]


def settings() -> None:
    """List every LLMOPS_* variable, its default and its meaning."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("variable", no_wrap=True)
    table.add_column("default", overflow="fold")
    table.add_column("meaning", overflow="fold")
    for row in Settings.table():
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
