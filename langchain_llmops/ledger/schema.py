"""The ledger's tables, and a record as a row."""

from __future__ import annotations

import json
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.core.events import FellBack, Retried
from langchain_llmops.core.types import Usage

if TYPE_CHECKING:
    from langchain_llmops.core.types import CallRecord, Money

__all__ = [
    "INSERT_CALL",
    "INSERT_EVENT",
    "MIGRATIONS",
    "call_row",
    "event_row",
    "from_pico",
    "to_pico",
    "usage_from_text",
]

PICO: Final = Decimal(10) ** 12

CALL_COLUMNS: Final = (
    "run_id", "trace_id", "parent_run_id", "kind", "name", "tenant", "user_id", "session_id", "request_id", "provider",
    "model", "started_at", "latency_s", "ttft_s", "streamed", "input_tokens", "output_tokens", "cache_read_tokens",
    "cache_write_tokens", "reasoning_tokens", "estimated", "input_pico", "output_pico", "fee_pico", "unpriced",
    "saved_usage", "saved_pico", "cache_level", "route", "rung", "attempt", "finish_reason", "error_kind",
    "error_class", "prompt_hash", "tags", "experiment", "arm", "outcome", "content_ref", "content", "version",
    "cache_write_1h_tokens", "audio_input_tokens", "audio_output_tokens", "cache_read_pico", "cache_write_pico",
    "inter_token_s", "retries", "node", "service_tier", "clamped",
)  # fmt: skip

# Money is in integer pico-dollars (1e-12 USD): exact for every published price per token.
MIGRATIONS: Final = (
    """CREATE TABLE llmops_calls (
        id {AUTOKEY}, run_id TEXT NOT NULL, trace_id TEXT NOT NULL, parent_run_id TEXT, kind TEXT NOT NULL, name TEXT,
        tenant TEXT, user_id TEXT, session_id TEXT, request_id TEXT, provider TEXT, model TEXT,
        started_at {REAL} NOT NULL, latency_s {REAL} NOT NULL, ttft_s {REAL}, streamed INTEGER NOT NULL,
        input_tokens BIGINT NOT NULL, output_tokens BIGINT NOT NULL, cache_read_tokens BIGINT NOT NULL,
        cache_write_tokens BIGINT NOT NULL, reasoning_tokens BIGINT NOT NULL, estimated INTEGER NOT NULL,
        input_pico BIGINT, output_pico BIGINT, fee_pico BIGINT, unpriced INTEGER NOT NULL, saved_usage TEXT,
        saved_pico BIGINT, cache_level TEXT, route TEXT, rung INTEGER, attempt INTEGER, finish_reason TEXT,
        error_kind TEXT, error_class TEXT, prompt_hash TEXT, tags TEXT NOT NULL, experiment TEXT, arm TEXT,
        outcome TEXT, content_ref TEXT, content TEXT, version INTEGER NOT NULL
    );
    CREATE INDEX llmops_calls_started ON llmops_calls (started_at);
    CREATE INDEX llmops_calls_session ON llmops_calls (session_id, started_at);
    CREATE INDEX llmops_calls_user ON llmops_calls (user_id, started_at);
    CREATE INDEX llmops_calls_trace ON llmops_calls (trace_id);
    CREATE TABLE llmops_events (
        id {AUTOKEY}, at {REAL} NOT NULL, event TEXT NOT NULL, error_kind TEXT, model TEXT, to_model TEXT,
        user_id TEXT, session_id TEXT
    );
    CREATE INDEX llmops_events_at ON llmops_events (at)""",
    """ALTER TABLE llmops_calls ADD COLUMN cache_write_1h_tokens BIGINT NOT NULL DEFAULT 0;
    ALTER TABLE llmops_calls ADD COLUMN audio_input_tokens BIGINT NOT NULL DEFAULT 0;
    ALTER TABLE llmops_calls ADD COLUMN audio_output_tokens BIGINT NOT NULL DEFAULT 0;
    ALTER TABLE llmops_calls ADD COLUMN cache_read_pico BIGINT;
    ALTER TABLE llmops_calls ADD COLUMN cache_write_pico BIGINT;
    ALTER TABLE llmops_calls ADD COLUMN inter_token_s {REAL};
    ALTER TABLE llmops_calls ADD COLUMN retries INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE llmops_calls ADD COLUMN node TEXT;
    ALTER TABLE llmops_calls ADD COLUMN service_tier TEXT;
    ALTER TABLE llmops_calls ADD COLUMN clamped INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX llmops_calls_request ON llmops_calls (request_id);
    CREATE INDEX llmops_calls_run ON llmops_calls (run_id);
    CREATE TABLE llmops_feedback (
        id {AUTOKEY}, at {REAL} NOT NULL, tenant TEXT, run_id TEXT NOT NULL, key TEXT NOT NULL, score {REAL},
        comment TEXT
    );
    CREATE INDEX llmops_feedback_run ON llmops_feedback (run_id);
    CREATE TABLE llmops_outcomes (
        id {AUTOKEY}, at {REAL} NOT NULL, tenant TEXT, session_id TEXT NOT NULL, ok INTEGER NOT NULL, comment TEXT
    );
    CREATE INDEX llmops_outcomes_session ON llmops_outcomes (session_id)""",
)

