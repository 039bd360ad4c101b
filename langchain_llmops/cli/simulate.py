"""`llmops simulate` and `llmops record`: a provider without a key, and a recording of one with a key."""

import json
from pathlib import Path
from typing import Annotated

import typer

from langchain_llmops.cli.signals import until_signalled
from langchain_llmops.core.tokens import default_token_counter
from langchain_llmops.simulator import (
    Behaviour,
    Echo,
    FaultPlan,
    Latency,
    Replay,
    Scripted,
    SimulatorError,
    recording,
    running,
)
from langchain_llmops.simulator.types import DEFAULT_MODELS

__all__ = ["record", "simulate"]


def simulate(
    *,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    script: Annotated[Path | None, typer.Option(help="Answer by the rules of this YAML or JSON file.")] = None,
    replay: Annotated[Path | None, typer.Option(help="Answer from these recorded conversations (JSONL).")] = None,
    speed: Annotated[float, typer.Option(help="Multiplies all delays; 0 for none.")] = 1.0,
    ttft_ms: Annotated[float, typer.Option(help="Median time to the first token.")] = 300.0,
    token_ms: Annotated[float, typer.Option(help="Median time per further token.")] = 20.0,
    seed: Annotated[int, typer.Option(help="Seed of delays and faults.")] = 0,
    faults: Annotated[float, typer.Option(help="Share of requests that fail in ways a retry can mend.")] = 0.0,
    fault: Annotated[list[str] | None, typer.Option(help="KIND=RATE, once per kind of fault.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model to serve, once per name.")] = None,
) -> None:
    """Serve an OpenAI-compatible API without a key, until Ctrl-C; echoes unless a script or a replay is given."""
    with running(
        _behaviour(script, replay),
        host=host,
        port=port,
        count_tokens=default_token_counter().count,
        faults=_plan(faults, fault or [], seed),
        latency=Latency(ttft_s=ttft_ms / 1000, token_s=token_ms / 1000),
        speed=speed,
        seed=seed,
        models=model or DEFAULT_MODELS,
    ) as simulator:
        until_signalled(lambda: typer.echo(f"listening on {simulator.base_url}"))
    typer.echo(json.dumps(simulator.stats.as_dict()))


def record(
    file: Annotated[Path, typer.Argument(help="The JSONL file to write; gone on with when it exists.")],
    *,
    upstream: Annotated[str, typer.Option(help="Base URL of the provider, like https://api.openai.com/v1.")],
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Pass requests on to a provider and record its conversations for `simulate --replay`, until Ctrl-C."""
    with recording(file, upstream, host=host, port=port) as recorder:
        until_signalled(lambda: typer.echo(f"listening on {recorder.url}/v1"))
    typer.echo(f"{recorder.conversations} conversations in {file}")


def _behaviour(script: Path | None, replay: Path | None) -> Behaviour:
    if script is not None and replay is not None:
        raise SimulatorError("give --script or --replay, not both")
    if script is not None:
        return Scripted.from_file(script)
    return Replay.from_file(replay) if replay is not None else Echo()


def _plan(rate: float, kinds: list[str], seed: int) -> FaultPlan:
    rates = dict(FaultPlan.mixed(rate, seed).rates)
    for text in kinds:
        kind, _, number = text.partition("=")
        try:
            rates[kind] = float(number)
        except ValueError as error:
            raise SimulatorError(f"--fault takes KIND=RATE like rate_limit=0.1, not {text!r}") from error
    return FaultPlan(rates=rates, seed=seed)
