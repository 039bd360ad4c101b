"""The ledger's tables, and a record as a row."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.core.events import Retried
from langchain_llmops.core.types import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_llmops.core.events import FellBack
    from langchain_llmops.core.types import CallRecord, Money

__all__ = [
    "CALL_COLUMNS",
    "EVENT_COLUMNS",
    "MAX_FLOAT",
    "MIGRATIONS",
    "call_row",
    "event_row",
    "from_pico",
    "mended",
    "storable",
    "to_pico",
    "usage_from_text",
]

PICO: Final = Decimal(10) ** 12

# Three parts by how often they say something, as a NULL costs more than a number to bind; the names of each come first
ALWAYS: Final = (
    "run_id", "trace_id", "parent_run_id", "kind", "name", "tenant", "user_id", "session_id", "request_id", "node",
    "started_at", "latency_s", "streamed", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens",
    "cache_write_1h_tokens", "reasoning_tokens", "audio_input_tokens", "audio_output_tokens", "estimated", "clamped",
    "unpriced", "retries", "version", "tags",
)  # fmt: skip
OF_MODELS: Final = (
    "provider", "model", "route", "finish_reason", "prompt_hash", "ttft_s", "inter_token_s", "input_pico",
    "output_pico", "fee_pico", "cache_read_pico", "cache_write_pico", "rung", "attempt",
)  # fmt: skip
SELDOM: Final = (
    "cache_level", "error_kind", "error_class", "experiment", "arm", "outcome", "service_tier", "saved_usage",
    "saved_pico", "content_ref", "content",
)  # fmt: skip
CALL_COLUMNS: Final = ALWAYS + OF_MODELS + SELDOM
EVENT_COLUMNS: Final = ("at", "event", "error_kind", "model", "to_model", "tenant", "user_id", "session_id")
SMALL_INTEGERS: Final = frozenset(
    ("streamed", "estimated", "clamped", "unpriced", "retries", "version", "rung", "attempt")
)
LONG_TEXTS: Final = frozenset(("content", "content_ref", "saved_usage", "tags", "comment"))
MAX_NAME: Final = 512
MAX_SMALL: Final = 2**31 - 1
MAX_INTEGER: Final = 2**63 - 1
MAX_FLOAT: Final = sys.float_info.max
PLAIN_TOTAL: Final = 2**40

_NAMES: Final = slice(ALWAYS.index("started_at"))
_NUMBERS: Final = slice(ALWAYS.index("started_at"), ALWAYS.index("tags"))
_MODEL_NAMES: Final = slice(OF_MODELS.index("ttft_s"))
_SELDOM_NAMES: Final = slice(SELDOM.index("saved_usage"))
_NO_MODEL: Final = (None,) * len(OF_MODELS)
_NOTHING_SELDOM: Final = (None,) * len(SELDOM)
_NO_MONEY: Final = (None,) * 5

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
    ALTER TABLE llmops_events ADD COLUMN tenant TEXT;
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


def to_pico(dollars: Decimal) -> int:
    """Dollars as integer pico-dollars, rounded half to even."""
    return round(dollars * PICO)


def from_pico(pico: int | None) -> Decimal:
    """Pico-dollars as dollars; None is zero."""
    return Decimal(int(pico or 0)) / PICO


def call_row(record: CallRecord) -> tuple[Any, ...]:
    """The values of the first of `CALL_COLUMNS`, fit to store (`storable`); what follows is NULL."""
    usage, who = record.usage, record.identity
    always: tuple[Any, ...] = (
        record.run_id, record.trace_id, record.parent_run_id, record.kind, record.name, who.tenant, who.user,
        who.session, who.request, record.node, record.started_at, record.latency_s, 1 if record.streamed else 0,
        usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens,
        usage.cache_write_1h_tokens, usage.reasoning_tokens, usage.audio_input_tokens, usage.audio_output_tokens,
        1 if record.estimated else 0, 1 if record.clamped else 0, 1 if record.unpriced else 0, record.retries,
        record.version, _tags_text(record.tags),
    )  # fmt: skip
    of_models: tuple[Any, ...] = (
        record.provider, record.model, record.route, record.finish_reason, record.prompt_hash, record.ttft_s,
        record.inter_token_s, *_picos(record.money), record.rung, record.attempt,
    )  # fmt: skip
    seldom: tuple[Any, ...] = (
        record.cache_level, record.error_kind, record.error_class, record.experiment, record.arm, record.outcome,
        record.service_tier, record.saved, record.saved_usd, record.content_ref, record.content,
    )  # fmt: skip
    names = always[_NAMES] + of_models[_MODEL_NAMES]
    row = always
    if seldom != _NOTHING_SELDOM:
        names += seldom[_SELDOM_NAMES]
        row += of_models + _written(seldom)
    elif of_models != _NO_MODEL:
        row += of_models
    if _are_plain(names) and _is_plain(record.content) and -PLAIN_TOTAL < sum(always[_NUMBERS]) < PLAIN_TOTAL:
        return row
    return mended(CALL_COLUMNS, row)


def event_row(event: Retried | FellBack, at: float) -> tuple[Any, ...]:
    """The values of `EVENT_COLUMNS`."""
    who = event.identity
    named = (None, None, None) if who is None else (who.tenant, who.user, who.session)
    what, models = (
        ("retried", (event.model, None))
        if isinstance(event, Retried)
        else ("fell_back", (event.from_model, event.to_model))
    )
    row = (at, what, event.error_kind, *models, *named)
    return mended(EVENT_COLUMNS, row)


def mended(columns: Sequence[str], row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row with every value as `storable` says."""
    return tuple(map(storable, columns, row))


