"""The demo: a simulator, an agent with the whole suite, traffic, and the report."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from langchain.agents import create_agent

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.tokens import default_token_counter
from langchain_llmops.demo.replay import ReplayContext, ReplayMiddleware, recorded_tools
from langchain_llmops.demo.runner import TrafficRunner
from langchain_llmops.demo.shop import SYSTEM_PROMPT, load_data, shop_tools
from langchain_llmops.simulator import FaultPlan, Latency, Replay, Scripted, running
from langchain_llmops.stack import LLMOps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from langchain_core.language_models import BaseChatModel
    from langgraph.graph.state import CompiledStateGraph

    from langchain_llmops.core.settings import Settings
    from langchain_llmops.demo.traffic import Conversation
    from langchain_llmops.ledger.report import Report
    from langchain_llmops.simulator.running import RunningSimulator

__all__ = ["COMPLEX", "SIMPLE", "Demo"]

SIMPLE: Final = "openai:gpt-4o-mini"
COMPLEX: Final = "openai:gpt-4o"
LATENCY: Final = Latency(ttft_s=0.04, token_s=0.001)


@dataclass(frozen=True)
class Demo:
    """One run of the demo; `run()` gives its report.

    Args:
        replay: answer from this recording, the file of the conversations.
        faults: share of model requests that fail on purpose (0 to 1).
        speed: multiplies the simulated latency; 0 for none.
        port: of the simulator; 0 takes a free one. Its address is part of every cache key.
        live: ask the real provider (`OPENAI_API_KEY`) instead of the simulator.
    """

    settings: Settings
    conversations: Sequence[Conversation]
    replay: Path | None = None
    faults: float = 0.0
    seed: int = 0
    concurrency: int = 8
    speed: float = 1.0
    port: int = 0
    live: bool = False

    def run(self, on_turn: Callable[[], None] = lambda: None) -> Report:
        """Run to the end, or until Ctrl-C, which lets the running turns finish; the report covers what was done."""
        with ExitStack() as stack:
            simulator = None if self.live else stack.enter_context(self._simulator())
            ops = stack.enter_context(LLMOps(self.settings))
            return asyncio.run(self._run(ops, simulator, on_turn))

    @contextmanager
    def _simulator(self) -> Iterator[RunningSimulator]:
        behaviour = Replay.from_file(self.replay) if self.replay else Scripted(load_data("script.json"))
        with running(
            behaviour,
            port=self.port,
            faults=FaultPlan.mixed(self.faults, self.seed),
            latency=LATENCY,
            speed=self.speed,
            seed=self.seed,
            count_tokens=default_token_counter().count,
        ) as simulator:
            yield simulator

    async def _run(self, ops: LLMOps, simulator: RunningSimulator | None, on_turn: Callable[[], None]) -> Report:
        runner = TrafficRunner(
            ops,
            self._agents(ops, simulator),
            self.conversations,
            replay=self.replay is not None,
            concurrency=self.concurrency,
            on_turn=on_turn,
        )
        await ops.aping()  # a wrong URL is one clear line before any traffic
        began = time.perf_counter()
        with _interruptible(runner):
            await runner.run()
        extra: dict[str, Any] = {"seconds": time.perf_counter() - began, "resumed": dict(runner.counts)}
        if self.replay:
            extra["replay"] = await runner.check()
        if simulator is not None:
            extra |= _provider_side(simulator, extra)
        extra["failed_conversations"] = runner.failed
        extra["interrupted"] = runner.stopping
        extra["lifecycle"] = await runner.lifecycle()
        return await ops.areport(extra=extra)

    def _agents(
        self, ops: LLMOps, simulator: RunningSimulator | None
    ) -> Callable[[Conversation], CompiledStateGraph[Any, Any, Any, Any]]:
        """One agent per system prompt."""
        model = ops.router(SIMPLE, COMPLEX, **self._provider(simulator))
        tools = recorded_tools(self.conversations) if self.replay else shop_tools()
        made: dict[str | None, CompiledStateGraph[Any, Any, Any, Any]] = {}

        def agent_for(conversation: Conversation) -> CompiledStateGraph[Any, Any, Any, Any]:
            prompt = conversation.system if self.replay else SYSTEM_PROMPT
            if prompt not in made:
                made[prompt] = self._agent(ops, model, tools, prompt)
            return made[prompt]

        return agent_for

    def _agent(self, ops: LLMOps, model: BaseChatModel, tools: list[Any], prompt: str | None) -> Any:
        own = [ReplayMiddleware()] if self.replay else []
        return create_agent(
            model,
            tools,
            system_prompt=prompt,
            middleware=[*ops.middleware(), *own],
            checkpointer=ops.checkpointer,
            context_schema=ReplayContext if self.replay else None,
        )

    def _provider(self, simulator: RunningSimulator | None) -> dict[str, Any]:
        if simulator is not None:
            return {"base_url": simulator.base_url, "api_key": "simulated"}
        if not os.environ.get("OPENAI_API_KEY"):
            raise ConfigurationError("--live needs OPENAI_API_KEY in the environment")
        return {}


def _provider_side(simulator: RunningSimulator, extra: dict[str, Any]) -> dict[str, Any]:
    """What only the simulator can know."""
    stats = simulator.stats
    told: dict[str, Any] = {"injected_faults": dict(stats.faults)}
    if "replay" in extra:
        told["replay"] = {**extra["replay"], "unknown_prefixes": stats.by_code.get("unknown_prefix", 0)}
    return told


@contextmanager
def _interruptible(runner: TrafficRunner) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run between turns."""
    loop = asyncio.get_running_loop()
    try:
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, runner.stop)
    except (NotImplementedError, RuntimeError, ValueError):
        # not the main thread, or a platform without signal handlers: Ctrl-C then raises KeyboardInterrupt as usual
        yield
        return
    try:
        yield
    finally:
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(name)
