"""Frozen nouns that travel between the rooms."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal, Self

__all__ = [
    "CallKind",
    "CallRecord",
    "ErrorKind",
    "Identity",
    "ModelSpec",
    "Money",
    "Record",
    "Unpriced",
    "Usage",
]

CallKind = Literal["model", "tool", "retriever", "turn", "embedding"]
RECORD_VERSION = 2
ASKING = frozenset({"model", "embedding"})


class ErrorKind(StrEnum):
    """What went wrong, in the words that policies, metrics and reports share."""

    RATE_LIMIT = "rate_limit"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    MALFORMED = "malformed"
    TRUNCATED = "truncated"
    AUTH = "auth"
    INVALID_REQUEST = "invalid_request"
    NOT_FOUND = "not_found"
    CONTEXT_OVERFLOW = "context_overflow"
    REFUSAL = "refusal"
    CANCELLED = "cancelled"
    STORE = "store"
    OTHER = "other"


class Record:
    """Base of the nouns that the hot path makes thousands of a second."""

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Self:
        """The record with these fields, which it keeps; all without a plain default must be there.

        Unchecked, and some ten times as fast as the constructor, which sets each field of a frozen class by itself.
        """
        made = object.__new__(cls)
        object.__setattr__(made, "__dict__", fields)
        return made


@dataclass(frozen=True)
class Identity(Record):
    """Who is asking. A session is a LangSmith session and a LangGraph thread unless told otherwise."""

    tenant: str | None = None
    team: str | None = None
    user: str | None = None
    session: str | None = None
    request: str | None = None
    api_key_id: str | None = None
    ip: str | None = None


@dataclass(frozen=True)
class Usage(Record):
    """Tokens of one call. `input_tokens` includes the cached and audio ones, `output_tokens` the reasoning ones."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input plus output."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True)
class Money(Record):
    """US dollars by part; `fee_usd` is what a provider takes per request or per search.

    `cache_read_usd` and `cache_write_usd` are parts of `input_usd`, not additions to it.
    """

    input_usd: Decimal = Decimal(0)
    output_usd: Decimal = Decimal(0)
    fee_usd: Decimal = Decimal(0)
    cache_read_usd: Decimal = Decimal(0)
    cache_write_usd: Decimal = Decimal(0)

    @property
    def total_usd(self) -> Decimal:
        """Input, output and fees."""
        return self.input_usd + self.output_usd + self.fee_usd


@dataclass(frozen=True, slots=True)
class Unpriced:
    """No price is known for this model; never to be read as zero."""

    model: str


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as callers name it: `openai:gpt-4o-mini` is provider `openai`, name `gpt-4o-mini`."""

    name: str
    provider: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Read `provider:name` or a bare name."""
        provider, colon, name = text.partition(":")
        return cls(name, provider) if colon and provider and provider != "ft" else cls(text)


@dataclass(frozen=True)
class CallRecord(Record):
    """One finished model call, embedding call, tool call or turn: the fact that every reader reads.

    Times are Unix seconds (UTC) and seconds; money is Decimal US dollars. `money` is None when nothing was or could
    be charged (tools, turns, unpriced models: see `unpriced`). A failed attempt whose provider may have charged
    carries `estimated` usage and its price in `money`, and `error_kind` says why it failed. `parent_run_id` is the
    nearest run above that has a record too, `node` the LangGraph node, `inter_token_s` the mean pause between streamed
    pieces, `retries` how many sibling calls of the same name failed before this one, and `clamped` says that the
    provider reported impossible counts, which were cut to possible ones.
    """

    kind: CallKind
    run_id: str
    trace_id: str
    name: str
    started_at: float
    latency_s: float
    parent_run_id: str | None = None
    identity: Identity = field(default_factory=Identity)
    provider: str | None = None
    model: str | None = None
    usage: Usage = field(default_factory=Usage)
    estimated: bool = False
    money: Money | None = None
    unpriced: bool = False
    saved: Usage | None = None
    saved_usd: Decimal | None = None
    ttft_s: float | None = None
    inter_token_s: float | None = None
    streamed: bool = False
    cache_level: str | None = None
    route: str | None = None
    rung: int | None = None
    attempt: int | None = None
    retries: int = 0
    node: str | None = None
    service_tier: str | None = None
    clamped: bool = False
    finish_reason: str | None = None
    error_kind: ErrorKind | None = None
    error_class: str | None = None
    prompt_hash: str | None = None
    tags: tuple[str, ...] = ()
    experiment: str | None = None
    arm: str | None = None
    outcome: str | None = None
    content_ref: str | None = None
    content: str | None = None
    version: int = RECORD_VERSION

    @property
    def asks_model(self) -> bool:
        """Whether a provider is asked, and may charge: model and embedding calls."""
        return self.kind in ASKING

    @property
    def cost_usd(self) -> Decimal:
        """What the call cost; zero when nothing was charged."""
        return self.money.total_usd if self.money is not None else Decimal(0)
