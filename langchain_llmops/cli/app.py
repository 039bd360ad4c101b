"""`llmops`: the commands, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.console import Console

from langchain_llmops._version import __version__
from langchain_llmops.cli.signals import end_on_sigterm
from langchain_llmops.core.errors import LLMOpsError
from langchain_llmops.core.redaction import redact

__all__ = ["app", "main"]

BAD_INPUT: Final = 2
INTERRUPTED: Final = 130
# typer carries click inside it since 0.26; the base of its own errors is click's, wherever that lives
USAGE_ERROR: Final[Any] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

app = typer.Typer(
    name="llmops",
    help="Cost, cache, routing, fallbacks, tiered checkpoints and traces for LangChain and LangGraph agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _llmops(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The console script: errors of ours are one line on stderr and exit code 2."""
    try:
        end_on_sigterm()
        _run()
    except KeyboardInterrupt:  # also while the commands are still being imported
        _end("interrupted", INTERRUPTED)


def _run() -> None:
    from langchain_llmops.cli.cache import cache
    from langchain_llmops.cli.checkpoints import checkpoints
    from langchain_llmops.cli.cost import cost
    from langchain_llmops.cli.demo import demo
    from langchain_llmops.cli.prices import prices
    from langchain_llmops.cli.replay import replay
    from langchain_llmops.cli.reports import errors, latency, logs, trace
    from langchain_llmops.cli.settings import settings
    from langchain_llmops.cli.simulate import record, simulate
    from langchain_llmops.cli.traces import traces
    from langchain_llmops.simulator import SimulatorError

    commands = (demo, cost, latency, errors, trace, logs, replay, traces, prices, simulate, record, settings)
    for command in commands:
        app.command()(command)
    app.add_typer(cache, name="cache")
    app.add_typer(checkpoints, name="checkpoints")
    try:
        code = app(standalone_mode=False)
    except (LLMOpsError, SimulatorError) as error:
        _end(redact(_one_line(str(error))), BAD_INPUT)
    except USAGE_ERROR as error:
        said = _one_line(error.format_message())
        _end(f"{said} (see llmops --help)", BAD_INPUT) if said else sys.exit(BAD_INPUT)
    except OSError as error:  # of stdout, as every file of ours has an error of its own
        _end(f"cannot write the output: {error.strerror or type(error).__name__}", BAD_INPUT)
    except typer.Abort:
        _end("interrupted", INTERRUPTED)
    sys.exit(code or 0)


def _end(line: str, code: int) -> NoReturn:
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"llmops: {line}")
    sys.exit(code)


def _one_line(text: str) -> str:
    return " ".join(text.split())
