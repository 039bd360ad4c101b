"""`llmops`: the commands, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from langchain_llmops.core.errors import LLMOpsError
from langchain_llmops.core.redaction import redact

__all__ = ["app", "main"]

BAD_INPUT = 2

app = typer.Typer(
    name="llmops",
    help="Cost, cache, routing, fallbacks, tiered checkpoints and traces for LangChain and LangGraph agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """The console script: errors of ours are one line on stderr and exit code 2."""
    from langchain_llmops.cli.demo import demo  # noqa: PLC0415 - commands load what they need
    from langchain_llmops.cli.settings import settings  # noqa: PLC0415
    from langchain_llmops.cli.simulate import record, simulate  # noqa: PLC0415
    from langchain_llmops.simulator import SimulatorError  # noqa: PLC0415

    for command in (demo, simulate, record, settings):
        app.command()(command)
    try:
        app()
    except (LLMOpsError, SimulatorError) as error:
        Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"llmops: {redact(_one_line(error))}")
        sys.exit(BAD_INPUT)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
