"""What is left behind: open runs after 10,000 mixed runs, and memory over 100,000.

`python tests/benchmarks/leaks.py [--quick] [--json FILE]`. Mixed are answers, cancelled calls, abandoned streams, tools
that raise, nested agents, batches and threads. The peer is LangChain's own tracer, given the same runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

sys.path.insert(0, str(Path(__file__).parents[2]))
for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
    os.environ.pop(name, None)
logging.disable(logging.ERROR)

from langchain.agents import create_agent
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_core.tracers import LangChainTracer
from langsmith import Client

from langchain_llmops import LLMOps, Settings
from tests.benchmarks.harness import Figure, arguments, show
from tests.support.models import Hang, ScriptedModel, answer, tool_call

ROUND = 100  # mixed runs of one round: models, tools, turns and chains that a user starts


@tool
def fails(order_id: str) -> str:
    """Always fails."""
    raise ValueError(order_id)


def agent() -> Any:
    """A parent graph around an agent whose tool raises."""
    inner = create_agent(ScriptedModel(answer("", tool_calls=[tool_call("fails", order_id="7")])), [fails])
    return RunnableLambda(lambda question: inner.invoke({"messages": [("user", question)]}))


async def mixed_round(config: dict[str, Any]) -> None:
    """100 runs of every kind."""
    quick, nested = ScriptedModel(), agent()
    for _ in range(30):
        quick.invoke("hi", config)
    await asyncio.gather(*(quick.ainvoke("hi", config) for _ in range(20)))
    for _ in range(10):
        stream = quick.stream("hi", config)
        next(stream)
        stream.close()
    quick.batch(["a"] * 10, config)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: quick.invoke("hi", config), range(10)))
    for _ in range(10):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ScriptedModel(Hang()).ainvoke("hi", config), 0)
    for _ in range(5):
        with contextlib.suppress(ValueError):
            nested.invoke("where is order 7?", config)
    chain = RunnableLambda(lambda text: text) | ScriptedModel(Hang())
    for _ in range(5):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(chain.ainvoke("hi", config), 0.0005)


def resident_mb() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def left_open(ops: LLMOps, rounds: int) -> tuple[int, int]:
    """Open runs of ours, and entries that LangChain's tracer keeps, after `rounds` times 100 mixed runs."""
    tracer = LangChainTracer(client=create_autospec(Client, instance=True))
    for _ in range(rounds):
        await mixed_round({"callbacks": [ops.handler], "metadata": {"user_id": "u"}})
        await mixed_round({"callbacks": [tracer]})
    await asyncio.sleep(0)
    gc.collect()
    return ops.handler.open_runs, len(tracer.run_map) + len(tracer.order_map)


def memory(ops: LLMOps, runs: int) -> list[tuple[int, float]]:
    """Resident memory at ten points over `runs` plain runs."""
    model = ScriptedModel(lambda _: "ok")
    model.asked = Forgetful()
    seen = []
    for number in range(runs + 1):
        if number % (runs // 10) == 0:
            ops.ledger.flush()
            seen.append((number, resident_mb()))
        model.invoke("hi", {"callbacks": [ops.handler], "metadata": {"user_id": f"u{number}", "session_id": "s"}})
    return seen


class Forgetful(list):
    """A list that keeps nothing."""

    def append(self, _: Any) -> None:
        pass


def main() -> None:
    options = arguments(__doc__ or "")
    rounds, runs = (10, 10_000) if options.quick else (100, 100_000)
    with tempfile.TemporaryDirectory() as folder, LLMOps(Settings(state_dir=Path(folder))) as ops:
        opened, kept = asyncio.run(left_open(ops, rounds))
        seen = memory(ops, runs)
        dropped = ops.ledger.dropped
    for number, megabytes in seen:
        print(f"after {number:>7,} runs: {megabytes:6.1f} MB resident")
    first, last = seen[len(seen) // 2][1], seen[-1][1]
    show(
        "What is left behind",
        [
            Figure(
                f"open runs after {rounds * ROUND:,} mixed runs", opened, kept, opened / max(1, kept), 0, opened == 0
            ),
            Figure("records that the ledger dropped", dropped, 0, 0.0, 0, dropped == 0),
            Figure.at_most("resident MB, end / half way", last, first, 1.02),
        ],
        options.json,
    )


if __name__ == "__main__":
    main()
