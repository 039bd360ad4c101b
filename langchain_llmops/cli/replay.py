"""`llmops replay`: a recorded request again, on another model or with another prompt."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path  # noqa: TC003 - typer reads it from the signature
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import uuid4

import typer
from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages

from langchain_llmops.cli.lookup import ID_HELP, check_tenant, look_up
from langchain_llmops.cli.scope import Scope, plain, settings_for
from langchain_llmops.cli.tables import Column, Sheet, count, emit, seconds, text, usd
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.events import CallFinished, Event
from langchain_llmops.core.redaction import is_redacted, redact
from langchain_llmops.ledger.calls import CALL, Call, read_call
from langchain_llmops.ledger.filters import REPLAY_TAG, Filter
from langchain_llmops.ledger.report import counted
from langchain_llmops.ledger.tree import records_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import RunnableConfig

    from langchain_llmops.core.types import CallRecord
    from langchain_llmops.stores.base import Row

__all__ = ["replay"]

# how `telemetry.masking` ends a long text, and `ledger.buffer` content that is long as a whole
TEXT_CUT: Final = re.compile(r" \[\d+ characters left out\]\Z")
CONTENT_CUT: Final = re.compile(r"… \[\d+ characters cut by the ledger\]\Z")


@dataclass(frozen=True)
class _Recorded:
    """An answered model call, with what was asked and said, and whether long texts or secrets of it are missing."""

    call: Call
    messages: list[BaseMessage]
    tools: list[Any]
    answer: str
    cut: bool
    masked: bool


@dataclass(frozen=True)
class _Side:
    """One answer, or why there is none. `cost_usd` is None where the model has no price.

    `failed_cost_usd` is what failed attempts that reached the provider may have cost, apart from it.
    """

    model: str | None
    answer: str
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal | None
    latency_s: float
    failed: bool = False
    failed_cost_usd: Decimal = Decimal(0)


def replay(
    wanted: Annotated[str, typer.Argument(metavar="ID", help=ID_HELP)],
    *,
    model: Annotated[
        str | None, typer.Option(help="Model to ask now, like openai:gpt-4o-mini; the recorded one when not given.")
    ] = None,
    prompt: Annotated[Path | None, typer.Option(help="File with another system prompt.")] = None,
    base_url: Annotated[str | None, typer.Option(help="The provider's address, where it is not the usual one.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's calls.")] = None,
    state: Annotated[Path | None, typer.Option(help="The folder with ledger.db (LLMOPS_STATE_DIR).")] = None,
    postgres: Annotated[str | None, typer.Option(help="postgresql://… of the ledger (LLMOPS_POSTGRES_URL).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Ask a recorded request's model calls again and compare; needs LLMOPS_LOG_CONTENT=1 when it was recorded.

    Every call gets the recorded messages and tools, also those that earlier calls answered. Sampling settings
    (temperature, max_tokens, response_format, tool_choice …) are not recorded: they are the defaults of the model asked
    now. The calls are recorded too, in a session of their own and tagged llmops:replay.
    Example: llmops replay 1f0c2d4e-… --model openai:gpt-4o-mini
    """
    if model is None and prompt is None:
        raise ConfigurationError(
            "give --model, --prompt FILE, or both: something must differ from the recorded request"
        )
    plain(model or "", "--model")
    system = None if prompt is None else _prompt(prompt)
    whose = {} if tenant is None else {"tenant": plain(tenant, "--tenant")}
    settings = settings_for(state, postgres, cache=False, **whose)
    scope = Scope(settings, Filter(tenant=tenant), "json" if as_json else "table", time.time())
    rows = look_up(scope, wanted, lambda sql, found: records_of(sql, f"content, {CALL}", found, scope.chosen))
    check_tenant(wanted, (read_call(row[1:]) for row in rows))
    recorded = [_with_prompt(one, system) for one in _replayable(rows, wanted)]
    given = _asked_again(scope, recorded, model, {} if base_url is None else {"base_url": base_url})
    pairs = [(_as_recorded(one), side) for one, side in zip(recorded, given, strict=True)]
    facts = {
        "replayed": wanted,
        "model": model,
        "sampling": "model defaults",
        "cut": any(one.cut for one in recorded),
        "masked": any(one.masked for one in recorded),
        "total": {"recorded": _total(pairs, 0), "replayed": _total(pairs, 1)},
    }
    sheets = [_json_sheet(recorded, pairs)] if as_json else _tables(pairs)
    emit(scope.form, sheets, facts=facts, notes=[*_missing(recorded), *_notes(pairs)])
    if all(side.failed for side in given):
        raise typer.Exit(1)


