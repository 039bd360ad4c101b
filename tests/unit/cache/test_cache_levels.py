"""What is asked of a level at one moment goes together, and nobody waits long for a store that is slow."""

from __future__ import annotations

import asyncio

import pytest

from langchain_llmops.cache.breaker import LATE_IN_A_ROW
from langchain_llmops.cache.levels import Level
from langchain_llmops.cache.sides import rounded
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import StoreError, StoreUnavailableError
from langchain_llmops.stores.memory import MemoryKeyValue


class Store:
    """Notes what it is asked for; `hold` keeps its answers back, `refusing` makes operations of these names fail."""

    def __init__(self, *, timeout_s: float = 0.05) -> None:
        self.timeout_s = timeout_s
        self.items = MemoryKeyValue()
        self.trips: list[tuple[str, int]] = []
        self.at_once = self.most_at_once = 0
        self.hold: asyncio.Event | None = None
        self.refusing: set[str] = set()
        self.error: Exception = StoreUnavailableError("down")

    @property
    def kv(self) -> Store:
        return self

    def within(self, timeout_s: float) -> Store:
        return self

    async def get_many(self, keys):
        return await self._trip("get_many", len(keys), lambda: self.items.get_many(keys))

    async def get(self, key):
        return (await self.get_many([key]))[0]

    async def set_many(self, items, ttl_s=None):
        return await self._trip("set_many", len(items), lambda: self.items.set_many(items, ttl_s))

    async def set(self, key, value, ttl_s=None):
        await self.set_many({key: value}, ttl_s)

    async def add_many(self, items, ttl_s=None):
        return await self._trip("add_many", len(items), lambda: self._added(items, ttl_s))

    async def _added(self, items, ttl_s):
        return [await self.items.add(key, value, ttl_s) for key, value in items.items()]

    async def add(self, key, value, ttl_s=None):
        return (await self.add_many({key: value}, ttl_s))[0]

    async def delete(self, *keys):
        return await self._trip("delete", len(keys), lambda: self.items.delete(*keys))

    async def increment(self, key, by=1, ttl_s=None):
        raise NotImplementedError

    async def _trip(self, name, size, operation):
        self.trips.append((name, size))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.hold is not None:
                await self.hold.wait()
            else:
                await asyncio.sleep(0)
        finally:
            self.at_once -= 1
        if name in self.refusing:
            raise self.error
        return await operation()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def lost() -> list[str]:
    return []


@pytest.fixture
def level(store, lost, clock) -> Level:
    return Level("L2", store, None, clock=clock, failed=lost.append, skipped=lost.append)


async def test_writes_of_one_moment_are_one_trip(level, store) -> None:
    wrote = await asyncio.gather(*(level.write({str(n): b"x"}, 300 + n / 100, blocking=False) for n in range(64)))
    assert all(wrote)
    assert store.trips == [("set_many", 64)]
    assert await store.items.get_many([str(n) for n in range(64)]) == [b"x"] * 64


async def test_claims_of_one_moment_are_one_trip_and_one_key_is_given_once(level, store) -> None:
    keys = [str(n % 32) for n in range(64)]
    taken = await asyncio.gather(*(level.claim(key, b"x", 3, blocking=False) for key in keys))
    assert taken == [True] * 32 + [False] * 32
    assert store.trips == [("add_many", 32)]


async def test_removals_of_one_moment_are_one_trip(level, store) -> None:
    await store.items.set_many(dict.fromkeys("abc", b"x"))
    await asyncio.gather(*(level.remove(key, blocking=False) for key in "abca"))
    assert store.trips == [("delete", 3)]
    assert await store.items.get_many("abc") == [None] * 3


