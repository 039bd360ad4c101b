"""A run as LangSmith's clients send it, as a row of ours, and as they read it back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5

from langchain_llmops.core.pricing import PriceBook
from langchain_llmops.core.types import Unpriced
from langchain_llmops.core.usage import usage_of
from langchain_llmops.ledger.schema import from_pico, to_pico
from langchain_llmops.recorder.schema import COLUMNS, LARGE
from langchain_llmops.recorder.wire import RefusedRequestError

__all__ = [
    "RunRow",
    "as_document",
    "feedback_row",
    "iso",
    "mapping",
    "microseconds",
    "project_id",
    "run_row",
    "run_uuid",
    "status",
    "text",
]

RunRow = dict[str, Any]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MOST_DOLLARS: Final = 1_000_000
MOST_TOKENS: Final = 10**15
DEFAULT_PROJECT: Final = "default"
# what becomes a column under another name, or is worked out from the others when read
TAKEN: Final = frozenset((*COLUMNS, "session_name", "session_id", "start_time", "end_time"))


def run_row(kind: str, fields: Mapping[str, Any], attachments: Mapping[str, Any] | None = None) -> RunRow:
    """Columns of one `post` or `patch`; raises `RefusedRequestError` where id or times cannot be read."""
    run_id = run_uuid(fields.get("id"), "a run's id")
    where = f"run {run_id}"
    metadata = mapping(mapping(fields.get("extra")).get("metadata"))
    usage = mapping(metadata.get("usage_metadata")) or mapping(mapping(fields.get("outputs")).get("usage_metadata"))
    other = {name: value for name, value in fields.items() if name not in TAKEN and value is not None}
    row: RunRow = dict.fromkeys(COLUMNS)
    row |= {name: _json(fields.get(name)) for name in (*LARGE, "tags")}
    row |= {name: text(fields.get(name)) for name in ("name", "run_type", "dotted_order", "error")}
    row |= {name: text(metadata.get(name)) for name in ("user_id", "session_id")}
    row |= {f"{name}_tokens": _count(usage.get(f"{name}_tokens")) for name in ("input", "output", "total")}
    row |= {name: _optional_uuid(fields.get(name), where) for name in ("parent_run_id", "trace_id")}
    row["started_us"] = microseconds(fields.get("start_time"), where)
    row["ended_us"] = microseconds(fields.get("end_time"), where)
    if kind == "post" and row["parent_run_id"] is None:
        row["trace_id"] = row["trace_id"] or run_id  # LangSmith's first clients sent none with the root of a trace
    row["id"], row["patched"] = run_id, int(kind == "patch")
    row["project"] = text(fields.get("session_name")) or (DEFAULT_PROJECT if kind == "post" else None)
    row["thread_id"] = text(metadata.get("thread_id")) or text(metadata.get("conversation_id"))
    told = usage.get("total_cost")
    row["cost_pico"] = _list_price(metadata, usage, row["started_us"]) if told is None else _pico(told)
    row["attachments"], row["other"] = _json(attachments or None), _json(other or None)
    return row


def feedback_row(fields: Mapping[str, Any], now_us: int) -> tuple[Any, ...]:
    """The values of `UPSERT_FEEDBACK`."""
    feedback_id = run_uuid(fields.get("id"), "a feedback's id")
    where = f"feedback {feedback_id}"
    key, created = text(fields.get("key")), microseconds(fields.get("created_at"), where)
    if key is None:
        raise RefusedRequestError(422, f"{where} has no key")
    of = {name: _optional_uuid(fields.get(name), where) for name in ("run_id", "trace_id")}
    body = _json({**fields, "id": feedback_id, **of})
    return feedback_id, *of.values(), key, now_us if created is None else created, body


def as_document(row: RunRow) -> dict[str, Any]:
    """A run in the fields of LangSmith's API; tokens and cost are the run's own, not its children's."""
    document: dict[str, Any] = {**(_parsed(row["other"]) or {}), **{name: _parsed(row[name]) for name in LARGE}}
    document |= {name: row[name] for name in ("id", "trace_id", "parent_run_id", "name", "run_type", "error")}
    segments = (row["dotted_order"] or "").split(".")[:-1]
    return document | {
        "dotted_order": row["dotted_order"] or "",
        "parent_run_ids": [segment.partition("Z")[2] for segment in segments],
        "session_id": project_id(row["project"] or DEFAULT_PROJECT),
        "session_name": row["project"] or DEFAULT_PROJECT,
        "start_time": iso(row["started_us"]),
        "end_time": iso(row["ended_us"]),
        "tags": _parsed(row["tags"]) or [],
        "status": {"open": "pending", "ok": "success"}.get(status(row), "error"),
        "prompt_tokens": row["input_tokens"],
        "completion_tokens": row["output_tokens"],
        "total_tokens": row["total_tokens"],
        "total_cost": None if row["cost_pico"] is None else str(from_pico(row["cost_pico"])),
        "app_path": f"/traces/{row['trace_id']}#run-{row['id']}",
        "attachments_received": _parsed(row["attachments"]) or {},
    }