# what was recorded


def _prompt(file: Path) -> str:
    try:
        words = file.read_text("utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"--prompt: cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"--prompt: {file} is not UTF-8 text") from error
    if not words:
        raise ConfigurationError(f"--prompt: {file} is empty")
    return words


def _replayable(rows: Sequence[Row], wanted: str) -> list[_Recorded]:
    answered = [(row[0], read_call(row[1:])) for row in rows]
    answered = [(content, call) for content, call in answered if call.kind == "model" and call.error_kind is None]
    if not answered:
        raise ConfigurationError(f"{wanted!r} has no model call that was answered; there is nothing to replay")
    if any(content is None for content, _ in answered):
        raise ConfigurationError(
            f"{wanted!r} was recorded without its content: set LLMOPS_LOG_CONTENT=1 where it runs, and replay new ones"
        )
    return [_parsed(content, call) for content, call in answered]


def _parsed(content: str, call: Call) -> _Recorded:
    if CONTENT_CUT.search(content):
        raise ConfigurationError(
            f"the content of run {call.run_id} was too long for the ledger and is cut; it cannot be replayed"
        )
    try:
        kept = json.loads(content)
        messages = convert_to_messages(kept["messages"])
        texts = list(_texts(kept))
        cut, masked = any(map(TEXT_CUT.search, texts)), any(map(is_redacted, texts))
        return _Recorded(call, messages, list(kept.get("tools") or ()), _said(kept["answer"]), cut, masked)
    except (ValueError, KeyError, TypeError, AttributeError, NotImplementedError) as error:  # what other content does
        raise ConfigurationError(
            f"the content of run {call.run_id} cannot be read ({type(error).__name__}): it was cut, or recorded by"
            " another version"
        ) from error


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _said(answer: Any) -> str:
    """An answer as text, its tool calls as calls; they are in LangChain's form or in OpenAI's."""
    calls = [call.get("function") or call for call in answer.get("tool_calls") or ()]
    said = [str(answer.get("content") or "")]
    said += [f"{call.get('name')}({_arguments(call.get('args', call.get('arguments')))})" for call in calls]
    return "\n".join(part for part in said if part)