async def test_what_is_asked_for_while_others_are_on_their_way_goes_together_in_few_trips(level, store) -> None:
    store.hold = asyncio.Event()
    asks = []
    for n in range(100):
        asks.append(asyncio.create_task(level.write({str(n): b"x"}, 300, blocking=False)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    store.hold.set()
    assert all(await asyncio.gather(*asks))
    assert store.most_at_once == 2
    assert len(store.trips) <= 4


async def test_a_short_time_to_live_is_kept_and_a_long_one_never_cut(level, store) -> None:
    assert [rounded(seconds) for seconds in (0.05, 1.0, 3.0, 9.9)] == [0.05, 1.0, 3.0, 9.9]
    for seconds in (10.0, 30.0, 300.0, 299.7, 3600.0, 604_800.0):
        assert seconds <= rounded(seconds) <= seconds * 33 / 32
    assert rounded(300.0) == rounded(299.7)


async def test_a_reader_goes_on_without_a_slow_store_whose_trip_goes_on_too(level, store, lost) -> None:
    await store.items.set("k", b"x")
    store.hold = asyncio.Event()
    assert await asyncio.wait_for(level.read(["k"], blocking=False), 10) is None
    assert lost == ["L2"]
    assert store.at_once == 1
    store.hold.set()
    store.hold = None
    assert await level.read(["k"], blocking=False) == [b"x"]
    assert store.at_once == 0


async def test_a_write_is_waited_for_longer_than_a_read(level, store) -> None:
    store.hold = asyncio.Event()
    write = asyncio.create_task(level.write({"k": b"x"}, 300, blocking=False))
    assert await level.read(["k"], blocking=False) is None
    assert not write.done()
    store.hold.set()
    assert await write


async def test_a_loop_that_was_blocked_takes_its_answers_in_all_the_same(level, store, monkeypatch) -> None:
    """Every timer is due at once, as after seconds of somebody's computing: the answer needs some turns more."""
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_later", lambda _, call, *args: loop.call_soon(call, *args))
    await store.items.set("k", b"x")
    assert await level.read(["k"], blocking=False) == [b"x"]


async def test_a_store_that_is_slow_again_and_again_is_left_alone(level, store, lost, clock) -> None:
    store.hold = asyncio.Event()
    for _ in range(LATE_IN_A_ROW):
        clock.pass_s(1)
        assert await level.read(["k"], blocking=False) is None
    trips = len(store.trips)
    assert await level.read(["k"], blocking=False) is None
    assert len(store.trips) == trips
    assert lost == ["L2"] * (LATE_IN_A_ROW + 1), "all who did without it are counted"
    store.hold.set()


async def test_a_claim_has_more_time_than_the_reads_for_which_a_store_was_too_slow(level, store, clock) -> None:
    store.hold = asyncio.Event()
    for _ in range(LATE_IN_A_ROW):
        clock.pass_s(1)
        assert await level.read(["k"], blocking=False) is None
    claim = asyncio.create_task(level.claim("c", b"x", 3, blocking=False))
    assert await level.read(["k"], blocking=False) is None
    store.hold.set()
    assert await claim is True


async def test_writes_that_wait_behind_one_that_fails_are_dropped_and_counted(level, store, lost) -> None:
    store.hold, store.refusing = asyncio.Event(), {"set_many"}
    asks = []
    for n in range(20):
        asks.append(asyncio.create_task(level.write({str(n): b"x"}, 300, blocking=False)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    store.hold.set()
    assert not any(await asyncio.gather(*asks))
    assert len(store.trips) == 2, "those under way"
    assert lost == ["L2"] * 20


async def test_a_store_that_refuses_changes_is_still_read(level, store, clock) -> None:
    await store.items.set("k", b"x")
    store.refusing, store.error = {"set_many", "add_many"}, StoreError("out of memory")
    assert not await level.write({"a": b"x"}, 300, blocking=False)
    assert await level.claim("a", b"x", 300, blocking=False) is None
    assert await level.read(["k"], blocking=False) == [b"x"]


async def test_a_caller_that_is_cancelled_takes_nobody_along(level, store) -> None:
    await store.items.set("k", b"x")
    store.hold = asyncio.Event()
    first, second = (asyncio.create_task(level.read(["k"], blocking=False)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    store.hold.set()
    assert await second == [b"x"]


def test_another_loop_starts_with_a_clean_slate(level, store) -> None:
    async def left_behind() -> None:
        store.hold = asyncio.Event()
        asyncio.create_task(level.write({"k": b"x"}, 300, blocking=False))  # noqa: RUF006 - the loop ends with it
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def after() -> list[bytes | None] | None:
        store.hold = None
        assert await level.write({"k": b"y"}, 300, blocking=False)
        return await level.read(["k"], blocking=False)

    asyncio.run(left_behind())
    assert asyncio.run(after()) == [b"y"]


def test_a_blocking_store_that_fails_is_left_alone_too(lost, clock) -> None:
    class Broken(MemoryKeyValue):
        asked = 0

        @property
        def kv(self):
            return self

        async def get_many(self, keys):
            self.asked += 1
            raise StoreUnavailableError("down")

    store = Broken()
    level = Level("L2", None, store, clock=clock, failed=lost.append, skipped=lost.append)
    assert [drive(level.read(["k"], blocking=True)) for _ in range(3)] == [None] * 3
    assert drive(level.claim("k", b"x", 3, blocking=True)) is None
    assert not drive(level.write({"k": b"x"}, 3, blocking=True))
    assert store.asked == 1
    assert lost == ["L2"] * 5
