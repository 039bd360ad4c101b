"""The runs that have started and not ended."""

from __future__ import annotations

import asyncio
import weakref
from asyncio.events import _get_running_loop
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from langsmith.run_helpers import get_current_run_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_llmops.core.types import CallKind, Usage

__all__ = ["OpenRun", "OpenRuns"]

ORPHAN_GRACE_S: Final = 300.0
STALE_AFTER_S: Final = 86_400.0
SWEEP_EVERY_S: Final = 60.0
REMEMBERED: Final = 1000
NOTHING: Final[dict[str, Any]] = {}


class _Alive(weakref.ref[UUID]):
    """A reference to a run's id that knows which run it is of."""

    __slots__ = ("key",)
    key: int


class OpenRun:
    """One open run; `above` is the nearest run above it that becomes a record too, `root` the first of its trace."""

    __slots__ = (
        "above", "alive", "answered_below", "began", "children", "failures", "first_piece_at", "key", "kind",
        "messages", "metadata", "more", "name", "orphaned_at", "parent", "pieces", "root", "started_at", "tags", "task",
        "text", "twin",
    )  # fmt: skip

    def __init__(
        self,
        kind: CallKind | None,
        name: str,
        key: int,
        parent: OpenRun | None,
        began: float,
        started_at: float,
        kwargs: Mapping[str, Any],
    ) -> None:
        self.kind = kind
        self.name = name
        self.key = key
        self.parent = parent
        self.above: OpenRun | None
        self.root: OpenRun
        if parent is None:
            self.above, self.root = None, self
        else:
            self.above, self.root = (parent.above if parent.kind is None else parent), parent.root
        self.began = began
        self.started_at = started_at
        self.metadata: Mapping[str, Any] = kwargs.get("metadata") or NOTHING
        self.tags: Sequence[str] | None = kwargs.get("tags")
        self.more = kwargs
        self.alive: _Alive | None = None
        self.messages: Sequence[BaseMessage] = ()
        self.pieces = 0
        self.first_piece_at: float | None = None
        self.children: dict[int, OpenRun] | None = None
        self.failures: dict[tuple[str, str | None], list[float]] | None = None
        self.answered_below: list[Usage] | None = None
        self.orphaned_at: float | None = None
        self.text: str | None = None
        self.task: weakref.ref[asyncio.Task[Any]] | None = None
        self.twin: OpenRun | None = None

    @property
    def id(self) -> str:
        """The run's id as text."""
        if self.text is None:
            digits = f"{self.key:032x}"
            self.text = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
        return self.text

    def count_failure(self, asked: str | None, at: float) -> None:
        """Remember at the parent that this call failed at `at`: one that asks the same again later is a retry."""
        if self.parent is not None:
            failures = self.parent.failures = self.parent.failures or {}
            failures.setdefault((self.name, asked), []).append(at)

    def retries(self, asked: str | None) -> int:
        """How many siblings that asked the same had failed when this call began."""
        failures = self.parent.failures if self.parent is not None else None
        return sum(at <= self.began for at in failures.get((self.name, asked), ())) if failures else 0

    def tell_answer(self, usage: Usage) -> None:
        """A model that calls another with its own callbacks is told what that one used, as it may pass it on."""
        if self.above is not None and self.above.kind == "model":
            if self.above.answered_below is None:
                self.above.answered_below = []
            self.above.answered_below.append(usage)

    def passes_on(self, usage: Usage, *, reported: bool) -> bool:
        """Whether this call's tokens are those of calls below it, which are counted there."""
        below = self.answered_below
        if not below or not reported:
            return bool(below)
        counts = [(one.input_tokens, one.output_tokens) for one in below]
        total = (sum(count for count, _ in counts), sum(count for _, count in counts))
        return (usage.input_tokens, usage.output_tokens) in (*counts, total)

    @property
    def was_left(self) -> bool:
        """Whether the task that began this call is over, though the call neither ended nor sent a piece."""
        if self.task is None or self.first_piece_at is not None:  # a stream may go on in another task
            return False
        task = self.task()
        return task is None or task.done()


