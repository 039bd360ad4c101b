"""How many times a provider is asked when many ask the same at once, in one process and in several.

The provider is the simulator in the parent process; the callers are real `ChatOpenAI` clients in children, as tasks of
one event loop or as threads. Every run has fresh caches and an empty Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import redis

from langchain_llmops.simulator import Latency, running
from tests.benchmarks.cache_subjects import NotMeasuredError, open_ours
from tests.benchmarks.harness import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    from langchain_llmops.simulator.running import RunningSimulator
    from tests.benchmarks.cache_rounds import Bench

OURS, IN_MEMORY, COMMUNITY = "ours", "InMemoryCache", "community RedisCache"
PROCESSES = 4
ANSWER_S = 2.0  # longer than it takes to start 500 calls
DEADLINE_S = 120.0
CALLS = (("tasks", 50), ("tasks", 500), ("threads", 50))


@dataclass(frozen=True)
class Burst:
    """So many calls of one process, through a fresh cache of that kind."""

    kind: str
    how: str
    calls: int
    redis_url: str
    base_url: str


def identical(bench: Bench, repeats: int) -> None:
    """Our worst run beside one of each peer; the target is one call, whatever the ratio."""
    latency = Latency(ttft_s=ANSWER_S, ttft_sigma=0, token_s=0)
    with running(latency=latency) as provider, _children() as children:
        for how, calls in CALLS:
            for processes in (1, PROCESSES):
                seen: dict[str, list[int]] = {}
                for kind in (*[OURS] * repeats, IN_MEMORY, COMMUNITY):
                    burst = Burst(kind, how, calls, bench.url, provider.base_url)
                    with _noting(bench, kind):
                        seen.setdefault(kind, []).append(_asked(provider, children[:processes], burst))
                mine = max(seen.pop(OURS))
                for kind, (theirs,) in seen.items():
                    label = f"{calls} identical {how}, {_counted(processes)}, provider calls: ours / {kind}"
                    bench.rows.append(Figure(label, mine, theirs, mine / theirs, 1, mine == 1))


def _counted(processes: int) -> str:
    return f"{processes} process{'es' if processes > 1 else ''}"


@contextlib.contextmanager
def _noting(bench: Bench, kind: str) -> Iterator[None]:
    try:
        yield
    except NotMeasuredError as error:
        if kind == OURS:
            raise
        bench.notes[f"{kind}, identical calls: {error}"] = None


def _asked(provider: RunningSimulator, children: list[Connection], burst: Burst) -> int:
    """Provider calls of one burst, which is split over the children and starts in all of them at once."""
    with contextlib.closing(redis.Redis.from_url(burst.redis_url)) as server:
        server.flushdb()
    before = provider.stats.requests
    share, rest = divmod(burst.calls, len(children))
    for number, child in enumerate(children):
        child.send(replace(burst, calls=share + (number < rest)))
    wrong = [reason for child in children if (reason := _heard(child))]
    for child in children:
        child.send(not wrong)
    if not wrong:
        wrong = [reason for child in children if (reason := _heard(child))]
    if wrong:
        raise NotMeasuredError(wrong[0])
    return provider.stats.requests - before


def _heard(child: Connection) -> str | None:
    """None when all is well there, else what is not."""
    if not child.poll(DEADLINE_S):
        raise NotMeasuredError("a child process does not answer")
    reason: str | None = child.recv()
    return reason


@contextlib.contextmanager
def _children() -> Iterator[list[Connection]]:
    context = multiprocessing.get_context("spawn")
    pairs = [context.Pipe() for _ in range(PROCESSES)]
    processes = [context.Process(target=_serve, args=(inner,), daemon=True) for _, inner in pairs]
    for process in processes:
        process.start()
    try:
        yield [outer for outer, _ in pairs]
    finally:
        for process in processes:
            process.terminate()
            process.join()


# in a child


def _serve(parent: Connection) -> None:
    """Prepare a burst, say so, wait for the word, make it, say how it went; again and again."""
    logging.disable(logging.ERROR)
    runner = asyncio.Runner()  # one loop: langchain-openai shares its connections between all models of a process
    while True:
        burst: Burst = parent.recv()
        try:
            cache = _cache(burst)
            model = _model(burst, cache)
        except Exception as error:
            parent.send(_told(error))
            parent.recv()
            continue
        parent.send(None)
        if parent.recv():
            parent.send(_made(burst, model, runner))
        if burst.kind == OURS:
            cache.close()


def _cache(burst: Burst) -> Any:
    if burst.kind == OURS:
        return open_ours(burst.redis_url)
    if burst.kind == COMMUNITY:
        from langchain_community.cache import RedisCache

        return RedisCache(redis.Redis.from_url(burst.redis_url))
    from langchain_core.caches import InMemoryCache

    return InMemoryCache()


def _model(burst: Burst, cache: Any) -> Any:
    from langchain_openai import ChatOpenAI

    warnings.simplefilter("ignore")  # the import has set filters of its own
    return ChatOpenAI(
        model="gpt-4o-mini",
        api_key="none",
        base_url=burst.base_url,
        temperature=0,
        max_retries=0,
        timeout=DEADLINE_S,
        cache=cache,
    )


def _made(burst: Burst, model: Any, runner: asyncio.Runner) -> str | None:
    """Ask; the reason when a call failed."""
    question = "What is the capital of France?"
    try:
        if burst.how == "threads":
            with ThreadPoolExecutor(burst.calls) as threads:
                list(threads.map(model.invoke, [question] * burst.calls))
        else:
            runner.run(_together(model, question, burst.calls))
    except Exception as error:
        return _told(error)
    return None


async def _together(model: Any, question: str, calls: int) -> None:
    await asyncio.gather(*(model.ainvoke(question) for _ in range(calls)))


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:120]}"
