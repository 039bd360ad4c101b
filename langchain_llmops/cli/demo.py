"""`llmops demo`: the suite at work on real or made traffic."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.redaction import redact
from langchain_llmops.core.settings import Settings
from langchain_llmops.ledger.report import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_llmops.demo.run import Demo
    from langchain_llmops.demo.traffic import Conversation
    from langchain_llmops.ledger.report import Report

__all__ = ["demo"]

MADE = 60


def demo(
    traffic: Annotated[Path | None, typer.Option(help="JSONL of your own messages or conversations.")] = None,
    replay: Annotated[Path | None, typer.Option(help="Answer from this recording: the same file as --traffic.")] = None,
    conversations: Annotated[
        int | None, typer.Option(min=1, help="How many to make (60), or how many of a file to run (all).")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Sessions at a time.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of traffic, latency and faults.")] = 7,
    faults: Annotated[float, typer.Option(min=0, max=1, help="Share of model requests that fail on purpose.")] = 0.0,
    speed: Annotated[float | None, typer.Option(min=0, help="Simulated latency, 1 = as a provider, 0 = none.")] = None,
    cache_scope: Annotated[str | None, typer.Option(help="shared, user or session.")] = None,
    cache_tool_calls: Annotated[bool, typer.Option(help="Cache answers that call tools, too.")] = False,
    fresh: Annotated[bool, typer.Option(help="New sessions, also when --state knows these.")] = False,
    state: Annotated[
        Path | None, typer.Option(help="Keep everything here; a second run goes on with its sessions.")
    ] = None,
    redis: Annotated[str | None, typer.Option(help="redis://… for the cache and the hot tier.")] = None,
    postgres: Annotated[str | None, typer.Option(help="postgresql://… for the ledger and the warm tier.")] = None,
    objects: Annotated[str | None, typer.Option(help="s3://… for the cold tier.")] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the simulator; the same for runs that share a cache.")
    ] = 0,
    live: Annotated[bool, typer.Option(help="Ask the real provider; needs OPENAI_API_KEY and costs money.")] = False,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures as JSON.")] = None,
    html_out: Annotated[Path | None, typer.Option("--html", help="Write the report as a page.")] = None,
) -> None:
    """Run a support agent on simulated (or real) traffic with everything attached, and report.

    Example: llmops demo --conversations 100 --faults 0.1 --html report.html
    """
    if live and (replay is not None or faults or speed is not None or port):
        raise ConfigurationError("--replay, --faults, --speed and --port are for the simulator: give them or --live")
    _check_outputs({"--json": json_out, "--html": html_out})
    chosen = _conversations(traffic, replay, conversations, seed)
    if fresh:
        suffix = uuid4().hex[:8]
        for conversation in chosen:
            conversation.session = f"{conversation.session}@{suffix}"
    with ExitStack() as stack:
        said = Settings().model_fields_set  # what the environment sets is kept, unless an option says otherwise
        if state is None and "state_dir" not in said:
            scratch = tempfile.TemporaryDirectory(prefix="llmops-demo-", ignore_cleanup_errors=True)
            state = Path(stack.enter_context(scratch))
        own_scope = "session" if replay is not None and "cache_scope" not in said else None
        options: dict[str, Any] = {
            "state_dir": state,
            "redis_url": redis,
            "postgres_url": postgres,
            "objects_url": objects,
            "cache_scope": cache_scope or own_scope,
            "cache_tool_calls": cache_tool_calls or None,
        }
        if not live:
            options |= {"retry_base_s": 0.02, "retry_max_s": 0.5, "max_attempts": 4, "request_timeout_s": 10.0}
        settings = Settings(**{name: value for name, value in options.items() if value is not None})
        run = _demo(settings, chosen, replay=replay, faults=faults, seed=seed, concurrency=concurrency)
        report = _with_progress(run(speed=_speed(speed, replay), port=port, live=live), chosen)
    print(report)  # noqa: T201 - the output of the command
    _write(report, json_out, html_out)
    _judge(report)


def _judge(report: Report) -> None:
    """Say on stderr what a complete-looking report would hide; an exit code of 1 when nothing was answered."""
    figures = report.as_dict()
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    if figures["interrupted"]:
        console.print("llmops: interrupted; the report covers what was done until then")
    for session, reason in list(figures["failed_conversations"].items())[:1]:
        lost = counted(len(figures["failed_conversations"]), "conversation was", "conversations were")
        console.print(f"llmops: {lost} given up; {session}: {redact(' '.join(reason.split()))}")
    if figures["failed_conversations"] and not figures["turns"]:
        raise typer.Exit(1)


def _demo(settings: Settings, chosen: list[Conversation], **options: Any) -> Any:
    from langchain_llmops.demo.run import Demo  # noqa: PLC0415 - imports LangChain, LangGraph and the drivers

    return partial(Demo, settings, chosen, **options)


def _speed(speed: float | None, replay: Path | None) -> float:
    return speed if speed is not None else (0.0 if replay else 1.0)


def _conversations(traffic: Path | None, replay: Path | None, count: int | None, seed: int) -> list[Conversation]:
    from langchain_llmops.demo.traffic import made_traffic, read_traffic  # noqa: PLC0415 - after the options are checked

    if replay is None:
        return read_traffic(traffic)[:count] if traffic is not None else made_traffic(count or MADE, seed)
    if traffic is not None and traffic.resolve() != replay.resolve():
        raise ConfigurationError("--replay must be the same file as --traffic: it holds the answers to that traffic")
    recorded = read_traffic(replay)
    bare = next((c.session for c in recorded if c.recorded is None), None)
    if bare is not None:
        raise ConfigurationError(
            f"{replay}: session {bare!r} has no recorded answers; --replay needs whole conversations"
        )
    return recorded[:count]


def _with_progress(run: Demo, chosen: list[Conversation]) -> Report:
    logging.getLogger("langchain_llmops").addHandler(logging.NullHandler())
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("turns", total=sum(len(conversation.turns) for conversation in chosen))
        return run.run(on_turn=lambda: progress.advance(task))


def _check_outputs(paths: Mapping[str, Path | None]) -> None:
    for option, path in paths.items():
        if path is not None and str(path) == "-":
            raise ConfigurationError(f"{option} takes a file, not '-': the report itself goes to stdout")
        if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
            raise ConfigurationError(f"cannot write {path}: it must be a file in a folder that exists and is writable")


def _write(report: Report, json_out: Path | None, html_out: Path | None) -> None:
    for path, text in (
        (json_out, json.dumps(report.as_dict(), indent=2, ensure_ascii=False) + "\n"),
        (html_out, report.page("llmops demo")),
    ):
        if path is None:
            continue
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error
