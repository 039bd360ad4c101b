"""`llmops cache warm`: requests of a file asked through the cache, so that later ones are hits."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path  # noqa: TC003 - typer reads it from the signature
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from langchain_core.messages import convert_to_messages

from langchain_llmops.cli.scope import on_redis, plain, settings_for
from langchain_llmops.cli.tables import Column, Sheet, count, emit, usd
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import ConfigurationError, InputFileError, LLMOpsError
from langchain_llmops.core.events import CallFinished, Event
from langchain_llmops.core.redaction import redact
from langchain_llmops.ledger.report import counted
from langchain_llmops.stores.base import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import BaseMessage

    from langchain_llmops.cache.tiered import TieredCache
    from langchain_llmops.core.settings import Settings
    from langchain_llmops.stack import LLMOps

__all__ = ["warm"]

SHOWN: Final = 3
WRITTEN_S: Final = 60.0
TAG: Final = "llmops:warm"
TEXTS: Final = ("model", "prompt", "user_id", "session_id")
KNOWN: Final = frozenset({*TEXTS, "messages", "options", "cache_tags"})
NEEDED: Final = {"user": "user_id", "session": "session_id"}


@dataclass(frozen=True)
class _Line:
    """One request of the file."""

    number: int
    model: str
    messages: list[BaseMessage]
    options: dict[str, Any]
    user: str | None
    session: str | None
    tags: list[str]

    @property
    def built(self) -> str:
        """What its model is made of."""
        return json.dumps([self.model, self.options], sort_keys=True)


@dataclass
class _Outcome:
    """What came of a file.

    `unkept`: answers that were paid for and may not be cached. `unwritten`: those that a level below memory could not
    be given, told by level in `lost`; as many at most where some were written.
    """

    requests: int
    asked: int = 0
    cached: int = 0
    failed: int = 0
    left_out: int = 0
    unkept: int = 0
    unwritten: int = 0
    lost: list[str] = field(default_factory=list)
    spent_usd: Decimal = Decimal(0)
    failures: list[str] = field(default_factory=list)


def warm(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL: model, messages or prompt, options ….")],
    *,
    model: Annotated[str | None, typer.Option(help="Of lines that name none, like openai:gpt-4o-mini.")] = None,
    max_usd: Annotated[
        float | None, typer.Option(min=0, help="Begin no request that may cost more than is left.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests at a time.")] = 4,
    base_url: Annotated[str | None, typer.Option(help="The provider's address; a part of every key.")] = None,
    state: Annotated[Path | None, typer.Option(help="The folder with cache.db (LLMOPS_STATE_DIR).")] = None,
    redis: Annotated[str | None, typer.Option(help="redis://… of the cache (LLMOPS_REDIS_URL).")] = None,
    postgres: Annotated[
        str | None, typer.Option(help="postgresql://… of the cache and the ledger (LLMOPS_POSTGRES_URL).")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="The application's (LLMOPS_TENANT).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Ask the requests of a file whose answers are not cached yet; the file is checked whole before the first.

    A line is {"prompt": "…"} or {"messages": […]}, with "model", "options" of the model (temperature …), "user_id",
    "session_id" and "cache_tags" where they matter: what differs from the real request makes another key, and so do
    another tenant and another LLMOPS_CACHE_NAMESPACE. Every level below memory must be reached before the first, too.

    What it spends is in the ledger of --postgres or --state (or their variables). With Redis alone it is in the default
    folder's ledger where there is one, and in none where there is none.

    Exit code 1 when a request failed, or a level could not be given its answers.
    Example: llmops cache warm faq.jsonl --model openai:gpt-4o-mini --max-usd 0.50
    """
    from langchain_llmops.stack import LLMOps  # noqa: PLC0415 - imports LangChain's agents; wrong input never needs it

    given = {} if tenant is None else {"tenant": plain(tenant, "--tenant")}
    settings = on_redis(settings_for(state, postgres, **given), redis)
    lines = _lines(file, model, settings)
    with _Heard() as heard, _with_a_ledger(settings) as chosen, LLMOps(chosen) as ops:
        warmer = _Warmer(ops, file, lines, {} if base_url is None else {"base_url": base_url}, max_usd)
        _reach_levels(chosen)
        outcome = asyncio.run(warmer.run(concurrency))
        _look_for_lost(outcome, ops.cache)
    _tell(outcome, heard.error, "json" if as_json else "table")


# where


@contextmanager
def _with_a_ledger(settings: Settings) -> Iterator[Settings]:
    """For a command in no hurry: with a ledger that nobody keeps, where none is named or exists."""
    values = settings.model_dump(exclude_unset=True)
    values["cache_timeout_s"] = max(settings.cache_timeout_s, settings.store_timeout_s)
    redis_alone = settings.postgres_url is None and settings.redis_url is not None
    named = "state_dir" in settings.model_fields_set or (settings.state_dir.absolute() / "ledger.db").is_file()
    if named or not redis_alone:
        yield type(settings)(**values)
        return
    with tempfile.TemporaryDirectory(prefix="llmops-warm-") as folder:
        yield type(settings)(**(values | {"state_dir": folder}))