INSERT_CALL: Final = (
    f"INSERT INTO llmops_calls ({', '.join(CALL_COLUMNS)}) VALUES ({', '.join('?' * len(CALL_COLUMNS))})"  # noqa: S608
)
INSERT_EVENT: Final = (
    "INSERT INTO llmops_events (at, event, error_kind, model, to_model, user_id, session_id)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)


def to_pico(dollars: Decimal) -> int:
    """Dollars as integer pico-dollars, rounded half to even."""
    return int((dollars * PICO).to_integral_value())


def from_pico(pico: int | None) -> Decimal:
    """Pico-dollars as dollars; None is zero."""
    return Decimal(int(pico or 0)) / PICO


def call_row(record: CallRecord) -> tuple[Any, ...]:
    """The values of `CALL_COLUMNS`; what a database refuses in text (NUL, lone surrogates) is replaced."""
    usage, who, money = record.usage, record.identity, record.money
    values = (
        record.run_id, record.trace_id, record.parent_run_id, record.kind, record.name, who.tenant, who.user,
        who.session, who.request, record.provider, record.model, record.started_at, record.latency_s, record.ttft_s,
        int(record.streamed), usage.input_tokens, usage.output_tokens, usage.cache_read_tokens,
        usage.cache_write_tokens, usage.reasoning_tokens, int(record.estimated),
        _pico(money, "input_usd"), _pico(money, "output_usd"), _pico(money, "fee_usd"), int(record.unpriced),
        _usage_text(record.saved),
        None if record.saved_usd is None else to_pico(record.saved_usd), record.cache_level, record.route, record.rung,
        record.attempt, record.finish_reason, record.error_kind, record.error_class, record.prompt_hash,
        json.dumps(record.tags), record.experiment, record.arm, record.outcome, record.content_ref, record.content,
        record.version, usage.cache_write_1h_tokens, usage.audio_input_tokens, usage.audio_output_tokens,
        _pico(money, "cache_read_usd"), _pico(money, "cache_write_usd"), record.inter_token_s, record.retries,
        record.node, record.service_tier, int(record.clamped),
    )  # fmt: skip
    return tuple(_storable(value) for value in values)


def event_row(event: Retried | FellBack, at: float) -> tuple[Any, ...]:
    """The values of `INSERT_EVENT`."""
    who = event.identity
    user, session = (who.user, who.session) if who is not None else (None, None)
    if isinstance(event, Retried):
        return at, "retried", str(event.error_kind), event.model, None, user, session
    return at, "fell_back", str(event.error_kind), event.from_model, event.to_model, user, session


def usage_from_text(text: str | None) -> Usage | None:
    """The usage that `call_row` wrote."""
    return None if text is None else Usage(**json.loads(text))


def _storable(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return str(value).replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _usage_text(usage: Usage | None) -> str | None:
    return None if usage is None else json.dumps({name: count for name, count in asdict(usage).items() if count})


def _pico(money: Money | None, part: str) -> int | None:
    return None if money is None else to_pico(getattr(money, part))
