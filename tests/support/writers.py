"""Processes that continue one thread as LangGraph does: each reads a head, then puts children of it."""

from __future__ import annotations

import copy
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from tests.support.checkpoints import Caller, checkpoint, config

__all__ = ["Writer", "opened_writers"]


class Prepared:
    """A checkpoint that a process has made and not yet stored: whose child it is, and what it changed."""

    def __init__(self, made: dict[str, Any], parent: str | None, new_versions: dict[str, Any]) -> None:
        self.made = made
        self.parent = parent
        self.new_versions = new_versions

    @property
    def id(self) -> str:
        return self.made["id"]

    def changed(self, versions: dict[str, Any] | None = None, **values: Any) -> Prepared:
        """The same id with other content, as a step that was run again may put it."""
        made = copy.deepcopy(self.made)
        made["channel_values"].update(values)
        made["channel_versions"].update(versions or {})
        return Prepared(made, self.parent, {**self.new_versions, **(versions or {})})


class Writer:
    """A process with a saver of its own; `head` is the checkpoint it goes on from."""

    def __init__(self, saver: Any, colour: str, thread: str = "t", ns: str = "") -> None:
        self.caller = Caller(saver, colour)
        self.saver = saver
        self.thread = thread
        self.ns = ns
        self.head: dict[str, Any] | None = None

    async def read(self, checkpoint_id: str | None = None) -> Any:
        """The newest checkpoint, or by an explicit id, to go on from; its values."""
        found = await self.caller.get(config(self.thread, self.ns, checkpoint_id))
        self.head = None if found is None else copy.deepcopy(found.checkpoint)
        return None if found is None else found.checkpoint["channel_values"]

    async def go_back(self, checkpoint_id: str) -> Any:
        """Read as LangGraph does when a config names a checkpoint: that one to go on from, then the newest."""
        values = await self.read(checkpoint_id)
        await self.caller.get(config(self.thread, self.ns))
        return values

    def prepare(self, **values: Any) -> Prepared:
        """A child of the head, whose id is taken now."""
        before = self.head or {"channel_values": {}, "channel_versions": {}, "id": None}
        old = before["channel_versions"]
        new = {name: self.saver.get_next_version(old.get(name), None) for name in values}
        made = checkpoint(copy.deepcopy({**before["channel_values"], **values}), {**old, **new})
        return Prepared(made, before["id"], new)

    async def put(self, prepared: Prepared, **metadata: Any) -> str:
        """Store it, and go on from it."""
        at = config(self.thread, self.ns, prepared.parent)
        told = {"source": "loop", "step": 1, "parents": {}, **metadata}
        await self.caller.call("put", at, copy.deepcopy(prepared.made), told, prepared.new_versions)
        self.head = prepared.made
        return prepared.id

    async def advance(self, **values: Any) -> str:
        return await self.put(self.prepare(**values))

    async def write(self, *writes: tuple[str, Any], at: str | None = None, task: str = "task") -> None:
        """A task's writes, on the head unless an id is given."""
        await self.caller.write(self.thread, at or self.head["id"], *writes, task=task, ns=self.ns)

    async def newest(self) -> Any:
        """Id and values of the head as this process sees it, which it does not go on from."""
        found = await self.caller.get(config(self.thread, self.ns))
        return found.checkpoint["id"], found.checkpoint["channel_values"]

    async def at(self, checkpoint_id: str) -> Any:
        return await self.caller.get(config(self.thread, self.ns, checkpoint_id))

    async def listed(self) -> dict[str, tuple[str | None, dict[str, Any]]]:
        """Every checkpoint, newest first: its parent and values."""
        found = await self.caller.list(config(self.thread, self.ns))
        ids = [one.checkpoint["id"] for one in found]
        assert len(set(ids)) == len(ids)
        parents = [one.parent_config and one.parent_config["configurable"]["checkpoint_id"] for one in found]
        return {
            one.checkpoint["id"]: (parent, one.checkpoint["channel_values"])
            for one, parent in zip(found, parents, strict=True)
        }


@asynccontextmanager
async def opened_writers(urls: dict[str, str], colour: str, count: int = 2, **options: Any):
    """As many processes over the same databases; a memory of the hot tier is each one's own."""
    async with AsyncExitStack() as stack:
        savers = [TieredCheckpointSaver.from_urls(**urls, **options) for _ in range(count)]
        yield [Writer(await stack.enter_async_context(saver), colour) for saver in savers]