def _reach_levels(settings: Settings) -> None:
    """Raises the `LLMOpsError` of a level that cannot be reached: answers would be paid for and lost."""
    from langchain_llmops.parts import cache_places  # noqa: PLC0415 - imports LangGraph and the checkpointer

    for url, setting in cache_places(settings).values():
        store = open_store(url, setting=setting, blocking=True, timeout_s=settings.store_timeout_s)
        try:
            drive(store.ping())
        finally:
            drive(store.aclose())


def _look_for_lost(outcome: _Outcome, cache: TieredCache) -> None:
    """A cache never raises: what its levels did not take is seen in its counts."""
    flushed, stats = cache.flush(WRITTEN_S), cache.stats()
    stored = stats.get("stored", 0)
    for level in (name.removeprefix("written_bytes:") for name in stats if name.startswith("written_bytes:")):
        troubles = stats.get(f"error:{level}", 0) + stats.get(f"skipped:{level}", 0)
        some = stats[f"written_bytes:{level}"] > 0
        if lost := min(stored, troubles) if some and flushed else stored if troubles or not flushed else 0:
            answers = counted(lost, "answer", "answers")
            outcome.lost.append(f"{'up to ' * some}{answers} to {level}")
            outcome.unwritten = max(outcome.unwritten, lost)


class _Heard(logging.Handler):
    """The first error that the cache logs meanwhile, in place of its lines."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.error = ""

    def __enter__(self) -> Self:
        logging.getLogger("langchain_llmops").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logger = logging.getLogger("langchain_llmops")
        logger.removeHandler(self)
        logger.addHandler(logging.NullHandler())

    def emit(self, record: logging.LogRecord) -> None:
        told = record.name.startswith("langchain_llmops.cache.")
        arguments = record.args if told and isinstance(record.args, tuple) else ()
        errors = (redact(" ".join(str(one).split())) for one in arguments if isinstance(one, LLMOpsError))
        self.error = self.error or next(errors, "")


# the file


def _lines(file: Path, model: str | None, settings: Settings) -> list[_Line]:
    if not settings.cache:
        raise ConfigurationError("LLMOPS_CACHE is off: there is no cache to warm")
    try:
        texts = file.read_text("utf-8").split("\n")
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not UTF-8 text") from error
    found = [_line(file, number, words, model, settings) for number, words in enumerate(texts, 1) if words.strip()]
    if not found:
        raise ConfigurationError(f"{file} has no requests: one JSON object a line")
    return found


def _line(file: Path, number: int, words: str, model: str | None, settings: Settings) -> _Line:
    def wrong(reason: str) -> InputFileError:
        return InputFileError(file, number, reason)

    try:
        line = json.loads(words)
    except ValueError as error:
        raise wrong(f"not JSON ({getattr(error, 'msg', error)})") from error
    except RecursionError as error:
        raise wrong("not JSON that can be read (nested too deeply)") from error
    reason = "not a JSON object" if not isinstance(line, dict) else _mistake(line, model, settings)
    if reason is not None:
        raise wrong(reason)
    try:
        messages = convert_to_messages(line["messages"] if "messages" in line else [("user", line["prompt"])])
    except Exception as error:  # whatever langchain-core raises at what is no message
        raise wrong(f"'messages' are not messages ({redact(' '.join(str(error).split()))[:200]})") from error
    return _Line(
        number,
        line.get("model") or str(model),
        messages,
        line.get("options") or {},
        line.get("user_id"),
        line.get("session_id"),
        line.get("cache_tags") or [],
    )


def _mistake(line: Mapping[str, Any], model: str | None, settings: Settings) -> str | None:
    """What is wrong with a line, before its messages are looked into."""
    unknown = sorted(set(line) - KNOWN)
    text = next((name for name in TEXTS if name in line and not (isinstance(line[name], str) and line[name])), None)
    tags, messages = line.get("cache_tags", []), line.get("messages", [""])
    needed = NEEDED.get(settings.cache_scope, "")
    mistakes = {
        f"unknown {', '.join(map(repr, unknown))}; known are {', '.join(sorted(KNOWN))}": unknown,
        f"{text!r} must be a non-empty text": text is not None,
        "give 'prompt' or 'messages', not both or none": ("prompt" in line) == ("messages" in line),
        "'messages' must be a list with something in it": not isinstance(messages, list) or not messages,
        "'options' must be an object": not isinstance(line.get("options", {}), dict),
        "'cache_tags' must be a list of texts": not isinstance(tags, list) or not all(isinstance(t, str) for t in tags),
        "no 'model', and no --model is given": "model" not in line and model is None,
        f"LLMOPS_CACHE_SCOPE={settings.cache_scope} needs {needed!r}": needed and needed not in line,
    }  # fmt: skip
    return next((mistake for mistake, holds in mistakes.items() if holds), None)


# asking


class _Warmer:
    """Asks the lines of a file, some at a time.

    A request is begun while what was spent, and what those on their way and it may cost, is within `max_usd`: each as
    much as the dearest so far, so the first one is waited for.
    """

    def __init__(
        self, ops: LLMOps, file: Path, lines: Sequence[_Line], options: Mapping[str, Any], max_usd: float | None
    ) -> None:
        self._ops = ops
        self._models = _models(ops, file, lines, options, priced=max_usd is not None)
        self._lines = lines
        self._max_usd = None if max_usd is None else Decimal(str(max_usd))
        self._dearest: Decimal | None = None
        self._flying = 0
        self._landed = asyncio.Condition()
        self._outcome = _Outcome(len(lines))

    async def run(self, concurrency: int) -> _Outcome:
        """Every line, or those that the money is enough for."""
        waiting = iter(zip(self._lines, self._models, strict=True))
        with self._listening():
            await asyncio.gather(*(self._work(waiting) for _ in range(concurrency)))
        outcome = self._outcome
        outcome.left_out = outcome.requests - outcome.asked - outcome.cached - outcome.failed
        stats = self._ops.cache.stats()
        outcome.unkept = sum(stats.get(name, 0) for name in ("unkept", "bypass"))
        return outcome

    async def _work(self, waiting: Iterator[tuple[_Line, BaseChatModel]]) -> None:
        while await self._may_begin():
            try:
                line, model = next(waiting, (None, None))
                if line is None or model is None:
                    return
                await self._ask(line, model)
            finally:
                async with self._landed:
                    self._flying -= 1
                    self._landed.notify_all()

    async def _may_begin(self) -> bool:
        async with self._landed:
            await self._landed.wait_for(lambda: self._fits() or not self._flying)
            self._flying += 1 if (fits := self._fits()) else 0
            return fits

    def _fits(self) -> bool:
        if self._max_usd is None:
            return True
        if self._dearest is None:
            return self._max_usd > 0 and not self._flying
        return self._outcome.spent_usd + self._dearest * (self._flying + 1) <= self._max_usd

    async def _ask(self, line: _Line, model: BaseChatModel) -> None:
        more: dict[str, Any] = {"cache_tags": line.tags} if line.tags else {}
        config = self._ops.config(line.user, line.session, tags=[TAG], **more)
        try:
            answer = await model.ainvoke(line.messages, config)
        except Exception as error:  # noqa: BLE001 - one failure of many requests, told with its line
            said = redact(" ".join(f"{type(error).__name__}: {error}".split()))
            self._outcome.failed += 1
            self._outcome.failures.append(f"line {line.number} failed: {said}")
            return
        if "llmops_cache" in answer.response_metadata:
            self._outcome.cached += 1
        else:
            self._outcome.asked += 1

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """What calls cost is told on the bus, those that failed included."""

        def hear(event: Event) -> None:
            if isinstance(event, CallFinished) and event.record.kind == "model":
                cost = event.record.cost_usd
                self._outcome.spent_usd += cost
                if event.record.cache_level is None:
                    self._dearest = max(cost, self._dearest or Decimal(0))

        stop = self._ops.bus.subscribe(hear)
        try:
            yield
        finally:
            stop()


def _models(
    ops: LLMOps, file: Path, lines: Sequence[_Line], options: Mapping[str, Any], *, priced: bool
) -> list[BaseChatModel]:
    """As a program builds them, and so with the same keys; what is wrong with one is its line's mistake."""
    made: dict[str, BaseChatModel] = {}
    for line in lines:
        if line.built not in made:
            try:
                made[line.built] = _model(ops, line, options, priced=priced)
            except ConfigurationError as error:
                raise InputFileError(file, line.number, redact(str(error))) from error
    return [made[line.built] for line in lines]


