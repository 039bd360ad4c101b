"""Group commit: what waits leaves together, everyone hears of their own write, and one bad write harms no other."""

from __future__ import annotations

import asyncio
import threading

import pytest

from langchain_llmops.checkpoint import committer as committer_module
from langchain_llmops.checkpoint.committer import Committer, Op
from langchain_llmops.checkpoint.recent import News, Recent
from langchain_llmops.checkpoint.schema import Applied, Group, Status, Step, Write
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import CheckpointError, StoreError, StoreUnavailableError

DEADLINE_S = 30.0


def op(thread: int, *, step: bytes | None = None, writes=(), owner=None, epoch=None, strict=False) -> Op:
    name = thread.to_bytes(16)
    steps = [Step(b"", step, None, None, 1, b"m", b"b")] if step is not None else []
    group = Group(name, b"label", b"tenant", owner, epoch, strict, steps=steps, puts=list(writes))
    return Op(group, News(b"", step or b"", None, [], {}))


class Database:
    """Stores nothing; its first batch is held until `release`, so that others gather behind it."""

    def __init__(self, *, holds: bool = False) -> None:
        self.batches: list[list[Group]] = []
        self.entered, self.release = threading.Event(), threading.Event()
        self.refused: set[bytes] = set()
        self.lost = 0
        self.statuses: dict[bytes, Status] = {}
        if not holds:
            self.release.set()

    async def apply(self, groups):
        self.batches.append(list(groups))
        self.entered.set()
        assert self.release.wait(DEADLINE_S)
        if self.lost:
            self.lost -= 1
            error = StoreUnavailableError("the connection was lost")
            error.outcome_unknown = True
            raise error
        if any(group.thread in self.refused for group in groups):
            raise StoreError("refused")
        return [Applied(self.statuses.get(group.thread, Status.DONE), 1, 1) for group in groups]


async def gathered(database: Database, committer: Committer, *ops: Op) -> list:
    """The outcomes of operations that all wait while the first batch is on its way."""
    first = asyncio.create_task(committer.commit(op(0), blocking=False))
    await asyncio.to_thread(database.entered.wait, DEADLINE_S)
    tasks = [asyncio.create_task(committer.commit(one, blocking=False)) for one in ops]
    await asyncio.sleep(0)
    database.release.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert await first is Status.DONE
    return found


@pytest.fixture
def held():
    return Database(holds=True)


def made(database: Database) -> Committer:
    return Committer(database.apply, Recent())


async def test_what_gathers_behind_a_commit_leaves_in_one(held):
    found = await gathered(held, made(held), *[op(number) for number in range(1, 65)])

    assert found == [Status.DONE] * 64
    assert [len(batch) for batch in held.batches] == [1, 64]


async def test_writes_of_one_thread_go_together_as_one_group(held):
    found = await gathered(held, made(held), *[op(7, step=bytes([number])) for number in range(5)])

    assert found == [Status.DONE] * 5
    assert [step.id for step in held.batches[1][0].steps] == [bytes([number]) for number in range(5)]


async def test_what_does_not_go_together_keeps_its_order(held):
    again = [op(7, step=b"a"), op(7, step=b"a"), op(7, step=b"b")]
    found = await gathered(held, made(held), *again)

    assert found == [Status.DONE] * 3
    assert [[step.id for group in batch for step in group.steps] for batch in held.batches[1:]] == [
        [b"a"],
        [b"a", b"b"],
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (op(7, owner=b"a"), op(7, owner=b"b")),
        (op(7, epoch=1), op(7, epoch=2)),
        (op(7, strict=True), op(7)),
    ],
)
async def test_users_epochs_and_fences_are_not_mixed(held, one, other):
    await gathered(held, made(held), one, other)

    assert [len(batch) for batch in held.batches] == [1, 1, 1]


async def test_of_two_writes_to_one_place_the_later_stays(held):
    first, later = (Write(b"", b"id", b"t", -3, body) for body in (b"first", b"later"))
    await gathered(held, made(held), op(7, writes=[first]), op(7, writes=[later]))

    assert held.batches[1][0].puts == [later]


