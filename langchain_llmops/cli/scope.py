"""The options that every report has: which ledger, which calls, which form."""

from __future__ import annotations

import inspect
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar
from urllib.parse import quote

import typer

from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.redaction import redact_url
from langchain_llmops.core.settings import Settings
from langchain_llmops.ledger.filters import Filter
from langchain_llmops.ledger.schema import MIGRATIONS
from langchain_llmops.stores.base import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from langchain_llmops.cli.tables import Form
    from langchain_llmops.stores.base import Sql, Store

__all__ = ["Scope", "duration_s", "on_redis", "open_ledger", "parse_moment", "plain", "scoped", "settings_for"]

T = TypeVar("T")

LONGEST_S: Final = 1e11  # some 3,000 years
UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
LENGTH: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*(ms|s|m|h|d|w)")
TABLES: Final = {
    "sqlite": "SELECT COUNT(*) FROM sqlite_master WHERE name = 'llmops_calls'",
    "postgresql": "SELECT COUNT(*) FROM pg_class WHERE oid = to_regclass('llmops_calls')",
}

OPTIONS: Final[dict[str, Any]] = {
    "since": Annotated[str | None, typer.Option(help="7d, 24h, 2026-11-01 or 2026-11-01T09:30 (UTC).")],
    "until": Annotated[str | None, typer.Option(help="The same; up to and without that moment.")],
    "user": Annotated[str | None, typer.Option(help="Only this user's calls.")],
    "session": Annotated[str | None, typer.Option(help="Only this session's calls.")],
    "model": Annotated[str | None, typer.Option(help="Only calls of this model.")],
    "tenant": Annotated[str | None, typer.Option(help="Only this tenant's calls.")],
    "state": Annotated[Path | None, typer.Option(help="The folder with ledger.db (LLMOPS_STATE_DIR).")],
    "postgres": Annotated[str | None, typer.Option(help="postgresql://… of the ledger (LLMOPS_POSTGRES_URL).")],
    "as_json": Annotated[bool, typer.Option("--json", help="JSON on stdout.")],
    "as_csv": Annotated[bool, typer.Option("--csv", help="CSV on stdout.")],
}


@dataclass(frozen=True)
class Scope:
    """What a report is asked for: `chosen` calls of the ledger of `settings`, in this `form`."""

    settings: Settings
    chosen: Filter
    form: Form
    now: float

    def read(self, query: Callable[[Sql], Coroutine[Any, Any, T]]) -> T:
        """Ask the ledger; one that does not exist is not made. Raises `ConfigurationError` naming where it looked."""
        store = open_ledger(self.settings)
        try:
            return drive(_ask(store, self.place, query))
        finally:
            drive(store.aclose())

    @property
    def place(self) -> str:
        """The folder or the database, for people."""
        url = self.settings.postgres_url
        return str(self.settings.state_dir.absolute()) if url is None else redact_url(url.get_secret_value())

    @property
    def nothing(self) -> str:
        """What to say when no call matches."""
        return f"Nothing matched: the ledger in {self.place} has no such calls."


