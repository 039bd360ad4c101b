"""A client of a checkpointer that notes what it was told: turns as LangGraph makes them, and all else it can ask."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import INTERRUPT
from langgraph.checkpoint.base.id import uuid6

from langchain_llmops.core.errors import LLMOpsError
from tests.support.acknowledged import writes_of
from tests.support.canonical import digest_of_checkpoint
from tests.support.checkpoints import Caller, checkpoint, config

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from random import Random

    from tests.support.acknowledged import Ledger

__all__ = ["Client"]

KEPT_MESSAGES = 12
PAUSE_S = 0.02


class Client:
    """Talks on some threads; each operation is in the ledger before it begins and once it was acknowledged.

    Args:
        draw: sizes and contents.
        colour: whether the saver's async or its sync methods are called.
        patience_s: how long what may be tried again is, after an error that says so.
        user: the owner of its threads.
    """

    def __init__(
        self,
        saver: Any,
        ledger: Ledger,
        draw: Random,
        *,
        colour: str = "async",
        patience_s: float = 0.0,
        user: str | None = None,
    ) -> None:
        self.saver = saver
        self.ledger = ledger
        self.draw = draw
        self.heads: dict[tuple[str, str], tuple[str | None, dict[str, Any], dict[str, Any]]] = {}
        self.errors: list[LLMOpsError] = []
        self._caller = Caller(saver, colour)
        self._patience_s = patience_s
        self._more = {"metadata": {"user_id": user}} if user else {}
        self._acked: dict[tuple[str, str], str] = {}

    # writing

    async def put(self, thread: str, ns: str = "", *, parent: str | None = None, id: str | None = None) -> str:  # noqa: A002 - what it is
        """A checkpoint after the newest this client knows, or below `parent`; its id."""
        before, values, versions = self.heads.get((thread, ns), (None, {}, {}))
        before = parent if parent is not None else before
        values, changed = self._next(values)
        versions = {**versions, **{name: self.saver.get_next_version(versions.get(name), None) for name in changed}}
        made = checkpoint(values, versions, **({"id": id} if id else {}))
        told = {"source": "loop", "step": values["step"], "parents": {}}
        at = config(thread, ns, before, **self._more)
        await self._noted(
            lambda: self._caller.call("put", at, made, told, {name: versions[name] for name in changed}),
            "put",
            thread=thread,
            ns=ns,
            id=made["id"],
            digest=digest_of_checkpoint(made, told, before),
        )
        if made["id"] > (self.heads.get((thread, ns), (None,))[0] or ""):
            self.heads[(thread, ns)] = (made["id"], values, versions)
        self._acked[(thread, ns)] = max(made["id"], self._acked.get((thread, ns), ""))
        return made["id"]

    async def write(self, thread: str, ns: str = "", *, id: str | None = None, task: str | None = None) -> None:  # noqa: A002 - what it is
        """A task's writes to the newest checkpoint, or to one that may come later."""
        at = id or self.heads[(thread, ns)][0]
        task = task or f"task-{self.draw.randrange(10**9):09}"
        path = f"~__pregel_pull, {self.draw.choice('abc')}"
        writes = [("messages", self._message()), ("step", self.draw.randrange(100))][: self.draw.randrange(1, 3)]
        if self.draw.random() < 0.1:
            writes = [(INTERRUPT, {"ask": self.draw.randbytes(30).hex()})]
        where = config(thread, ns, at, **self._more)
        await self._noted(
            lambda: self._caller.call("put_writes", where, writes, task, path),
            "put_writes",
            thread=thread,
            ns=ns,
            id=at,
            task=task,
            path=path,
            items=writes_of(writes),
        )

    async def turn(self, thread: str, ns: str = "") -> str:
        """What LangGraph does for one user's turn: read, then a checkpoint, the tasks' writes at once, and the next."""
        await self.resume(thread, ns)
        at = await self.put(thread, ns)
        await asyncio.gather(*(self.write(thread, ns, id=at) for _ in range(self.draw.randrange(1, 4))))
        return await self.put(thread, ns)

    async def early(self, thread: str, ns: str = "") -> str:
        """Writes that arrive before and while their checkpoint does, as they may when both are sent at once."""
        await self.resume(thread, ns)
        at = str(uuid6())
        await self.write(thread, ns, id=at)
        await asyncio.gather(self.put(thread, ns, id=at), self.write(thread, ns, id=at))
        return at

    async def resume(self, thread: str, ns: str = "") -> None:
        """Go on from what is stored, as a process that takes a thread over does."""
        found = await self.read(thread, ns)
        if found is None:
            self.heads.pop((thread, ns), None)
            return
        stored = found.checkpoint
        self.heads[(thread, ns)] = (stored["id"], stored["channel_values"], stored["channel_versions"])

    # reading

    async def read(self, thread: str, ns: str = "", floor: str = "") -> Any:
        """The newest checkpoint; a head older than one acknowledged before this began is noted as wrong."""
        floor = max(floor, self._acked.get((thread, ns), ""))
        found = await self._tried(lambda: self._caller.get(config(thread, ns, **self._more)))
        head = "" if found is None else found.checkpoint["id"]
        if head < floor:
            self.ledger.wrong(f"{thread}/{ns}: a reader saw {head or 'nothing'} when {floor} had been acknowledged")
        return found

    async def history(self, thread: str) -> list[Any]:
        return await self._caller.list(config(thread, None, **self._more))

    # the rest: each is noted, as it may change what must be there

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """An operation that changes no content: archive, restore, sweep, pin …"""
        if not hasattr(self.saver, name):
            return None
        return await self._tried(lambda: self._caller.call(name, *args, **kwargs))

    async def delete(self, thread: str) -> None:
        self._forget(thread)
        await self._noted(lambda: self._caller.call("delete_thread", thread), "delete_thread", thread=thread)

    async def prune(self, thread: str) -> None:
        await self._noted(lambda: self._caller.call("prune", [thread]), "prune", thread=thread)

    async def copy(self, thread: str, target: str) -> None:
        await self._noted(
            lambda: self._caller.call("copy_thread", thread, target), "copy_thread", thread=thread, target=target
        )

    async def erase(self, user: str, threads: Sequence[str]) -> Any:
        for thread in threads:
            self._forget(thread)
        return await self._noted(lambda: self._caller.call("delete_user", user), "delete_user", threads=list(threads))

    def _forget(self, thread: str) -> None:
        for known in (self.heads, self._acked):
            for key in [key for key in known if key[0] == thread]:
                del known[key]

    async def _noted(self, call: Callable[[], Awaitable[Any]], op: str, **facts: Any) -> Any:
        name = self.ledger.begin(op, **facts)
        try:
            result = await self._tried(call, name)
        except LLMOpsError:
            if op in ("put", "put_writes"):
                self.heads.pop((facts["thread"], facts["ns"]), None)  # it may be stored: the next turn reads first
            raise
        self.ledger.acknowledge(name)
        return result

    async def _tried(self, call: Callable[[], Awaitable[Any]], name: str | None = None) -> Any:
        end = time.monotonic() + self._patience_s
        while True:
            try:
                return await call()
            except LLMOpsError as error:
                self.errors.append(error)
                self.ledger.fail(name or "read", error)
                if not error.is_retryable or time.monotonic() > end:
                    raise
                await asyncio.sleep(PAUSE_S)

    def _next(self, values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        messages = [*values.get("messages", []), self._message()][-KEPT_MESSAGES:]
        changed = {"messages": messages, "step": values.get("step", 0) + 1}
        if self.draw.random() < 0.4:
            changed["note"] = {"draft": self.draw.randbytes(self.draw.randrange(80)).hex(), "tries": (1, None, 2.5)}
        return {**values, **changed}, sorted(changed)

    def _message(self) -> Any:
        kind = self.draw.choice((HumanMessage, AIMessage))
        return kind(content=self.draw.randbytes(self.draw.randrange(700)).hex(), id=f"m{self.draw.randrange(10**12)}")
