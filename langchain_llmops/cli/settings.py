"""`llmops settings`: what can be set."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from langchain_llmops.core.settings import Settings

__all__ = ["settings"]


def settings() -> None:
    """List every LLMOPS_* variable, its default and its meaning."""
    table = Table("variable", "default", "meaning")
    for row in Settings.table():
        table.add_row(*row)
    Console().print(table)
