"""Numbered steps that bring a component's tables up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from langchain_llmops.core.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_llmops.stores.base import Dialect, Transaction

__all__ = ["run_steps"]

TYPES: Final[Mapping[Dialect, Mapping[str, str]]] = {
    "sqlite": {"BLOB": "BLOB", "JSON": "TEXT", "REAL": "REAL", "AUTOKEY": "INTEGER PRIMARY KEY AUTOINCREMENT"},
    "postgresql": {
        "BLOB": "BYTEA",
        "JSON": "JSONB",
        "REAL": "DOUBLE PRECISION",
        "AUTOKEY": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    },
}
TABLE: Final = "CREATE TABLE IF NOT EXISTS llmops_schema (component TEXT PRIMARY KEY, version INTEGER NOT NULL)"


async def run_steps(transaction: Transaction, dialect: Dialect, component: str, steps: Sequence[str]) -> int:
    """Run the steps a component has not run yet, inside a transaction that no other process holds; how many ran."""
    await transaction.execute(TABLE)
    rows = await transaction.fetch("SELECT version FROM llmops_schema WHERE component = ?", (component,))
    version = int(rows[0][0]) if rows else 0
    if version > len(steps):
        raise StoreError(
            f"the database's {component} tables are version {version}, this library knows {len(steps)}: upgrade it"
        )
    for step in steps[version:]:
        for statement in step.split(";\n"):
            await transaction.execute(statement.format_map(TYPES[dialect]).rstrip(";\n "))
    await transaction.execute(
        "INSERT INTO llmops_schema (component, version) VALUES (?, ?)"
        " ON CONFLICT (component) DO UPDATE SET version = excluded.version",
        (component, len(steps)),
    )
    return len(steps) - version
