"""The recorder's tables, and how what arrives in any order becomes one row."""

from __future__ import annotations

from typing import Final

__all__ = [
    "COLUMNS",
    "INSERT_PROJECT",
    "LARGE",
    "MIGRATIONS",
    "UPSERT_FEEDBACK",
    "UPSERT_RUN",
    "UPSERT_TRACE",
]

LARGE: Final = ("inputs", "outputs", "events", "extra", "serialized")
COLUMNS: Final = (
    "id", "trace_id", "parent_run_id", "dotted_order", "project", "name", "run_type", "started_us", "ended_us",
    "error", "user_id", "session_id", "thread_id", "input_tokens", "output_tokens", "total_tokens", "cost_pico",
    "tags", *LARGE, "attachments", "other", "patched",
)  # fmt: skip

# Times are integer microseconds since 1970, money is in integer pico-dollars; what is nested is JSON text.
MIGRATIONS: Final = (
    """CREATE TABLE llmops_recorder_runs (
        id TEXT PRIMARY KEY, trace_id TEXT, parent_run_id TEXT, dotted_order TEXT, project TEXT, name TEXT,
        run_type TEXT, started_us BIGINT, ended_us BIGINT, error TEXT, user_id TEXT, session_id TEXT, thread_id TEXT,
        input_tokens BIGINT, output_tokens BIGINT, total_tokens BIGINT, cost_pico BIGINT, tags TEXT, inputs TEXT,
        outputs TEXT, events TEXT, extra TEXT, serialized TEXT, attachments TEXT, other TEXT, patched INTEGER NOT NULL
    );
    CREATE INDEX llmops_recorder_runs_trace ON llmops_recorder_runs (trace_id);
    CREATE INDEX llmops_recorder_runs_started ON llmops_recorder_runs (started_us, id);
    CREATE TABLE llmops_recorder_traces (
        id TEXT PRIMARY KEY, started_us BIGINT NOT NULL, project TEXT, user_id TEXT, thread TEXT,
        rooted INTEGER NOT NULL
    );
    CREATE INDEX llmops_recorder_traces_started ON llmops_recorder_traces (started_us, id);
    CREATE INDEX llmops_recorder_traces_thread ON llmops_recorder_traces (thread, started_us);
    CREATE TABLE llmops_recorder_projects (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_us BIGINT NOT NULL
    );
    CREATE TABLE llmops_recorder_feedback (
        id TEXT PRIMARY KEY, run_id TEXT, trace_id TEXT, key TEXT NOT NULL, created_us BIGINT NOT NULL,
        body TEXT NOT NULL
    );
    CREATE INDEX llmops_recorder_feedback_run ON llmops_recorder_feedback (run_id);
    CREATE INDEX llmops_recorder_feedback_trace ON llmops_recorder_feedback (trace_id)""",
)


def _insert(table: str, columns: tuple[str, ...]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def _upsert(table: str, columns: tuple[str, ...], rank: str) -> str:
    """The later word counts, one of higher rank counts more, and silence never erases."""
    merged = (
        f"{column} = CASE WHEN excluded.{rank} >= {table}.{rank} THEN COALESCE(excluded.{column}, {table}.{column})"
        f" ELSE COALESCE({table}.{column}, excluded.{column}) END"
        for column in columns[1:]
    )
    return f"{_insert(table, columns)} ON CONFLICT (id) DO UPDATE SET {', '.join(merged)}"


UPSERT_RUN: Final = _upsert("llmops_recorder_runs", COLUMNS, "patched")
UPSERT_TRACE: Final = _upsert(
    "llmops_recorder_traces", ("id", "started_us", "project", "user_id", "thread", "rooted"), "rooted"
)
INSERT_PROJECT: Final = (
    _insert("llmops_recorder_projects", ("id", "name", "created_us")) + " ON CONFLICT (id) DO NOTHING"
)
UPSERT_FEEDBACK: Final = (
    _insert("llmops_recorder_feedback", ("id", "run_id", "trace_id", "key", "created_us", "body"))
    + " ON CONFLICT (id) DO UPDATE SET body = excluded.body, key = excluded.key"
)