def _arguments(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _with_prompt(one: _Recorded, system: str | None) -> _Recorded:
    if system is None:
        return one
    others = [message for message in one.messages if message.type != "system"]
    return replace(one, messages=[*convert_to_messages([("system", system)]), *others])


# asking again


def _asked_again(scope: Scope, recorded: Sequence[_Recorded], name: str | None, options: dict[str, Any]) -> list[_Side]:
    from langchain_llmops.stack import LLMOps  # noqa: PLC0415 - imports LangChain's agents; wrong input never needs it

    seen: list[CallRecord] = []

    def keep(event: Event) -> None:
        if isinstance(event, CallFinished) and event.record.kind == "model":
            seen.append(event.record)

    with LLMOps(scope.settings) as ops:
        ops.bus.subscribe(keep)
        names = [name or str(one.call.model) for one in recorded]
        asked = {one: ops.fallback(one, **options) for one in dict.fromkeys(names)}
        config = ops.config(session_id=f"replay-{uuid4()}", tags=[REPLAY_TAG])
        return [_asked(one, asked[which], config, seen) for one, which in zip(recorded, names, strict=True)]


def _asked(one: _Recorded, model: BaseChatModel, config: RunnableConfig, seen: list[CallRecord]) -> _Side:
    seen.clear()
    try:
        answer = (model.bind_tools(one.tools) if one.tools else model).invoke(one.messages, config)
    except Exception as error:  # noqa: BLE001 - one failure of many calls; shown in the place of its answer
        said = redact(" ".join(f"{type(error).__name__}: {error}".split()))
        return _side(seen, f"failed: {said}", failed=True)
    return _side(seen, _answer(answer), failed=False)


def _answer(message: Any) -> str:
    if not isinstance(message, AIMessage):
        return str(message)
    return _said({"content": message.text, "tool_calls": message.tool_calls})


def _side(seen: Sequence[CallRecord], said: str, *, failed: bool) -> _Side:
    """The figures of the last attempt, if it was answered; what failed ones may have cost is apart."""
    lost = sum((record.cost_usd for record in seen if record.error_kind is not None), Decimal(0))
    if not seen:
        return _Side(None, said, 0, 0, Decimal(0) if failed else None, 0.0, failed)
    record = seen[-1]
    if failed:
        return _Side(record.model, said, 0, 0, Decimal(0), record.latency_s, failed, lost)
    cost = None if record.unpriced else record.cost_usd
    usage = record.usage
    return _Side(record.model, said, usage.input_tokens, usage.output_tokens, cost, record.latency_s, failed, lost)


def _as_recorded(one: _Recorded) -> _Side:
    call = one.call
    cost = None if call.unpriced else call.cost_usd
    return _Side(call.model, one.answer, call.input_tokens, call.output_tokens, cost, call.latency_s)


# side by side


def _total(pairs: Sequence[tuple[_Side, _Side]], which: int) -> dict[str, Any]:
    sides = [pair[which] for pair in pairs]
    costs = [side.cost_usd for side in sides if side.cost_usd is not None]
    return {
        "input_tokens": sum(side.input_tokens for side in sides),
        "output_tokens": sum(side.output_tokens for side in sides),
        "cost_usd": sum(costs, Decimal(0)) if len(costs) == len(sides) else None,
        "latency_s": sum(side.latency_s for side in sides),
        "failed_cost_usd": sum((side.failed_cost_usd for side in sides), Decimal(0)),
    }


def _json_sheet(recorded: Sequence[_Recorded], pairs: Sequence[tuple[_Side, _Side]]) -> Sheet:
    rows = [
        {"cut": one.cut, "masked": one.masked, "recorded": asdict(old), "replayed": asdict(new)}
        for one, (old, new) in zip(recorded, pairs, strict=True)
    ]
    return Sheet("calls", "", {}, rows)


def _tables(pairs: Sequence[tuple[_Side, _Side]]) -> list[Sheet]:
    columns = {"of": Column(""), **{name: Column(name, lines=True) for name in ("recorded", "replayed")}}
    sheets = [
        Sheet("call", f"Call {number} of {len(pairs)}", columns, _rows({**asdict(old)}, {**asdict(new)}))
        for number, (old, new) in enumerate(pairs, 1)
    ]
    return [*sheets, Sheet("total", "All calls", columns, _rows(_total(pairs, 0), _total(pairs, 1)))]


def _rows(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, str]]:
    shown = {
        "model": text, "answer": text, "input_tokens": count, "output_tokens": count, "cost_usd": usd,
        "latency_s": seconds,
    }  # fmt: skip
    names = {"input_tokens": "tokens in", "output_tokens": "tokens out", "cost_usd": "cost", "latency_s": "took"}
    return [
        {"of": names.get(name, name), "recorded": show(old[name]), "replayed": show(new[name])}
        for name, show in shown.items()
        if name in old
    ]


def _missing(recorded: Sequence[_Recorded]) -> list[str]:
    cut, masked = sum(one.cut for one in recorded), sum(one.masked for one in recorded)
    notes = {
        f"{cut} of {len(recorded)} calls had texts cut when they were recorded: only what was kept was asked and is"
        " compared.": cut,
        f"{masked} of {len(recorded)} calls had secrets masked when they were recorded: *** was asked and is compared"
        " in their place.": masked,
    }
    return [note for note, holds in notes.items() if holds]


def _notes(pairs: Sequence[tuple[_Side, _Side]]) -> list[str]:
    failed, lost = sum(new.failed for _, new in pairs), _total(pairs, 1)["failed_cost_usd"]
    notes = {
        "Sampling settings (temperature, max_tokens, …) are not recorded: these were the model's defaults.": True,
        f"{failed} of {counted(len(pairs), 'call', 'calls')} failed.": failed,
        f"Failed attempts may have cost {usd(lost)}, apart from the cost above.": lost,
    }
    return [note for note, holds in notes.items() if holds]