def status(row: Mapping[str, Any]) -> str:
    """`error`, `ok`, or `open` when no end has been received."""
    return "error" if row["error"] is not None else "ok" if row["ended_us"] is not None else "open"


def project_id(name: str) -> str:
    """A project's id follows from its name, so that both can be asked for."""
    return str(uuid5(NAMESPACE_URL, f"llmops-project:{name}"))


def run_uuid(value: object, what: str) -> str:
    """A UUID in its usual form; `what` names it in the refusal."""
    try:
        return str(UUID(str(value)))
    except ValueError as error:
        raise RefusedRequestError(422, f"{what} must be a UUID") from error


def iso(microseconds: int | None) -> str | None:
    """ISO 8601 in UTC."""
    return None if microseconds is None else (EPOCH + timedelta(microseconds=microseconds)).isoformat()


def text(value: object) -> str | None:
    """A value for a text column: NUL and lone surrogates, which databases refuse, are replaced."""
    if value is None or value == "":
        return None
    words = value if isinstance(value, str) else _dumped(value)
    return words.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _optional_uuid(value: object, where: str) -> str | None:
    return None if value is None else run_uuid(value, f"{where}: an id")


def microseconds(value: object, where: str) -> int | None:
    """From ISO 8601 (UTC unless it says otherwise), or from milliseconds since 1970 as LangSmith's JavaScript sends."""
    if value is None:
        return None
    try:
        if isinstance(value, int | float):
            when = EPOCH + timedelta(milliseconds=value)
        else:
            when = datetime.fromisoformat(str(value))
            when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
        found = (when - EPOCH) // timedelta(microseconds=1)
        iso(found)  # what cannot be shown again must not get in
    except (ValueError, OverflowError) as error:
        raise RefusedRequestError(422, f"{where}: a time cannot be read; send ISO 8601") from error
    return found


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None


def _pico(dollars: object) -> int | None:
    if isinstance(dollars, bool) or not isinstance(dollars, int | float | str):
        return None
    try:
        amount = float(dollars)
    except (ValueError, OverflowError):
        return None  # a cost that is no number is no cost: the page shows a dash
    return to_pico(Decimal(str(dollars))) if math.isfinite(amount) and 0 <= amount <= MOST_DOLLARS else None


def _list_price(metadata: Mapping[str, Any], usage: Mapping[str, Any], at_us: int | None) -> int | None:
    """What a model's list says, for programs that send tokens and no cost, as all without this suite do."""
    model, provider = (text(metadata.get(name)) for name in ("ls_model_name", "ls_provider"))
    spent = usage_of(usage)
    if model is None or spent is None:
        return None
    at = None if at_us is None else EPOCH + timedelta(microseconds=at_us)
    price = _prices().price(model, spent, provider=provider, at=at)
    return None if isinstance(price, Unpriced) else to_pico(price.total_usd)


@cache
def _prices() -> PriceBook:
    return PriceBook()


def mapping(value: object) -> Mapping[str, Any]:
    """The value, or nothing when it is no mapping: clients may send anything where LangSmith has one."""
    return value if isinstance(value, Mapping) else {}


def _json(value: object) -> str | None:
    return None if value is None else text(_dumped(value))


def _dumped(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError as error:
        raise RefusedRequestError(422, "what is nested this deeply cannot be kept") from error


def _parsed(words: str | None) -> Any:
    return None if words is None else json.loads(words)
