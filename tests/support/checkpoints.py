"""Checkpoints for tests, a caller with two colours, and stores that a test can hold, fail or look into."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.base.id import uuid6

from langchain_llmops.core.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["COLOURS", "Caller", "FaultyStore", "SyncTwin", "checkpoint", "config", "facts", "until"]

COLOURS = ("async", "sync")
DEADLINE_S = 60.0


def config(thread: str, ns: str | None = "", checkpoint_id: str | None = None, **more: Any) -> dict[str, Any]:
    """A config that names a thread."""
    named = {"thread_id": thread, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
    return {"configurable": {key: value for key, value in named.items() if value is not None}, **more}


def checkpoint(values: dict[str, Any] | None = None, versions: dict[str, Any] | None = None, **more: Any) -> dict:
    """A checkpoint of format 4; versions default to 1 for every value."""
    values = values or {}
    return {
        "v": 4,
        "id": str(uuid6()),
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": values,
        "channel_versions": dict.fromkeys(values, "1") if versions is None else versions,
        "versions_seen": {},
        "updated_channels": None,
        **more,
    }


def facts(found: Any) -> Any:
    """What must be equal between two savers."""
    if found is None:
        return None
    parent = found.parent_config and found.parent_config["configurable"]
    return (
        {key: found.config["configurable"][key] for key in ("thread_id", "checkpoint_ns", "checkpoint_id")},
        found.checkpoint,
        found.metadata,
        parent and parent["checkpoint_id"],
        [tuple(write) for write in found.pending_writes or []],
    )


async def until(condition: Callable[[], bool]) -> None:
    """Wait, on whatever loop, until something that another task or thread does has happened."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # what happens may happen on another loop, where no event of ours can be set
            await asyncio.sleep(0.002)


class Caller:
    """Calls a saver's async methods, or its sync ones from another thread."""

    def __init__(self, saver: Any, colour: str = "async") -> None:
        self.saver = saver
        self.colour = colour

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if self.colour == "async":
            return await getattr(self.saver, f"a{name}")(*args, **kwargs)
        return await asyncio.to_thread(getattr(self.saver, name), *args, **kwargs)

    async def get(self, *args: Any, **kwargs: Any) -> Any:
        return await self.call("get_tuple", *args, **kwargs)

    async def list(self, *args: Any, **kwargs: Any) -> list:
        if self.colour == "async":
            return [found async for found in self.saver.alist(*args, **kwargs)]
        return await asyncio.to_thread(lambda: list(self.saver.list(*args, **kwargs)))

    async def put(
        self,
        thread: str,
        values: dict[str, Any] | None = None,
        *,
        ns: str = "",
        parent: str | None = None,
        metadata: dict[str, Any] | None = None,
        made: dict[str, Any] | None = None,
        user: str | None = None,
    ) -> str:
        """Put a checkpoint in which every value is new; its id."""
        made = made or checkpoint(values)
        more = {"metadata": {"user_id": user}} if user else {}
        at = config(thread, ns, parent, **more)
        told = {"source": "loop", "step": 1, "parents": {}, **(metadata or {})}
        await self.call("put", at, made, told, made["channel_versions"])
        return made["id"]

    async def write(
        self, thread: str, checkpoint_id: str, *writes: tuple[str, Any], task: str = "t", **more: Any
    ) -> None:
        path, ns = more.pop("path", ""), more.pop("ns", "")
        await self.call("put_writes", config(thread, ns, checkpoint_id, **more), list(writes), task, path)


class SyncTwin(BaseCheckpointSaver[str]):
    """The async methods, answered by a saver's sync ones."""

    def __init__(self, saver: Any) -> None:
        super().__init__(serde=saver.serde)
        self._caller = Caller(saver, "sync")
        self.get_next_version = saver.get_next_version

    async def aput(self, *args, **kwargs):
        return await self._caller.call("put", *args, **kwargs)

    async def aput_writes(self, *args, **kwargs):
        return await self._caller.call("put_writes", *args, **kwargs)

    async def aget_tuple(self, *args, **kwargs):
        return await self._caller.call("get_tuple", *args, **kwargs)

    async def alist(self, *args, **kwargs):
        for found in await self._caller.list(*args, **kwargs):
            yield found

    async def adelete_thread(self, *args, **kwargs):
        return await self._caller.call("delete_thread", *args, **kwargs)

    async def adelete_for_runs(self, *args, **kwargs):
        return await self._caller.call("delete_for_runs", *args, **kwargs)

    async def acopy_thread(self, *args, **kwargs):
        return await self._caller.call("copy_thread", *args, **kwargs)

    async def aprune(self, *args, **kwargs):
        return await self._caller.call("prune", *args, **kwargs)

    async def aget_delta_channel_history(self, *args, **kwargs):
        return await self._caller.call("get_delta_channel_history", *args, **kwargs)


class FaultyStore:
    """A store whose operations a test can count, fail, or hold until it lets them go.

    `fail(name)` makes an operation raise, `hold(name)` makes it wait for `release()`; both until `heal()`. `items` is
    what a memory key-value store holds, to take away or bring back.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.url = inner.url
        self.calls: list[tuple[str, Any]] = []
        self._failing: set[str] = set()
        self._held: dict[str, int] = {}
        self._changed = threading.Condition()

    @property
    def kv(self) -> Any:
        return _Operations(self, self._inner.kv)

    @property
    def maps(self) -> Any:
        return _Operations(self, self._inner.maps)

    @property
    def objects(self) -> Any:
        return _Operations(self, self._inner.objects)

    @property
    def sql(self) -> Any:
        return self._inner.sql

    @property
    def items(self) -> dict[str, Any]:
        return self._inner.kv._items

    async def aclose(self) -> None:
        await self._inner.aclose()

    def count(self, name: str) -> int:
        return sum(called == name for called, _ in self.calls)

    def fail(self, *names: str) -> None:
        self._failing |= set(names)

    def heal(self) -> None:
        self._failing.clear()

    @contextmanager
    def holding(self, name: str):
        """Operations of this name wait, before they act and with their thread, until the block ends."""
        self._held[name] = 0
        try:
            yield self
        finally:
            with self._changed:
                del self._held[name]
                self._changed.notify_all()

    async def waiting(self, name: str) -> None:
        """Until an operation of this name is held."""
        await until(lambda: self._held.get(name, 0) > 0)

    async def pass_through(self, name: str, act: Any, args: tuple, kwargs: dict) -> Any:
        with self._changed:
            self.calls.append((name, args))
            if name in self._held:
                self._held[name] += 1
                assert self._changed.wait_for(lambda: name not in self._held, DEADLINE_S)
        if name in self._failing:
            raise StoreUnavailableError(f"the test made {name} fail")
        return await act(*args, **kwargs)


class _Operations:
    def __init__(self, faults: FaultyStore, inner: Any) -> None:
        self._faults = faults
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        act = getattr(self._inner, name)
        if name == "list":
            return act

        async def operation(*args: Any, **kwargs: Any) -> Any:
            return await self._faults.pass_through(name, act, args, kwargs)

        return operation
