"""`llmops traces`: LangSmith's traces without an account."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from langchain_llmops.cli.signals import until_signalled
from langchain_llmops.core.errors import MissingExtraError
from langchain_llmops.core.settings import Settings

__all__ = ["traces"]

SAID = """traces at {url} (kept in {place}); for the programs to be seen there:
  export LANGSMITH_TRACING=true
  export LANGSMITH_ENDPOINT={url}
  export LANGSMITH_API_KEY=local"""


def traces(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 1984,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than loopback show traces to the network.")
    ] = "127.0.0.1",
    state: Annotated[Path | None, typer.Option(help="Folder of traces.db, instead of LLMOPS_STATE_DIR.")] = None,
) -> None:
    """Record and show the traces of LangChain programs, in place of LangSmith, until Ctrl-C.

    They are kept in PostgreSQL when LLMOPS_POSTGRES_URL is set, else in traces.db in the state folder.
    """
    settings = Settings() if state is None else Settings(state_dir=state)
    try:
        from langchain_llmops.recorder.running import running  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("llmops traces", "serve") from error
    url, setting, place = _database(settings)
    with running(url, setting=setting, timeout_s=settings.store_timeout_s, host=host, port=port) as recorder:
        until_signalled(lambda: typer.echo(SAID.format(url=recorder.url, place=place)))


def _database(settings: Settings) -> tuple[str, str, str]:
    """URL, the setting that named it, and what may be shown of it."""
    if settings.postgres_url is not None:
        return settings.postgres_url.get_secret_value(), "LLMOPS_POSTGRES_URL", "PostgreSQL, LLMOPS_POSTGRES_URL"
    file = settings.state_dir.absolute() / "traces.db"
    return f"sqlite:///{quote(str(file))}", "LLMOPS_STATE_DIR", str(file)