async def test_a_refused_write_fails_alone(held):
    held.refused = {(3).to_bytes(16)}
    found = await gathered(held, made(held), *[op(number) for number in range(1, 6)])

    assert [type(one) for one in found] == [Status, Status, StoreError, Status, Status]


async def test_one_writers_conflict_is_not_anothers(held):
    held.statuses = {(7).to_bytes(16): Status.CONFLICT}
    found = await gathered(held, made(held), op(7, step=b"a"), op(7, step=b"b"), op(8))

    assert found == [Status.CONFLICT, Status.CONFLICT, Status.DONE]
    assert [len(batch[0].steps) for batch in held.batches[2:]] == [1, 1]


async def test_an_outcome_lost_with_its_connection_is_asked_for_once_more():
    database = Database()
    database.lost = 1

    assert await made(database).commit(op(1), blocking=False) is Status.DONE
    assert len(database.batches) == 2


async def test_a_database_that_stays_away_fails_everyone_waiting(held):
    held.lost = 4
    committer = made(held)
    first = asyncio.create_task(committer.commit(op(0), blocking=False))
    await asyncio.to_thread(held.entered.wait, DEADLINE_S)
    held.release.set()

    with pytest.raises(StoreUnavailableError):
        await first
    with pytest.raises(StoreUnavailableError):
        await committer.commit(op(1), blocking=False)
    assert await committer.commit(op(1), blocking=False) is Status.DONE


async def test_a_caller_that_leaves_changes_nothing_for_the_others(held):
    committer = made(held)
    leaving = asyncio.create_task(committer.commit(op(0), blocking=False))
    await asyncio.to_thread(held.entered.wait, DEADLINE_S)
    staying = asyncio.create_task(committer.commit(op(1), blocking=False))
    await asyncio.sleep(0)
    leaving.cancel()
    held.release.set()

    assert await staying is Status.DONE
    with pytest.raises(asyncio.CancelledError):
        await leaving


def test_threads_and_loops_share_one_committer():
    database = Database()
    committer = made(database)
    found: list[Status] = []
    others = set(threading.enumerate())

    def blocking(number: int) -> None:
        found.append(drive(committer.commit(op(number), blocking=True)))

    def looping(number: int) -> None:
        found.append(asyncio.run(committer.commit(op(number), blocking=False)))

    threads = [threading.Thread(target=kind, args=(number,)) for number in range(8) for kind in (blocking, looping)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)

    assert found == [Status.DONE] * 16
    assert sum(thread.name == "llmops-commit" for thread in set(threading.enumerate()) - others) == 1


async def test_an_error_that_is_no_stores_reaches_its_caller():
    async def broken(groups):
        raise CheckpointError("closed")

    with pytest.raises(CheckpointError, match="closed"):
        await Committer(broken, Recent()).commit(op(1), blocking=False)


def test_a_listener_that_fails_stops_no_later_write():
    def failing(*_):
        raise ValueError("a listener's own fault")

    committer = Committer(Database().apply, Recent(), failing, failing)
    outcomes = [answered_in_time(committer, op(number)) for number in (1, 2)]
    assert outcomes == [Status.DONE, Status.DONE]


def test_a_write_without_a_thread_to_be_had_raises_and_the_next_is_stored(monkeypatch):
    database = Database()
    committer = Committer(database.apply, Recent())
    with monkeypatch.context() as patched:
        patched.setattr(committer_module, "threading", NoThreads)
        with pytest.raises(RuntimeError, match="can't start"):
            drive(committer.commit(op(1), blocking=True))
    assert answered_in_time(committer, op(2)) is Status.DONE
    assert [group.thread for batch in database.batches for group in batch] == [op(2).group.thread]


class NoThreads:
    """`threading`, of a machine that has no thread left."""

    Event = threading.Event

    class Thread(threading.Thread):
        def start(self):
            raise RuntimeError("can't start new thread")


def answered_in_time(committer: Committer, one: Op) -> Status | None:
    """A write's outcome; None when nobody answers it."""
    found: list[Status] = []
    caller = threading.Thread(target=lambda: found.append(drive(committer.commit(one, blocking=True))), daemon=True)
    caller.start()
    caller.join(DEADLINE_S)
    return found[0] if found else None