def storable(column: str, value: Any) -> Any:
    """A value as every database takes it.

    Text loses NUL, halves of surrogate pairs and, except for content, tags and comments, what goes beyond
    `MAX_NAME` characters (PostgreSQL indexes no more than 2,700 bytes). Numbers are brought into the column's range.
    """
    if isinstance(value, str):
        text = str.__str__(value).replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
        return text if column in LONG_TEXTS else text[:MAX_NAME]
    if isinstance(value, float):
        return min(max(value, -MAX_FLOAT), MAX_FLOAT) if value == value else 0.0  # noqa: PLR0124 - not a number
    if isinstance(value, int):
        limit = MAX_SMALL if column in SMALL_INTEGERS else MAX_INTEGER
        return min(max(int(value), -limit), limit)
    return value


def usage_from_text(text: str | None) -> Usage | None:
    """The usage that `call_row` wrote."""
    return None if text is None else Usage(**json.loads(text))


def _are_plain(names: tuple[str | None, ...]) -> bool:
    """Whether names need no mending, asked of all at once: that is ten times cheaper than one by one."""
    try:
        text = "".join(filter(None, names))
    except TypeError:  # one of them is no text
        return False
    return len(text) <= MAX_NAME and _is_plain(text)


def _is_plain(text: str | None) -> bool:
    return text is None or (text.isascii() and "\x00" not in text)


def _written(seldom: tuple[Any, ...]) -> tuple[Any, ...]:
    *names, saved, saved_usd, content_ref, content = seldom
    usage = None if saved is None else _usage_text(saved)
    pico = None if saved_usd is None else to_pico(saved_usd)
    return (*(None if name is None else str(name) for name in names), usage, pico, content_ref, content)


@lru_cache(maxsize=1024)
def _tags_text(tags: tuple[str, ...]) -> str:
    return json.dumps(tags)


def _usage_text(usage: Usage) -> str:
    return json.dumps({name: count for name, count in asdict(usage).items() if count})


def _picos(money: Money | None) -> tuple[int | None, ...]:
    """Input, output, fee, cache read and cache write."""
    if money is None:
        return _NO_MONEY
    parts = (money.input_usd, money.output_usd, money.fee_usd, money.cache_read_usd, money.cache_write_usd)
    return tuple([to_pico(part) if part else 0 for part in parts])
