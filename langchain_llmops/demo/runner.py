"""Traffic through an agent: many sessions at once, every turn finished or resumed, never sent twice."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.demo.replay import ReplayContext, mismatches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import RunnableConfig
    from langgraph.graph.state import CompiledStateGraph

    from langchain_llmops.demo.traffic import Conversation
    from langchain_llmops.stack import LLMOps

__all__ = ["TrafficRunner"]

_log = logging.getLogger(__name__)

MAX_RESUMES: Final = 8
ARCHIVE_EVERY: Final = 4


class TrafficRunner:
    """Runs conversations through agents, `concurrency` sessions at a time.

    A session that the checkpointer already knows goes on where it stands: an unfinished turn is resumed with
    `ainvoke(None, config)`, messages already answered are not sent again. `stop()` lets running turns end and begins
    no new ones.

    Args:
        agent_for: the agent of a conversation.
        replay: the conversations are recordings, each run once.
        on_turn: called after every finished turn.
    """

    def __init__(
        self,
        ops: LLMOps,
        agent_for: Callable[[Conversation], CompiledStateGraph[Any, Any, Any, Any]],
        conversations: Sequence[Conversation],
        *,
        replay: bool,
        concurrency: int,
        on_turn: Callable[[], None],
    ) -> None:
        self._ops = ops
        self._agent_for = agent_for
        self._conversations = conversations
        self._replay = replay
        self._slots = asyncio.Semaphore(concurrency)
        self._on_turn = on_turn
        self.stopping = False
        self.counts: Counter[str] = Counter()
        self.failed: dict[str, str] = {}

    def stop(self) -> None:
        """Begin no further turn."""
        self.stopping = True

    async def run(self) -> None:
        """Every conversation to its end."""
        done = await asyncio.gather(*(self._stored(c) for c in self._conversations))
        answered = [sum(message.type == "human" for message in messages) for messages in done]
        rounds = [count // len(c.turns) for count, c in zip(answered, self._conversations, strict=True)]
        current = min(rounds, default=0)
        await asyncio.gather(
            *(
                self._session(c, count, goal=len(c.turns) * (1 if self._replay else current + 1))
                for c, count in zip(self._conversations, answered, strict=True)
            )
        )

    async def check(self) -> dict[str, int]:
        """Every recorded conversation read back from the checkpointer and compared message for message."""
        totals: Counter[str] = Counter()
        for conversation in self._conversations:
            messages = await self._stored(conversation)
            wrong = set(mismatches(conversation, messages))
            right = [message for place, message in enumerate(messages) if place not in wrong]
            totals["assistant_messages"] += sum(message.type == "ai" for message in right)
            totals["tool_results"] += sum(message.type == "tool" for message in right)
            totals["recording_ends"] += not wrong
            totals["mismatches"] += len(wrong)
        return dict(totals)

    async def lifecycle(self) -> list[dict[str, Any]]:
        """Conversations through the tiers, as time would move them, with what each tier holds after every step.

        Every fourth is archived, as if closed long ago; one of them is continued, which needs its newest checkpoints
        alone, then restored whole and archived again.
        """
        saver = self._ops.checkpointer
        steps = [await self._step("the traffic has ended")]
        closed = [c for c in self._conversations[::ARCHIVE_EVERY] if c.session not in self.failed]
        moved = [c for c in closed if await saver.aarchive(c.session)]
        steps.append(await self._step(f"{len(moved):,} closed ones are archived", archived=len(moved)))
        if moved:
            said = await self._continue(moved[0])
            steps.append(
                await self._step(f"one of them is continued after {said:,} messages", session=moved[0].session)
            )
            await saver.arestore(moved[0].session)
            steps.append(await self._step("its whole history is restored"))
            await saver.aarchive(moved[0].session)
            steps.append(await self._step("it is archived again"))
        return steps

    async def _continue(self, conversation: Conversation) -> int:
        """Go on in a stored conversation without asking a model; how many messages it came back with."""
        messages = await self._stored(conversation)
        told = self._config(conversation)
        unheard: RunnableConfig = {"configurable": told["configurable"], "metadata": told["metadata"]}  # it is no turn
        await self._agent_for(conversation).aupdate_state(unheard, None)
        return len(messages)

    async def _step(self, name: str, **more: Any) -> dict[str, Any]:
        stats = await self._ops.checkpointer.astats()
        return {"step": name, **stats.threads_by_tier, "bytes": dict(stats.bytes_by_tier), **more}

    async def _session(self, conversation: Conversation, answered: int, *, goal: int) -> None:
        async with self._slots:
            agent = self._agent_for(conversation)
            if answered and (await agent.aget_state(self._config(conversation))).next:
                await self._turn(conversation, agent, None)
            for number in range(answered, goal):
                if self.stopping or conversation.session in self.failed:
                    return
                message = conversation.turns[number % len(conversation.turns)]
                await self._turn(conversation, agent, {"messages": [{"role": "user", "content": message}]})
                self._on_turn()

    async def _turn(
        self,
        conversation: Conversation,
        agent: CompiledStateGraph[Any, Any, Any, Any],
        value: Mapping[str, Any] | None,
    ) -> None:
        context = ReplayContext(conversation) if self._replay else None
        for _ in range(MAX_RESUMES):
            try:
                await agent.ainvoke(value, self._config(conversation), context=context)
            except Exception as error:  # noqa: BLE001 - counted, and the turn is resumed
                self.counts[type(error).__name__] += 1
                last = error
                state = await agent.aget_state(self._config(conversation))
                value = None if state.next else value
            else:
                return
        self.failed[conversation.session] = f"{type(last).__name__}: {last}"
        _log.error("session %s was given up after %d resumes: %s", conversation.session, MAX_RESUMES, last)

    async def _stored(self, conversation: Conversation) -> list[BaseMessage]:
        state = await self._agent_for(conversation).aget_state(self._config(conversation))
        messages: list[BaseMessage] = state.values.get("messages", [])
        return messages

    def _config(self, conversation: Conversation) -> RunnableConfig:
        return self._ops.config(user_id=conversation.user, session_id=conversation.session, tags=["demo"])
