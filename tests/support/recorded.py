"""A ledger with known calls in it, in SQLite or PostgreSQL."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from decimal import Decimal

from langchain_llmops.core.types import CallRecord, ErrorKind, Identity, Money, Usage
from langchain_llmops.ledger.schema import CALL_COLUMNS, EVENT_COLUMNS, MIGRATIONS, call_row
from langchain_llmops.stores.base import open_store

NOON = 1_762_000_000.0  # 2025-11-01 12:26:40 UTC
PLAIN = Usage(100, 20)
URLS = ("sqlite", "postgresql")

_numbers = iter(range(10**9))


def call(kind="model", **fields) -> CallRecord:
    """A call that cost $0.001 unless told otherwise; `who` is (user, session, request)."""
    number = f"run-{next(_numbers)}"
    user, session, request = fields.pop("who", ("u", "s", None))
    tenant = fields.pop("tenant", "t")
    cost = fields.pop("cost", "0.001")
    money = None if kind != "model" or cost is None else Money(Decimal(cost))
    plain = {
        "run_id": number,
        "trace_id": fields.get("run_id", number),
        "name": kind,
        "started_at": NOON,
        "latency_s": 0.1,
        "model": "gpt-4o" if kind == "model" else None,
        "provider": "openai" if kind == "model" else None,
        "identity": Identity(tenant=tenant, user=user, session=session, request=request),
        "money": money,
        "usage": PLAIN if kind == "model" else Usage(),
        "unpriced": kind == "model" and cost is None,
    }
    return CallRecord(kind=kind, **{**plain, **fields})


def chat(**fields) -> CallRecord:
    """The same bare call of a chat model each time, with `fields` changed."""
    plain = {"kind": "model", "run_id": "run-1", "trace_id": "trace-1", "name": "ChatOpenAI", "model": "gpt-4o-mini"}
    return CallRecord(**{**plain, "started_at": 1000.0, "latency_s": 0.3, **fields})


def full(**fields) -> CallRecord:
    """A failed call of a chat model with a value in every field but `unpriced`."""
    every = {
        "parent_run_id": "run-0", "identity": Identity("acme", "team-1", "u1", "s1", "r1", "key-1", "10.0.0.9"),
        "provider": "openai", "usage": Usage(1000, 200, 300, 40, 50, 60, 7, 8), "estimated": True,
        "money": Money(Decimal("0.1"), Decimal("0.2"), Decimal("0.3"), Decimal("0.01"), Decimal("1E-9")),
        "saved": Usage(10, 5, reasoning_tokens=2), "saved_usd": Decimal("0.5"), "ttft_s": 0.1, "inter_token_s": 0.02,
        "streamed": True, "cache_level": "L1", "route": "simple", "rung": 1, "attempt": 2, "retries": 1,
        "node": "agent", "service_tier": "flex", "clamped": True, "finish_reason": "stop",
        "error_kind": ErrorKind.TIMEOUT, "error_class": "ModelTimeoutError", "prompt_hash": "ab12", "tags": ("a", "b"),
        "experiment": "e1", "arm": "b", "outcome": "resolved", "content_ref": "s3://b/k", "content": "{}",
    }  # fmt: skip
    return chat(**{**every, **fields})


def hit(saved=PLAIN, saved_usd="0.001", **fields) -> CallRecord:
    """An answer from the cache."""
    worth = None if saved_usd is None else Decimal(saved_usd)
    return call(cost="0", usage=Usage(), saved=saved, saved_usd=worth, cache_level="L1", **fields)


def embedding(cost="0.0001", **fields) -> CallRecord:
    """A call of an embedding model, by nobody's session unless told otherwise."""
    plain = {"model": "text-embedding-3-small", "provider": "openai", "usage": Usage(2000), "who": ("u", None, None)}
    return call("embedding", **{**plain, "money": Money(Decimal(cost)), **fields})


def traffic(count: int, seed: int) -> list[CallRecord]:
    """Calls of every sort."""
    draw = random.Random(seed)
    return [_drawn(draw) for _ in range(count)]


def _drawn(draw: random.Random) -> CallRecord:
    names = (draw.choice(["ada", "bob", None]), draw.choice(["s1", "s2", "s3", None]), draw.choice(["r1", "r2", None]))
    common = {
        "who": names,
        "started_at": NOON + draw.randrange(-200_000, 200_000),
        "latency_s": draw.expovariate(1),
        "tags": tuple(draw.sample(["a", "b", "c"], draw.randrange(3))),
        "route": draw.choice(["simple", "complex", None]),
        "node": draw.choice(["model", None]),
    }
    kind = draw.choice(["model"] * 6 + ["tool", "turn", "retriever"])
    if kind != "model":
        return call(kind, **common, error_kind=draw.choice([None, None, ErrorKind.OTHER]))
    if draw.random() < 0.2:
        return hit(**common)
    model = draw.choice(["gpt-4o", "gpt-4o-mini", "own-13b"])
    failed = draw.random() < 0.2
    return call(
        **common,
        model=model,
        cost=None if model == "own-13b" else f"{draw.randrange(10**9)}e-12",
        usage=Usage(draw.randrange(9000), draw.randrange(900), cache_read_tokens=draw.randrange(50)),
        ttft_s=draw.choice([None, draw.random()]),
        inter_token_s=draw.choice([None, draw.random() / 50]),
        error_kind=ErrorKind.TIMEOUT if failed else None,
        error_class="ReadTimeout" if failed else None,
        estimated=failed,
    )


@asynccontextmanager
async def ledger(url, calls=(), *, events=(), feedback=(), outcomes=()):
    """The SQL of a ledger with these rows: feedback as (run_id, score[, key]), outcomes as (session, ok), in order."""
    store = open_store(url)
    try:
        await store.sql.migrate("ledger", MIGRATIONS)
        await fill(store.sql, calls, events=events, feedback=feedback, outcomes=outcomes)
        yield store.sql
    finally:
        await store.aclose()


async def fill(sql, calls=(), *, events=(), feedback=(), outcomes=()):
    async with sql.transaction() as transaction:
        if calls:
            rows = [row + (None,) * (len(CALL_COLUMNS) - len(row)) for row in map(call_row, calls)]
            await transaction.insert_rows("llmops_calls", CALL_COLUMNS, rows)
        if events:
            columns = tuple(name for name in EVENT_COLUMNS if name != "tenant")
            await transaction.insert_rows("llmops_events", columns, events)
        for at, (run_id, score, *key) in enumerate(feedback):
            await transaction.execute(
                "INSERT INTO llmops_feedback (at, tenant, run_id, key, score) VALUES (?, 't', ?, ?, ?)",
                (float(at), run_id, key[0] if key else "user", float(score)),
            )
        for at, (session, ok) in enumerate(outcomes):
            await transaction.execute(
                "INSERT INTO llmops_outcomes (at, tenant, session_id, ok) VALUES (?, 't', ?, ?)",
                (float(at), session, int(ok)),
            )


def url_of(name, request, tmp_path) -> str:
    """The URL of an empty database of the test's own."""
    return request.getfixturevalue("postgres_url") if name == "postgresql" else f"sqlite:///{tmp_path / 'ledger.db'}"
