"""Which conversations a command is about: the options that say where they are, and the checkpointer over them."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from langchain_llmops.cli.scope import on_redis, plain, settings_for
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.redaction import redact_url
from langchain_llmops.core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_llmops.checkpoint.saver import TieredCheckpointSaver

__all__ = ["NOTHING_FOUND", "AsJson", "Objects", "Place", "Postgres", "Redis", "State", "Tenant", "agree", "say"]

NOTHING_FOUND = 1
State = Annotated[Path | None, typer.Option(help="The folder with checkpoints.db (LLMOPS_STATE_DIR).")]
Redis = Annotated[str | None, typer.Option(help="redis://… of the hot tier (LLMOPS_REDIS_URL).")]
Postgres = Annotated[str | None, typer.Option(help="postgresql://… of the warm tier (LLMOPS_POSTGRES_URL).")]
Objects = Annotated[str | None, typer.Option(help="s3://… of the cold tier (LLMOPS_OBJECTS_URL).")]
Tenant = Annotated[str | None, typer.Option(help="The application's (LLMOPS_TENANT).")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


class Place:
    """The conversations that options and environment name."""

    def __init__(
        self, state: Path | None, redis: str | None, postgres: str | None, objects: str | None, tenant: str | None
    ) -> None:
        given = {} if tenant is None else {"tenant": plain(tenant, "--tenant")}
        self.settings = on_redis(settings_for(state, postgres, **given), redis)
        if objects is not None:
            if not objects:
                raise ConfigurationError("--objects takes s3://bucket/prefix or file:///folder, and is empty")
            chosen: dict[str, Any] = {"objects_url": plain(objects, "--objects")}
            self.settings = Settings(**(self.settings.model_dump(exclude_unset=True) | chosen))

    def __str__(self) -> str:
        url = self.settings.postgres_url
        return str(self.settings.state_dir.absolute()) if url is None else redact_url(url.get_secret_value())

    @property
    def tenant(self) -> str:
        """Whose conversations."""
        return f"tenant {self.settings.tenant!r}"

    @contextmanager
    def opened(self) -> Iterator[TieredCheckpointSaver]:
        """Their checkpointer, as the application's; one that does not exist is not made."""
        from langchain_llmops.parts import build_checkpointer  # noqa: PLC0415 - imports LangGraph and the drivers

        if self.settings.postgres_url is None and not (self.settings.state_dir.absolute() / "checkpoints.db").is_file():
            raise ConfigurationError(
                f"there are no conversations in {self}; name their folder with --state, or their database with"
                " --postgres"
            )
        for name in ("langgraph", "langchain_llmops"):
            logging.getLogger(name).addHandler(logging.NullHandler())  # errors are told on stderr
        with build_checkpointer(self.settings, ()) as saver:
            yield saver

    def missing(self, thread: str) -> str:
        """What to say of a conversation that is not there."""
        return f"{self.tenant} has no conversation {thread!r} in {self}"


def say(line: str) -> None:
    """On stderr, with the program's name."""
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"llmops: {' '.join(line.split())}")


def agree(question: str, what: str) -> None:
    """Go on only if the user says so; what is then not done is `what`."""
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        raise ConfigurationError(f"nothing was {what}; --yes does not ask") from None
    if not agreed:
        say(f"nothing was {what}")
        raise typer.Exit(1)