class OpenRuns:
    """The table of open runs.

    A cancelled `model.ainvoke` sends no end event, so the table watches the run's id: LangChain holds the id object as
    long as the run lives, and when it is gone without an end event the run was cut off. What is open below a run that
    was cancelled was cancelled too; below one that ended otherwise it may go on in the background. Where somebody else
    holds the id (LangChain's own tracer does, for ever; a caller may), a run is given up `ORPHAN_GRACE_S` after its
    parent ended, a bare model's call that long after its start when its task is over, and any run after a day. Calls
    that are made at one time with one id are kept apart: each end closes one of them.
    """

    def __init__(self, timer: Callable[[], float], clock: Callable[[], float]) -> None:
        self._timer = timer
        self._clock = clock
        self._runs: dict[int, OpenRun] = {}
        self._dead: deque[_Alive] = deque()
        self._orphans: dict[int, OpenRun] = {}
        self._ended: dict[int, OpenRun] = {}
        self._swept = timer()
        self.get = self._runs.get

    def __len__(self) -> int:
        return len(self._runs)

    def open(self, kind: CallKind | None, name: str, run_id: UUID, kwargs: Mapping[str, Any]) -> OpenRun:
        """Enter a run; `kwargs` are those of LangChain's start event."""
        key = run_id.int
        above = kwargs.get("parent_run_id")
        parent = self.find(above) if above is not None else None
        run = OpenRun(kind, name, key, parent, self._timer(), self._clock(), kwargs)
        run.alive = alive = _Alive(run_id, self._dead.append)
        alive.key = key
        twin = self._runs.get(key)
        if twin is not None and twin.metadata is not run.metadata:  # else one start was told twice
            run.twin = twin
        self._runs[key] = run
        if parent is not None:
            if parent.children is None:
                parent.children = {key: run}
            else:
                parent.children[key] = run
        elif kind == "model" and _get_running_loop() is not None:  # `current_task` would raise
            run.task = _current_task()
        return run

    def find(self, run_id: UUID) -> OpenRun | None:
        """The run of this id, or else the nearest one above it: open, or ended while work of it goes on."""
        key = run_id.int
        return self._runs.get(key) or self._beyond(run_id) or self._ended.get(key)

    def _beyond(self, run_id: UUID) -> OpenRun | None:
        """Above a run that LangSmith's `traceable` began, as LangChain's middleware does: it tells no handler of it."""
        tree = get_current_run_tree()
        trail = tree.dotted_order.split(".") if tree is not None else []  # each ends in an id, the root's comes first
        ids = [step[-36:] for step in trail]
        if str(run_id) not in ids:
            return None
        above = (self._runs.get(UUID(one).int) for one in reversed(ids[: ids.index(str(run_id))]))
        return next((run for run in above if run is not None), None)

    def close(self, run_id: UUID) -> OpenRun | None:
        """Take a run out; None when it is not open (any more)."""
        return self._take(run_id.int)

    def below(self, run: OpenRun) -> Iterator[OpenRun]:
        """Take out everything that is still open below a closed run."""
        for key in list(run.children or ()):
            child = self._take(key)
            if child is not None:
                yield from self.below(child)
                yield child

    def given_up(self) -> Iterator[OpenRun]:
        """Take out the runs that can have no end event any more."""
        while self._dead:
            run = self._take(self._dead.popleft().key)
            if run is not None:
                yield run
        now = self._timer()
        if now - self._swept > SWEEP_EVERY_S:
            self._swept = now
            yield from [run for run in map(self._take, self._stale(now)) if run is not None]

    def all(self) -> Iterator[OpenRun]:
        """Take out everything, what began last first."""
        for key in reversed(list(self._runs)):
            run = self._take(key)
            if run is not None:
                yield run

    @property
    def must_look(self) -> bool:
        """Whether `given_up` has something to do; cheap."""
        return bool(self._dead) or self._timer() - self._swept > SWEEP_EVERY_S

    def _take(self, key: int) -> OpenRun | None:
        run = self._runs.pop(key, None)
        if run is None:
            return None
        run.alive = None
        if run.twin is not None:
            self._runs[key], run.twin = run.twin, None
        if run.orphaned_at is not None:
            self._orphans.pop(key, None)
        if run.parent is not None and run.parent.children:
            run.parent.children.pop(key, None)
        if run.children:
            self._leave_orphans(run.children)
        if run.children is not None:
            self._remember(run)
        return run

    def _remember(self, run: OpenRun) -> None:
        """A thread or task that a chain left behind may call a model after the chain has ended."""
        self._ended[run.key] = run
        if len(self._ended) > REMEMBERED:
            with suppress(StopIteration, KeyError, RuntimeError):  # another thread was faster
                del self._ended[next(iter(self._ended))]

    def _leave_orphans(self, children: dict[int, OpenRun]) -> None:
        now = self._timer()
        for key, child in list(children.items()):
            child.orphaned_at = now
            self._orphans[key] = child

    def _stale(self, now: float) -> list[int]:
        orphans = [key for key, run in list(self._orphans.items()) if now - (run.orphaned_at or now) > ORPHAN_GRACE_S]
        runs = list(self._runs.items())
        left = [key for key, run in runs if run.task and now - run.began > ORPHAN_GRACE_S and run.was_left]
        return orphans + left + [key for key, run in runs if now - run.began > STALE_AFTER_S]


def _current_task() -> weakref.ref[asyncio.Task[Any]] | None:
    task = asyncio.current_task()
    return weakref.ref(task) if task is not None else None
