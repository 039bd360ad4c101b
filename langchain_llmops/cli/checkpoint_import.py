"""`llmops checkpoints import`: threads of LangGraph's other savers, brought here and compared."""

from __future__ import annotations

import importlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote, unquote

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from langchain_llmops.cli.scope import on_redis, plain, settings_for
from langchain_llmops.cli.tables import Column, Sheet, count, emit, text
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.ledger.report import counted
from langchain_llmops.stores.base import Documents, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_llmops.checkpoint.import_source import Source
    from langchain_llmops.checkpoint.import_values import Unpacker
    from langchain_llmops.checkpoint.importing import Importer, Outcome
    from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
    from langchain_llmops.core.settings import Settings

__all__ = ["import_threads"]

AT_ONCE: Final = 4
BATCH: Final = 1000
SETTING: Final = "URL"
SCHEMES: Final = {
    "postgres": ("postgresql", "postgres"),
    "sqlite": ("sqlite",),
    "redis": ("redis", "rediss"),
    "valkey": ("redis", "rediss"),
}
AS_REDIS: Final = {"valkey": "redis", "valkeys": "rediss"}
BAD: Final = ("refused", "failed")


def import_threads(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Where that saver keeps its threads; for SQLite, its file.")
    ],
    *,
    kind: Annotated[str, typer.Option("--from", help="postgres, sqlite, redis or valkey: whose saver wrote them.")],
    thread: Annotated[list[str] | None, typer.Option(help="Only this thread; repeatable.")] = None,
    allow: Annotated[
        list[str] | None, typer.Option(metavar="MODULE:CLASS", help="A class that values may hold; repeatable.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Delete what differs here and bring the source's.")
    ] = False,
    unowned: Annotated[
        bool, typer.Option("--unowned", help="Threads belong to nobody, whatever user they name.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look and compare, write nothing.")] = False,
    state: Annotated[Path | None, typer.Option(help="The folder with checkpoints.db (LLMOPS_STATE_DIR).")] = None,
    redis: Annotated[str | None, typer.Option(help="redis://… of the hot tier (LLMOPS_REDIS_URL).")] = None,
    postgres: Annotated[str | None, typer.Option(help="postgresql://… of the warm tier (LLMOPS_POSTGRES_URL).")] = None,
    tenant: Annotated[str | None, typer.Option(help="The application's (LLMOPS_TENANT).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Bring threads that LangGraph's own savers wrote, each compared with its source when it is written.

    The source is only read. A thread is brought whole or not at all: a value of a class that LangGraph's strict
    serializer does not trust refuses its thread, until --allow trusts the class. Run it again as often as you like:
    what is here and equal is left alone, what was broken off is completed, what was written on here since is kept.

    Exit code 1 when a thread was refused or failed.
    Example: llmops checkpoints import --from postgres postgresql://user@host/app
    """
    for name in ("langgraph", "langchain_llmops"):
        logging.getLogger(name).addHandler(logging.NullHandler())  # the table says it
    given = {} if tenant is None else {"tenant": plain(tenant, "--tenant")}
    settings = on_redis(settings_for(state, postgres, **given), redis)
    allowed = [_class(one) for one in allow or ()]
    with _source(kind, url, allowed, settings.store_timeout_s) as (source, unpacker):
        threads = list(dict.fromkeys(thread)) if thread else drive(source.threads())
        with _saver(settings, allowed, dry_run=dry_run) as saver:
            stop = threading.Event()
            importer = _importer(source, saver, unpacker, stop, replace=replace, unowned=unowned, dry_run=dry_run)
            before = _bytes(saver)
            outcomes = _all(importer, threads, stop)
            written = _bytes(saver) - before
    _tell(outcomes, written, "json" if as_json else "table", dry_run=dry_run)


# where


@contextmanager
def _source(
    kind: str, url: str, allowed: Sequence[tuple[str, str]], timeout_s: float
) -> Iterator[tuple[Source, Unpacker]]:
    from langchain_llmops.checkpoint.import_values import Unpacker  # noqa: PLC0415 - imports LangGraph

    unpacker = Unpacker(allowed)
    source = _opened(kind, _located(kind, url), unpacker, timeout_s)
    try:
        yield source, unpacker
    finally:
        drive(source.aclose())


def _located(kind: str, url: str) -> str:
    """The URL of the source, which exists if it is a file; opening SQLite would make it."""
    if kind not in SCHEMES:
        raise ConfigurationError(f"--from takes {', '.join(SCHEMES)}, not {plain(kind, '--from')[:40]!r}")
    scheme, separator, rest = plain(url, SETTING).partition("://")
    if kind == "sqlite" and not separator:
        rest, scheme = f"/{quote(str(Path(url).absolute()))}", "sqlite"
    scheme = AS_REDIS.get(scheme.lower(), scheme.lower())
    if scheme not in SCHEMES[kind]:
        wanted = " or ".join(f"{one}://…" for one in SCHEMES[kind])
        raise ConfigurationError(f"{SETTING}: --from {kind} takes {wanted}")
    if kind == "sqlite" and not Path(unquote(rest.partition("?")[0].removeprefix("/"))).is_file():
        raise ConfigurationError(f"{SETTING}: there is no file {unquote(rest.partition('?')[0].removeprefix('/'))}")
    return f"{scheme}://{rest}"


def _opened(kind: str, url: str, unpacker: Unpacker, timeout_s: float) -> Source:
    from langchain_llmops.checkpoint.import_postgres import PostgresSource  # noqa: PLC0415 - imports LangGraph
    from langchain_llmops.checkpoint.import_redis import RedisSource  # noqa: PLC0415 - as above
    from langchain_llmops.checkpoint.import_sqlite import SqliteSource  # noqa: PLC0415 - as above
    from langchain_llmops.checkpoint.import_valkey import ValkeySource  # noqa: PLC0415 - as above

    store = open_store(url, setting=SETTING, blocking=True, timeout_s=timeout_s)
    if kind in ("postgres", "sqlite"):
        return (PostgresSource if kind == "postgres" else SqliteSource)(store, unpacker)
    if not isinstance(store, Documents):
        raise ConfigurationError(f"{SETTING}: {store.url} is no Redis")
    return (RedisSource if kind == "redis" else ValkeySource)(store, store, unpacker)


@contextmanager
def _saver(settings: Settings, allowed: Sequence[tuple[str, str]], *, dry_run: bool) -> Iterator[TieredCheckpointSaver]:
    from langchain_llmops.checkpoint.saver import TieredCheckpointSaver  # noqa: PLC0415 - imports LangGraph
    from langchain_llmops.parts import build_checkpointer  # noqa: PLC0415 - as above

    nothing_here = settings.postgres_url is None and not (settings.state_dir.absolute() / "checkpoints.db").is_file()
    if dry_run and nothing_here:
        with TieredCheckpointSaver.from_urls(warm="memory://", allowed_types=allowed) as saver:
            yield saver
        return
    with build_checkpointer(settings, tuple(allowed)) as saver:
        yield saver


def _importer(
    source: Source, saver: TieredCheckpointSaver, unpacker: Unpacker, stop: threading.Event, **options: bool
) -> Importer:
    from langchain_llmops.checkpoint.importing import Importer  # noqa: PLC0415 - imports LangGraph

    return Importer(source, saver, unpacker, stopping=stop.is_set, **options)


def _class(words: str) -> tuple[str, str]:
    """Module and name of a class that can be imported here."""
    module, colon, name = plain(words, "--allow").partition(":")
    if not colon or not module or not name:
        raise ConfigurationError(f"--allow takes MODULE:CLASS, like shop.models:Order, not {words[:80]!r}")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"--allow {words}: {error}; run where your application can be imported (PYTHONPATH=. for this folder)"
        ) from error
    if not isinstance(found, type):
        raise ConfigurationError(f"--allow {words}: {name} is no class")
    return module, name


# doing


def _all(importer: Importer, threads: Sequence[str], stop: threading.Event) -> list[Outcome]:
    """Every thread, several at once so that their commits are shared; nothing more begins once one raises."""
    console = Console(stderr=True)
    columns = TextColumn("threads"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    outcomes = []
    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        ThreadPoolExecutor(AT_ONCE, thread_name_prefix="llmops-import") as pool,
    ):
        task = progress.add_task("threads", total=len(threads))
        try:
            for start in range(0, len(threads), BATCH):
                for outcome in pool.map(importer.bring, threads[start : start + BATCH]):
                    outcomes.append(outcome)
                    progress.advance(task)
        except BaseException:  # Ctrl-C, too: what is being written ends at its next checkpoint
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return outcomes


def _bytes(saver: Any) -> int:
    return int(saver.stats().bytes_by_tier["warm"])


# what came of it


def _tell(outcomes: Sequence[Outcome], written: int, form: Any, *, dry_run: bool) -> None:
    states = list(dict.fromkeys(one.state for one in outcomes))
    rows = [_total(state, [one for one in outcomes if one.state == state]) for state in states]
    columns = {
        "state": Column("would be" if dry_run else "state"),
        "threads": Column("threads", count),
        "checkpoints": Column("checkpoints", count),
        "writes": Column("pending writes", count),
        "bytes_there": Column("bytes there", count),
    }
    reasons = [asdict(one) for one in outcomes if one.reason]
    why = Sheet(
        "refused", "Why", {"thread": Column("thread"), "state": Column("state"), "reason": Column("why", text)}, reasons
    )
    facts = {"dry_run": dry_run, "bytes_here": written, "threads": [asdict(one) for one in outcomes]}
    notes = [_note(outcomes, written, dry_run=dry_run)]
    emit(form, [Sheet("states", "Threads", columns, rows), why], facts=facts, notes=notes)
    if any(one.state in BAD for one in outcomes):
        raise typer.Exit(1)


def _total(state: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "state": state,
        "threads": len(outcomes),
        "checkpoints": sum(one.checkpoints for one in outcomes),
        "writes": sum(one.writes for one in outcomes),
        "bytes_there": sum(one.bytes_there for one in outcomes),
    }


def _note(outcomes: Sequence[Outcome], written: int, *, dry_run: bool) -> str:
    if not outcomes:
        return "The source has no threads."
    if dry_run:
        return "Nothing was written (--dry-run)."
    there = sum(one.bytes_there for one in outcomes if one.state in ("imported", "completed", "replaced"))
    if not there:
        return "Nothing was written."
    read = counted(len(outcomes), "thread was", "threads were")
    return f"{read} read; {count(written)} bytes were written here for {count(there)} there."
