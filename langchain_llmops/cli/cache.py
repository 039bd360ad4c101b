"""`llmops cache`: what the cache does, what it holds under a key, and how to empty and to fill it."""

from __future__ import annotations

import logging
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from langchain_llmops.cli.scope import Scope, on_redis, plain, scoped, settings_for
from langchain_llmops.cli.tables import Column, Sheet, count, emit, seconds, text, usd
from langchain_llmops.cli.warm import warm
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import ConfigurationError, StoreError
from langchain_llmops.core.events import Bus
from langchain_llmops.core.redaction import redact
from langchain_llmops.ledger.cached import CacheUse, cache_use
from langchain_llmops.ledger.report import counted
from langchain_llmops.stores.base import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_llmops.cache.explain import Standing
    from langchain_llmops.cache.tiered import TieredCache
    from langchain_llmops.core.settings import Settings

__all__ = ["cache"]

KEY: Final = re.compile(r"[0-9a-f]{64}")
NOTHING_FOUND: Final = 1
State = Annotated[Path | None, typer.Option(help="The folder with cache.db (LLMOPS_STATE_DIR).")]
Redis = Annotated[str | None, typer.Option(help="redis://… of the cache (LLMOPS_REDIS_URL).")]
Postgres = Annotated[str | None, typer.Option(help="postgresql://… of the cache (LLMOPS_POSTGRES_URL).")]
Tenant = Annotated[str | None, typer.Option(help="The application's (LLMOPS_TENANT).")]
Namespace = Annotated[str | None, typer.Option(help="The application's (LLMOPS_CACHE_NAMESPACE).")]

cache = typer.Typer(name="cache", help="Look into the LLM cache, empty it and fill it.", no_args_is_help=True)
cache.command()(warm)


@cache.command()
@scoped
def stats(scope: Scope, *, redis: Redis = None) -> None:
    """Which levels can be reached and how fast; what the cache answered and saved, from the ledger.

    A level that cannot be reached makes the exit code 1.
    Example: llmops cache stats --since 24h
    """
    settings = on_redis(scope.settings, redis)
    levels = [_reached(level, *place, settings) for level, place in _places(settings).items()]
    notes: list[str] = []
    total, models = CacheUse(), list[CacheUse]()
    try:
        total, models = scope.read(lambda sql: cache_use(sql, scope.chosen))
    except ConfigurationError as error:  # no ledger: the levels are worth seeing without one
        notes.append(redact(str(error)))
    sheets = [_levels_sheet(levels), _answers_sheet(total), _models_sheet(models)]
    facts = {"total": _row(total)}
    emit(scope.form, sheets if scope.form != "csv" else sheets[2:], facts=facts, notes=notes or _notes(scope, total))
    if any(level["error"] for level in levels):
        raise typer.Exit(1)