def _model(ops: LLMOps, line: _Line, options: Mapping[str, Any], *, priced: bool) -> BaseChatModel:
    chain = ops.fallback(line.model, **{**options, **line.options})
    named = chain.rungs[0]._get_ls_params()  # noqa: SLF001 - LangChain's own way
    if priced and ops.prices.rates(named.get("ls_model_name") or "", provider=named.get("ls_provider")) is None:
        raise ConfigurationError(f"no price is known for {line.model!r}, so --max-usd cannot be kept")
    return chain


# what came of it


def _tell(outcome: _Outcome, error: str, form: Any) -> None:
    row = asdict(outcome)
    failures, lost = row.pop("failures"), row.pop("lost")
    columns = {
        "requests": Column("requests", count),
        "asked": Column("asked", count),
        "cached": Column("already cached", count),
        "failed": Column("failed", count),
        "left_out": Column("left out", count),
        "spent_usd": Column("spent", usd),
    }
    notes = failures[:SHOWN] + ([f"{len(failures) - SHOWN} more failed."] if len(failures) > SHOWN else [])
    if outcome.left_out:
        notes.append("Those left out might have cost more than --max-usd leaves.")
    if outcome.unkept:
        answers = counted(outcome.unkept, "answer was", "answers were")
        notes.append(f"{answers} not kept: temperature above 0, cut short, refused, or calling a tool.")
    emit(form, [Sheet("warmed", "Warmed", columns, [row])], facts={"failures": failures}, notes=notes)
    if lost:
        reason = f": {error}" if error else ""
        typer.echo(f"llmops: paid for and could not write {' and '.join(lost)}{reason}", err=True)
    if outcome.failed or lost:
        raise typer.Exit(1)
