"""Any walk over a checkpointer by two processes, beside the model."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.support.checkpoint_contents import CHANNELS, Numbers, changed, changes, writes, written
from tests.support.checkpoint_model import Model, assert_history, assert_listed, assert_same
from tests.support.checkpoints import config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["KINDS", "Process", "Tiers", "Walk", "walk"]

SETTINGS: Final = settings(
    max_examples=20,  # the first walk of every seed is the simplest there is
    stateful_step_count=100,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),  # a walk is long, and every step reaches a database
)
THREADS: Final = ("a", "*", "{a}:b\0ключ")
SPACES: Final = ("", "sub:1", "sub:1|deep:2")
PLACES: Final = [("a", ""), ("a", ""), ("a", SPACES[1]), *((thread, ns) for thread in THREADS for ns in SPACES)]
RUNS: Final = ("run 1", "run 2", "run 3")
MANAGED: Final = (
    "prune keep_latest",
    "prune keep_latest",
    "prune delete",
    "copy_thread",
    "copy_thread",
    "delete_thread",
    "delete_for_runs",
)
MOVED: Final = ("archive", "archive", "restore", "sweep")
DISTURBED: Final = ("fill_hot", "fill_hot", "lose_hot", "remember_hot", "bring_back_hot")
KINDS: Final = frozenset(
    {
        "go_on",
        "run",
        "fork",
        "begin",
        "repeat",
        "write",
        "write_early",
        "read_newest",
        "read_one",
        "list",
        "read_history",
    }
    | {*MANAGED, *MOVED, *DISTURBED}
)
FILTERS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {},
    {"source": "loop"},
    {"run_id": RUNS[0], "step": 2},
    {"deep": {"n": [1, None]}},
    {"deep": None},
)
PAUSES_S: Final = (1.0, 400.0, 90_000.0)

threads = st.sampled_from(THREADS)
places = st.sampled_from(PLACES)
who = st.integers(0, 1)
back = st.sampled_from((0, 0, 0, 1, 2, 6))


@dataclass
class Process:
    """A saver of one process; `colour` is how it is called."""

    saver: Any
    colour: str
    runner: asyncio.Runner = field(repr=False)

    def call(self, name: str, *args: Any, **more: Any) -> Any:
        if self.colour == "sync":
            return getattr(self.saver, name)(*args, **more)
        return self.runner.run(getattr(self.saver, f"a{name}")(*args, **more))

    def list(self, *args: Any, **more: Any) -> list[Any]:
        if self.colour == "sync":
            return list(self.saver.list(*args, **more))

        async def listed() -> list[Any]:
            return [found async for found in self.saver.alist(*args, **more)]

        return self.runner.run(listed())


class Tiers(Protocol):
    """Three tiers of one walk, and what can happen to the hot one."""

    processes: Sequence[Process]

    def pass_s(self, seconds: float) -> None: ...
    def fill_hot(self, threads: Iterable[str]) -> None: ...
    def lose_hot(self) -> None: ...
    def remember_hot(self) -> Any: ...
    def bring_back_hot(self, remembered: Any) -> None: ...
    def close(self) -> None: ...


class Walk(RuleBasedStateMachine):
    """Every rule is one step; a rule that found nothing to act on is not counted."""

    def __init__(self, tiers: Tiers, counts: dict[str, int]) -> None:
        super().__init__()
        self.tiers = tiers
        self.counts = counts
        self.model = Model()
        self.numbers = Numbers()
        self.known: dict[tuple[str, str], dict[str, dict]] = {}
        self.reserved: dict[tuple[str, str], str] = {}
        self.remembered: Any = None
        self.last = ""

    # what a graph does

    @rule(
        at=places,
        by=who,
        steps=st.lists(st.lists(changes(), max_size=3), min_size=1, max_size=5),
        run=st.sampled_from(RUNS),
        under_way=st.booleans(),
    )
    def go_on(self, at, by, steps, run, under_way) -> None:
        """A run of a graph that stores checkpoints only, from the newest one; one under way knows of no deletion."""
        for step in steps:
            known = sorted(self.known.get(at, ())) if under_way else self.model.ids(*at)[:1]
            self._put(at, by, known[-1] if known else None, step, run)
        self._count("go_on")

    @rule(at=places, by=who, steps=st.lists(st.lists(changes(), max_size=2), min_size=1, max_size=5))
    def run(self, at, by, steps) -> None:
        """A run of a graph: tasks write, and the next checkpoint holds what they wrote."""
        for step in steps:
            newest = next(iter(self.model.ids(*at)), None)
            if newest:
                for number, change in enumerate(step):
                    self._write(
                        at, by, newest, f"task {number}", f"~{number}", [(change.channel, change.number, change.size)]
                    )
            self._put(at, by, newest, step, RUNS[0])
        self._count("run")

    @rule(at=places, by=who, back=back, step=st.lists(changes(), max_size=3), late=st.booleans())
    def fork(self, at, by, back, step, late) -> None:
        """A step from an older checkpoint, which may be deleted by now; or one that arrives late."""
        known = sorted(self.known.get(at, ()), reverse=True)
        if known:
            parent = known[min(back, len(known) - 1)]
            self._put(at, by, parent, step, RUNS[0], self.numbers.id(before=known[0]) if late else None)
            self._count("fork")

    @rule(at=places, by=who, step=st.lists(changes(), max_size=4))
    def begin(self, at, by, step) -> None:
        """A checkpoint without a parent."""
        self._put(at, by, None, step, RUNS[1])
        self._count("begin")

    @rule(at=places, by=who, back=back, step=st.lists(changes(), max_size=1))
    def repeat(self, at, by, back, step) -> None:
        """A put that was not answered is put again; at the end of a run also with more in it."""
        ids = self.model.ids(*at)
        if ids:
            one = ids[min(back, len(ids) - 1)]
            _, _, parent = self.model.storage[at[0]][at[1]][one]
            self._put(at, by, parent, step, RUNS[2], one, self.known[at][one])
            self._count("repeat")

    @rule(at=places, by=who, back=back, task=st.integers(0, 2), path=st.sampled_from(("", "~1", "~2")), drawn=writes())
    def write(self, at, by, back, task, path, drawn) -> None:
        """A task's writes to a checkpoint, which may be deleted by now."""
        known = sorted(self.known.get(at, ()), reverse=True)
        if known:
            self._write(at, by, known[min(back, len(known) - 1)], f"task {task}", path, drawn)
            self._count("write")

    @rule(at=places, by=who, task=st.integers(0, 2), drawn=writes())
    def write_early(self, at, by, task, drawn) -> None:
        """A task's writes to a checkpoint that comes later."""
        self.reserved[at] = self.reserved.get(at) or self.numbers.id()
        self._write(at, by, self.reserved[at], f"task {task}", "", drawn)
        self._count("write_early")

    # what readers ask

    @rule(at=places, by=who)
    def read_newest(self, at, by) -> None:
        self._assert_read(at, by, None)
        self._count("read_newest")

    @rule(at=places, by=who, back=back)
    def read_one(self, at, by, back) -> None:
        known = sorted(self.known.get(at, ()), reverse=True)
        if known:
            self._assert_read(at, by, known[min(back, len(known) - 1)])
            self._count("read_one")

    @rule(
        at=places,
        by=who,
        scope=st.sampled_from(("place", "thread", "store")),
        wanted=st.sampled_from(FILTERS),
        before=st.none() | back,
        limit=st.none() | st.integers(0, 4),
    )
    def list(self, at, by, scope, wanted, before, limit) -> None:
        asked = {"place": config(*at), "thread": config(at[0], None), "store": None}[scope]
        known = sorted((one for ids in self.known.values() for one in ids), reverse=True)
        bound = None if before is None or not known else config(*at, known[min(before * 3, len(known) - 1)])
        self._assert_listed(by, asked, limit, filter=wanted, before=bound)
        self._count("list")

    @rule(at=places, by=who, back=back, channels=st.sets(st.sampled_from(CHANNELS), max_size=3))
    def read_history(self, at, by, back, channels) -> None:
        ids = self.model.ids(*at)
        if ids:
            asked = {"config": config(*at, ids[min(back, len(ids) - 1)]), "channels": sorted(channels)}
            ours = self._process(by).call("get_delta_channel_history", **asked)
            assert_history(ours, self.model.get_delta_channel_history(**asked))
            self._count("read_history")

    # what happens to whole threads

    @rule(
        by=who,
        what=st.sampled_from(MANAGED),
        thread=threads,
        copy=threads,
        runs=st.sets(st.sampled_from(RUNS), max_size=2),
    )
    def manage(self, by, what, thread, copy, runs) -> None:
        name, _, strategy = what.partition(" ")
        if name == "copy_thread" and thread == copy:
            return
        if name == "prune":
            self._both(by, name, [thread, "unknown"], strategy=strategy)
        elif name == "delete_thread":
            self._both(by, name, thread)
        elif name == "delete_for_runs":
            self._both(by, name, sorted(runs))
        else:
            self._both(by, name, thread, copy)
            for at in [at for at in self.known if at[0] == thread]:
                self.known.setdefault((copy, at[1]), {}).update(self.known[at])
        self._count(what)

    @rule(by=who, what=st.sampled_from(MOVED), thread=threads, seconds=st.sampled_from(PAUSES_S))
    def move(self, by, what, thread, seconds) -> None:
        """A thread changes its tier; at a sweep the mover decides, after some time."""
        if what == "sweep":
            self.tiers.pass_s(seconds)
        self._process(by).call(what, *([thread] if what != "sweep" else []))
        self._count(what)

    @rule(what=st.sampled_from(DISTURBED))
    def disturb(self, what) -> None:
        """The hot tier is filled, emptied, or restored from an older snapshot."""
        if what == "fill_hot":
            self.tiers.fill_hot(THREADS)
        elif what == "lose_hot":
            self.tiers.lose_hot()
        elif what == "remember_hot":
            self.remembered = self.tiers.remember_hot()
        elif self.remembered is not None:
            self.tiers.bring_back_hot(self.remembered)
        if self.last != what:
            self._count(what)

    def teardown(self) -> None:
        try:
            self._assert_all()
        finally:
            self.tiers.close()

    # the two sides

    def _put(self, at, by, parent, step, run, made=None, start=None) -> None:
        if start or parent not in self.model.storage[at[0]][at[1]]:
            step = [
                change for change in step if change.how != "leave"
            ]  # a value that nobody gives must come from somewhere
        base = start or (self.known[at][parent] if parent else {"channel_values": {}, "channel_versions": {}})
        versions, values = base["channel_versions"], base["channel_values"]
        for change in step:
            values, versions = changed(values, versions, change, self.numbers)
        made = made or self.reserved.pop(at, None) or self.numbers.id()
        seen = dict(list(versions.items())[: self.numbers.ids % 4])
        checkpoint = {
            "v": 4,
            "id": made,
            "ts": f"2026-01-01T00:00:{self.numbers.ids % 60:02}+00:00",
            "channel_values": values,
            "channel_versions": versions,
            "versions_seen": {"__input__": {}, "node": versions, f"node {len(step)}": seen},
            "updated_channels": sorted({change.channel for change in step}) or None,
        }
        new = {name: version for name, version in versions.items() if base["channel_versions"].get(name) != version}
        told = {"source": "loop" if step else "update", "step": len(step), "parents": {"": made}, "run_id": run}
        told |= {"deep": {"n": [1, None]}} if len(step) % 2 else {}
        self.model.put(config(*at, parent), checkpoint, told, new)
        self.known.setdefault(at, {})[made] = self.model.get_tuple(config(*at, made)).checkpoint
        given = _apart(checkpoint)
        assert self._process(by).call("put", config(*at, parent), given, told, new) == config(*at, made)
        _spoil(given)

    def _write(self, at, by, one, task, path, drawn) -> None:
        given = written(drawn)
        self.model.put_writes(config(*at, one), given, task, path)
        self._process(by).call("put_writes", config(*at, one), given, task, path)

    def _both(self, by, name, *args, **more) -> None:
        getattr(self.model, name)(*args, **more)
        self._process(by).call(name, *args, **more)

    def _assert_read(self, at, by, one) -> None:
        found = self._process(by).call("get_tuple", config(*at, one))
        assert_same(found, self.model.get_tuple(config(*at, one)))
        if found is not None:
            _spoil(found.checkpoint)

    def _assert_listed(self, by, asked, limit, **more) -> None:
        found = self._process(by).list(asked, limit=limit, **more)
        assert_listed(found, list(self.model.list(asked, **more)), limit)
        for one in found:
            _spoil(one.checkpoint)

    def _assert_all(self) -> None:
        for by in (0, 1):
            self._assert_listed(by, None, None)
            for at in PLACES:
                self._assert_read(at, by, None)

    def _process(self, by: int) -> Process:
        return self.tiers.processes[by]

    def _count(self, name: str) -> None:
        self.last = name
        self.counts[name] = self.counts.get(name, 0) + 1


def walk(open_tiers: Callable[[], Tiers], steps: int) -> dict[str, int]:
    """Walk at least so many steps; how many of each kind there were."""
    counts: dict[str, int] = {}
    for number in itertools.count(1):
        run_state_machine_as_test(seed(number)(lambda: Walk(open_tiers(), counts)), settings=SETTINGS)
        if sum(counts.values()) >= steps:
            return counts
    raise AssertionError  # never: the count has no end


def _apart(checkpoint: dict) -> dict:
    """A copy whose lists and dicts are its own."""
    values = {
        name: type(one)(one) if type(one) in (list, dict) else one for name, one in checkpoint["channel_values"].items()
    }
    return {**checkpoint, "channel_values": values, "channel_versions": dict(checkpoint["channel_versions"])}


def _spoil(checkpoint: Any) -> None:
    """What a graph does to a state that it was given, or that it has put, is its own affair."""
    for value in checkpoint["channel_values"].values():
        if type(value) in (list, dict):
            value.clear()
    for part in ("channel_values", "channel_versions", "versions_seen"):
        checkpoint[part].clear()
