"""What `get_delta_channel_history` promises, clause by clause, as LangGraph's suite does for the other capabilities.

The wheel of the suite holds no clauses for this capability; these are made from the method's docstring.
"""

from __future__ import annotations

import traceback
from typing import Any
from uuid import uuid4

from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from tests.support.checkpoints import checkpoint, config

__all__ = ["CLAUSES", "NAME", "run_delta_history_clauses"]

NAME = "delta_channel_history"
LATER_ID = "ffffffff-ffff-6fff-bfff-ffffffffffff"


class Chain:
    """A thread whose checkpoints and writes a clause lays down."""

    def __init__(self, saver: Any) -> None:
        self.saver = saver
        self.thread = str(uuid4())

    async def put(self, parent: str | None = None, values: dict[str, Any] | None = None, **more: Any) -> str:
        """A checkpoint in which the named channels hold a value, and the others were only written to."""
        versions = {name: self.saver.get_next_version(None, None) for name in values or {}}
        made = checkpoint(values, versions, id=more.get("id") or str(uuid6()))
        at = config(self.thread, more.get("ns", ""), parent)
        told = {"source": "loop", "step": 1, "parents": {}}
        stored = await self.saver.aput(at, made, told, versions)
        return stored["configurable"]["checkpoint_id"]

    async def write(self, at: str, *writes: tuple[str, Any], task: str = "task", path: str = "", ns: str = "") -> None:
        await self.saver.aput_writes(config(self.thread, ns, at), list(writes), task, path)

    async def history(self, at: str | None, *channels: str, ns: str = "") -> dict[str, Any]:
        """Per channel its written values, and its seed where there is one."""
        found = await self.saver.aget_delta_channel_history(config=config(self.thread, ns, at), channels=channels)
        assert set(found) == set(channels)
        for name, entry in found.items():
            assert {channel for _, channel, _ in entry["writes"]} <= {name}
        seeds = {name: {"seed": entry["seed"]} for name, entry in found.items() if "seed" in entry}
        return {name: ([value for _, _, value in found[name]["writes"]], seeds.get(name)) for name in channels}


async def no_channels_make_an_empty_mapping(chain: Chain) -> None:
    at = await chain.put()
    assert await chain.saver.aget_delta_channel_history(config=config(chain.thread, "", at), channels=[]) == {}


async def what_was_never_written_has_no_writes_and_no_seed(chain: Chain) -> None:
    assert await chain.history(None, "log") == {"log": ([], None)}
    root = await chain.put()
    await chain.write(root, ("other", 1))
    child = await chain.put(root)
    assert await chain.history(child, "log") == {"log": ([], None)}
    assert await chain.history(str(uuid6()), "log") == {"log": ([], None)}


async def writes_come_oldest_first_and_the_targets_own_are_not_among_them(chain: Chain) -> None:
    at = None
    for step in range(5):
        at = await chain.put(at)
        await chain.write(at, ("log", f"{step}a"), ("log", f"{step}b"), ("other", step))
    written = [f"{step}{part}" for step in range(4) for part in "ab"]
    assert await chain.history(at, "log") == {"log": (written, None)}
    assert await chain.history(None, "log") == {"log": (written, None)}


async def the_walk_ends_at_the_nearest_stored_value_and_takes_its_own_writes(chain: Chain) -> None:
    root = await chain.put(values={"log": _DeltaSnapshot(["oldest"])})
    await chain.write(root, ("log", "before the seed"))
    middle = await chain.put(root, {"log": _DeltaSnapshot(["seed"])})
    await chain.write(middle, ("log", "of the seed"))
    last = await chain.put(middle)
    await chain.write(last, ("log", "after the seed"))
    target = await chain.put(last)
    expected = (["of the seed", "after the seed"], {"seed": _DeltaSnapshot(["seed"])})
    assert await chain.history(target, "log") == {"log": expected}


async def a_plain_value_is_a_seed_as_well_and_the_targets_own_is_none(chain: Chain) -> None:
    root = await chain.put(values={"log": ["from before it was a delta channel"]})
    await chain.write(root, ("log", "new"))
    target = await chain.put(root, {"log": _DeltaSnapshot(["not this"])})
    assert await chain.history(target, "log") == {
        "log": (["new"], {"seed": ["from before it was a delta channel"]}),
    }
    assert await chain.history(root, "log") == {"log": ([], None)}


async def every_channel_ends_at_its_own_value(chain: Chain) -> None:
    root = await chain.put(values={"a": _DeltaSnapshot(1)})
    await chain.write(root, ("a", "a0"), ("b", "b0"), ("c", "c0"))
    middle = await chain.put(root, {"b": _DeltaSnapshot(2)})
    await chain.write(middle, ("a", "a1"), ("b", "b1"), ("c", "c1"))
    target = await chain.put(middle)
    assert await chain.history(target, "c", "b", "a") == {
        "a": (["a0", "a1"], {"seed": _DeltaSnapshot(1)}),
        "b": (["b1"], {"seed": _DeltaSnapshot(2)}),
        "c": (["c0", "c1"], None),
    }


async def only_ancestors_count_not_older_siblings_or_other_namespaces(chain: Chain) -> None:
    root = await chain.put()
    await chain.write(root, ("log", "root"))
    left = await chain.put(root)
    await chain.write(left, ("log", "left"))
    right = await chain.put(root)
    await chain.write(right, ("log", "right"))
    other = await chain.put(ns="child:1", id=root)
    await chain.write(other, ("log", "elsewhere"), ns="child:1")
    of_left, of_right = await chain.put(left), await chain.put(right, id=LATER_ID)
    assert await chain.history(of_left, "log") == {"log": (["root", "left"], None)}
    assert await chain.history(of_right, "log") == {"log": (["root", "right"], None)}
    assert await chain.history(None, "log") == {"log": (["root", "right"], None)}
    assert await chain.history(None, "log", ns="child:1") == {"log": ([], None)}


async def the_writes_of_one_step_come_in_the_order_it_applied_them(chain: Chain) -> None:
    root = await chain.put()
    arrivals = [("z", "~2"), ("a", "~10"), ("m", "~1"), ("b", "~1"), ("x", "")]
    for task, path in arrivals:
        await chain.write(root, ("log", f"{task}0"), ("log", f"{task}1"), task=task, path=path)
    target = await chain.put(root)
    tasks = [task for task, _ in sorted(arrivals, key=lambda one: (one[1], one[0]))]
    assert await chain.history(target, "log") == {"log": ([f"{task}{n}" for task in tasks for n in (0, 1)], None)}


CLAUSES = (
    no_channels_make_an_empty_mapping,
    what_was_never_written_has_no_writes_and_no_seed,
    writes_come_oldest_first_and_the_targets_own_are_not_among_them,
    the_walk_ends_at_the_nearest_stored_value_and_takes_its_own_writes,
    a_plain_value_is_a_seed_as_well_and_the_targets_own_is_none,
    every_channel_ends_at_its_own_value,
    only_ancestors_count_not_older_siblings_or_other_namespaces,
    the_writes_of_one_step_come_in_the_order_it_applied_them,
)


async def run_delta_history_clauses(saver: Any) -> list[str]:
    """One line for each clause that fails."""
    failures = []
    for clause in CLAUSES:
        try:
            await clause(Chain(saver))
        except Exception:  # a clause that fails in any way is a line of the report
            failures.append(f"{clause.__name__}: {traceback.format_exc()}")
    return failures