def scoped(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is a `Scope`, with the options that make one after its own."""

    def run(**options: Any) -> None:
        shared = {name: options.pop(name) for name in OPTIONS}
        command(_scope(**shared), **options)

    own = inspect.signature(command, eval_str=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [p.replace(kind=keyword) for p in list(own.parameters.values())[1:]]
    parameters += [
        inspect.Parameter(name, keyword, default=False if name.startswith("as_") else None, annotation=option)
        for name, option in OPTIONS.items()
    ]
    # typer reads the command line of a function from these
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # functions take attributes; typer reads this one
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def settings_for(state: Path | None, postgres: str | None, **more: Any) -> Settings:
    """The environment's settings; a folder that is named goes before the databases that the environment names."""
    options: dict[str, Any] = more | {"log_calls": "off"}
    if state is not None:
        plain(str(state), "--state")
        options = {"redis_url": None} | options | {"state_dir": state, "postgres_url": None}
    if postgres == "":
        raise ConfigurationError("--postgres takes postgresql://host/db, and is empty")
    if postgres is not None:
        options["postgres_url"] = plain(postgres, "--postgres")
    return Settings(**options)


def on_redis(settings: Settings, redis: str | None) -> Settings:
    """The same with another Redis, if one is named."""
    if redis is None:
        return settings
    if not redis:
        raise ConfigurationError("--redis takes redis://host:6379/0, and is empty")
    return Settings(**(settings.model_dump(exclude_unset=True) | {"redis_url": plain(redis, "--redis")}))


def open_ledger(settings: Settings) -> Store:
    """The store of an existing ledger, for blocking use."""
    timeout_s = settings.store_timeout_s
    if settings.postgres_url is not None:
        url = settings.postgres_url.get_secret_value()
        return open_store(url, setting="LLMOPS_POSTGRES_URL", blocking=True, timeout_s=timeout_s)
    file = settings.state_dir.absolute() / "ledger.db"
    if not file.is_file():
        raise ConfigurationError(_absent(str(file.parent)))
    return open_store(f"sqlite:///{quote(str(file))}", setting="LLMOPS_STATE_DIR", blocking=True, timeout_s=timeout_s)


def parse_moment(words: str, now: float, option: str) -> float:
    """Unix seconds of `7d` (that long before `now`) or of an ISO date or time, in UTC where it names no zone."""
    length = LENGTH.fullmatch(words.strip())
    if length is not None:
        return now - float(length[1]) * UNITS[length[2]]
    try:
        moment = datetime.fromisoformat(words.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"{option} takes a length like 7d, 24h or 30m, or a date like 2026-11-01, not {words!r}"
        ) from error


def duration_s(words: str, option: str) -> float:
    """Seconds of `2s`, `500ms`, `1.5m`."""
    length = LENGTH.fullmatch(words.strip())
    if length is None:
        raise ConfigurationError(f"{option} takes a length like 500ms, 2s or 7d, not {words!r}")
    return min(float(length[1]) * UNITS[length[2]], LONGEST_S)


def plain(words: str, option: str) -> str:
    """The words, if a database can be asked for them. Raises `ConfigurationError` naming the option."""
    if any(character == "\x00" or "\ud800" <= character <= "\udfff" for character in words):
        raise ConfigurationError(f"{option} must be valid UTF-8 text without NUL characters, not {words!r}")
    return words


def _scope(
    *,
    since: str | None,
    until: str | None,
    user: str | None,
    session: str | None,
    model: str | None,
    tenant: str | None,
    state: Path | None,
    postgres: str | None,
    as_json: bool,
    as_csv: bool,
) -> Scope:
    if as_json and as_csv:
        raise ConfigurationError("give --json or --csv, not both")
    now = time.time()
    begin = None if since is None else parse_moment(since, now, "--since")
    end = None if until is None else parse_moment(until, now, "--until")
    if begin is not None and end is not None and begin >= end:
        raise ConfigurationError("--since must be before --until")
    for name, words in {"--user": user, "--session": session, "--model": model, "--tenant": tenant}.items():
        plain(words or "", name)
    chosen = Filter(begin, end, user, session, model, tenant)
    form: Form = "json" if as_json else "csv" if as_csv else "table"
    return Scope(settings_for(state, postgres), chosen, form, now)


async def _ask(store: Store, place: str, query: Callable[[Sql], Coroutine[Any, Any, T]]) -> T:
    sql = store.sql
    if not (await sql.fetch(TABLES[sql.dialect]))[0][0]:
        raise ConfigurationError(_absent(place))
    await sql.migrate("ledger", MIGRATIONS)
    return await query(sql)


def _absent(place: str) -> str:
    return f"there is no ledger in {place}; name its folder with --state, or its database with --postgres"