@cache.command()
def explain(
    key: Annotated[str, typer.Argument(metavar="KEY", help="`key` of a hit's response_metadata['llmops_cache'].")],
    *,
    tag: Annotated[list[str] | None, typer.Option(help="A tag to name where it was invalidated; repeatable.")] = None,
    shows_text: Annotated[bool, typer.Option("--text", help="Print the answer's text, too.")] = False,
    tenant: Tenant = None,
    namespace: Namespace = None,
    state: State = None,
    redis: Redis = None,
    postgres: Postgres = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Where an answer is: its age, time left, size and model, and whether its tags still hold.

    The levels below memory are asked; what is in the memory of running processes cannot be seen. Exit code 1 when no
    level has the key. Tenant and namespace must be those of the application: what was invalidated under others is
    no more than "a tag not named here".
    Example: llmops cache explain 3f9a…
    """
    if not KEY.fullmatch(key):
        raise ConfigurationError(f"KEY is 64 characters of 0-9 and a-f, not {key[:80]!r}")
    with _opened(_settings(state, redis, postgres, tenant), namespace) as found:
        standings = [one for one in found.explain(key, tag or ()) if one.level != "L1"]
    if all(one.state == "absent" for one in standings):
        _say(f"no level of the cache has {key}")
        raise typer.Exit(NOTHING_FOUND)
    told = "".join(f"{one.text}\n" for one in standings[:1] if one.text) if shows_text else ""
    rows = [_standing_row(one, shows_text=shows_text) for one in standings]
    columns = {
        "level": Column("level"),
        "state": Column("state"),
        "age_s": Column("age", seconds),
        "left_s": Column("fresh for", seconds),
        "size_bytes": Column("bytes", count),
        "model": Column("model"),
        "saved_usd": Column("saves", usd),
        "changed": Column("invalidated by", _joined),
    }
    emit(
        "json" if as_json else "table",
        [Sheet("levels", key, columns, rows)],
        facts={"key": key},
        notes=told.splitlines(),
    )


@cache.command()
def invalidate(
    tag: Annotated[list[str], typer.Option(help="A tag whose answers are forgotten; repeatable.")],
    *,
    tenant: Tenant = None,
    namespace: Namespace = None,
    state: State = None,
    redis: Redis = None,
    postgres: Postgres = None,
) -> None:
    """Forget every answer that carries one of the tags, in running processes within 250 ms.

    The tenant is that of the application, or one that its runs name; the namespace must be the application's: tags of
    others are other tags, and no answer has them.
    Example: llmops cache invalidate --tag doc:policy --tag user:42
    """
    tags = [plain(one, "--tag") for one in tag]
    settings = _settings(state, redis, postgres, tenant)
    with _opened(_settings(state, redis, postgres, None), namespace) as found:
        found.invalidate(tags, tenant=settings.tenant)
    typer.echo(f"invalidated {counted(len(tags), 'tag', 'tags')} of {_whose(settings, namespace)}")


@cache.command()
def clear(
    *,
    namespace: Namespace = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    tenant: Tenant = None,
    state: State = None,
    redis: Redis = None,
    postgres: Postgres = None,
) -> None:
    """Forget every answer of a namespace, in running processes within 250 ms; nothing is scanned.

    The tenant is that of the application, or one that its runs name; the namespace must be the application's: answers
    of others stay.
    Example: llmops cache clear --namespace prompts-v2 --yes
    """
    settings = _settings(state, redis, postgres, tenant)
    with _opened(_settings(state, redis, postgres, None), namespace) as found:
        if not yes and not _agreed(f"Forget every cached answer of {_whose(settings, namespace)}?"):
            _say("nothing was cleared")
            raise typer.Exit(1)
        found.clear(tenant=settings.tenant)
    typer.echo(f"cleared the cache of {_whose(settings, namespace)}")


def _agreed(question: str) -> bool:
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        raise ConfigurationError("nothing was cleared; --yes clears without asking") from None


# where


def _settings(state: Path | None, redis: str | None, postgres: str | None, tenant: str | None) -> Settings:
    given = {} if tenant is None else {"tenant": plain(tenant, "--tenant")}
    return on_redis(settings_for(state, postgres, **given), redis)


def _places(settings: Settings) -> dict[str, tuple[str, str]]:
    """URL and setting by level; a cache that does not exist is not made."""
    from langchain_llmops.parts import cache_places  # noqa: PLC0415 - imports LangGraph and the checkpointer

    folder = settings.state_dir.absolute()
    if settings.redis_url is None and settings.postgres_url is None and not (folder / "cache.db").is_file():
        raise ConfigurationError(
            f"there is no cache in {folder}; name its folder with --state, its Redis with --redis, or its database "
            "with --postgres"
        )
    return cache_places(settings)


def _opened(settings: Settings, namespace: str | None) -> TieredCache:
    from langchain_llmops.parts import build_cache  # noqa: PLC0415 - only who opens a cache pays for LangGraph

    _places(settings)
    namespace = None if namespace is None else plain(namespace, "--namespace")
    return build_cache(settings, Bus(), None, namespace=namespace, timeout_s=settings.store_timeout_s)


def _whose(settings: Settings, namespace: str | None) -> str:
    namespace = settings.cache_namespace if namespace is None else namespace
    return f"tenant {settings.tenant!r}, " + (f"namespace {namespace!r}" if namespace else "no namespace")


def _say(line: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"llmops: {line}")


# what


def _reached(level: str, url: str, setting: str, settings: Settings) -> dict[str, Any]:
    logging.getLogger("langchain_llmops").addHandler(logging.NullHandler())  # the row says it
    store = open_store(url, setting=setting, blocking=True, timeout_s=settings.store_timeout_s)
    found: dict[str, Any] = {"level": level, "store": store.url, "latency_s": None, "error": None}
    try:
        found["latency_s"] = drive(store.ping())
    except StoreError as error:
        found["error"] = redact(str(error))
    finally:
        drive(store.aclose())
    return found


def _levels_sheet(levels: Sequence[dict[str, Any]]) -> Sheet:
    columns = {"level": Column("level"), "store": Column("store"), "latency_s": Column("reached in", seconds)}
    if any(level["error"] for level in levels):
        columns["error"] = Column("error", text)
    return Sheet("levels", "Levels below the processes' memory (L1)", columns, levels)


def _answers_sheet(total: CacheUse) -> Sheet:
    answers = total.hits.total() + total.misses
    counts = [(f"hits in {level}", level, number) for level, number in sorted(total.hits.items())]
    rows = [
        {"of": name, "answers": number, "share": number / answers, "saved_usd": total.saved_usd_by_level.get(level)}
        for name, level, number in ([*counts, ("misses", "", total.misses)] if answers else [])
    ]
    columns = {"of": Column(""), "answers": Column("answers", count), "share": Column("share", _percent)}
    return Sheet("answers", "Answers of models", columns | {"saved_usd": Column("saved", usd)}, rows)


def _models_sheet(models: Sequence[CacheUse]) -> Sheet:
    columns = {
        "model": Column("model"),
        "hits": Column("hits", count),
        "misses": Column("misses", count),
        "hit_rate": Column("hit rate", _percent),
        "saved_tokens": Column("tokens saved", count),
        "saved_usd": Column("saved", usd),
    }
    rows = [{"model": use.model, **_row(use)} for use in models]
    return Sheet("models", "By model", columns, rows, ["model", *_row(CacheUse())])


def _row(use: CacheUse) -> dict[str, Any]:
    hits = use.hits.total()
    return {
        "hits": hits,
        "misses": use.misses,
        "hit_rate": use.hit_rate,
        "saved_tokens": use.saved_tokens,
        "saved_usd": None if hits and use.unpriced_hits == hits else use.saved_usd,
        "unpriced_hits": use.unpriced_hits,
    }


def _notes(scope: Scope, total: CacheUse) -> list[str]:
    if not total.hits.total() + total.misses:
        return [scope.nothing]
    unpriced = counted(total.unpriced_hits, "hit is", "hits are")
    notes = {
        f"{unpriced} of models without a price, and not in what was saved.": total.unpriced_hits,
        "A miss is an answer of a provider, also of a model that uses no cache.": True,
    }
    return [note for note, holds in notes.items() if holds]


def _standing_row(one: Standing, *, shows_text: bool) -> dict[str, Any]:
    row = asdict(one)
    if not shows_text:
        del row["text"]
    return row


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
