"""Connections of our own to one Redis: what an answer means, who gets it, and who is waited for."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager

import pytest
import redis
from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, OutOfMemoryError, ReadOnlyError

from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import ConfigurationError, StoreAuthError, StoreError, StoreUnavailableError
from langchain_llmops.stores.base import Patient, open_store
from langchain_llmops.stores.wire import NOTHING_YET, Endpoint, packed, raised, reader


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", OutOfMemoryError),
        ("READONLY You can't write against a read only replica.", ReadOnlyError),
        ("NOAUTH Authentication required.", AuthenticationError),
        ("WRONGPASS invalid username-password pair or user is disabled.", AuthenticationError),
        ("ERR Client sent AUTH, but no password is set", AuthenticationError),
        ("NOPERM this user has no permissions to run the 'mget' command", NoPermissionError),
        ("LOADING Redis is loading the dataset in memory", BusyLoadingError),
        ("ERR max number of clients reached", redis.ConnectionError),
        ("MOVED 3999 127.0.0.1:6381", redis.ResponseError),
        ("ERR unknown command", redis.ResponseError),
    ],
)
def test_an_error_of_the_server_is_the_drivers_own(text, kind) -> None:
    answers = reader()
    answers.feed(f"-{text}\r\n".encode())
    with pytest.raises(kind):
        raised([answers.gets()])
    assert answers.gets() is NOTHING_YET


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
def test_answers_are_read_however_they_are_cut(chunk) -> None:
    data, answers, found = b"$5\r\nhello\r\n*2\r\n$-1\r\n$2\r\n\r\n\r\n:7\r\n", reader(), []
    for start in range(0, len(data), chunk):
        answers.feed(data[start : start + chunk])
        while (answer := answers.gets()) is not NOTHING_YET:
            found.append(answer)
    assert found == [b"hello", [None, b"\r\n"], 7]


def test_who_presents_himself_says_his_name_and_database_and_shows_no_password() -> None:
    end = Endpoint("h", 1, 3, "u", "secret", "me")
    assert packed(end.greeting()).count(b"*") == 3
    assert "secret" not in repr(end)
    assert end.greeting() == [("AUTH", "u", "secret"), ("CLIENT", "SETNAME", "me"), ("SELECT", 3)]
    assert Endpoint("h", 1, 0, None, "secret", "me").greeting()[0] == ("AUTH", "secret")
    assert Endpoint("h", 1, 0, None, None, "me").greeting() == [("CLIENT", "SETNAME", "me")]


async def test_tasks_of_one_loop_share_one_connection_and_each_gets_its_own_answer(clean_redis_url) -> None:
    store = open_store(clean_redis_url)
    await store.kv.set_many({str(n): b"%d" % n for n in range(200)})
    found = await asyncio.gather(*(store.kv.get(str(n)) for n in range(200)))
    assert found == [b"%d" % n for n in range(200)]
    with redis.Redis.from_url(clean_redis_url) as client:
        assert [one["name"] for one in client.client_list()].count("langchain-llmops") == 1
    await store.aclose()


async def test_a_caller_that_is_cancelled_leaves_the_order_of_answers_as_it_was(clean_redis_url) -> None:
    store = open_store(clean_redis_url)
    await store.kv.set_many({"a": b"a", "b": b"b"})
    first, second = asyncio.create_task(store.kv.get("a")), asyncio.create_task(store.kv.get("b"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == b"b"
    await store.aclose()


class Late:
    """A server that greets and then answers when told, or never."""

    def __init__(self, port: int) -> None:
        self.url = f"redis://127.0.0.1:{port}/0"
        self.answer = threading.Event()


@contextmanager
def late_server(*, greets: bool = True, says: bytes = b"$4\r\nlate\r\n"):
    listener = socket.create_server(("127.0.0.1", 0))
    late = Late(listener.getsockname()[1])

    def serve(connection: socket.socket) -> None:
        with connection:
            if greets and connection.recv(65_536):
                connection.sendall(b"+OK\r\n")
            while asked := connection.recv(65_536):
                late.answer.wait(30)
                connection.sendall(says * asked.count(b"*"))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield late
    finally:
        late.answer.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


async def test_who_has_less_patience_goes_and_who_has_more_gets_the_answer() -> None:
    with late_server() as server:
        store = open_store(server.url, timeout_s=0.05)
        assert isinstance(store.kv, Patient)
        hasty = asyncio.create_task(store.kv.get("k"))
        await asyncio.sleep(0)
        patient = asyncio.create_task(store.kv.within(30).get("k"))
        with pytest.raises(StoreUnavailableError, match="cannot be reached"):
            await hasty
        server.answer.set()
        assert await patient == b"late", "the first answer was the other's, and this one is the second"
        await store.aclose()


@pytest.mark.parametrize("blocking", [False, True], ids=["async", "blocking"])
def test_a_server_that_accepts_and_never_greets_is_given_up(blocking) -> None:
    with late_server(greets=False) as server:
        store = open_store(server.url, blocking=blocking, timeout_s=0.05)
        with pytest.raises(StoreUnavailableError):
            drive(store.kv.get("k")) if blocking else asyncio.run(store.kv.get("k"))


@pytest.mark.parametrize("blocking", [False, True], ids=["async", "blocking"])
def test_what_speaks_no_redis_is_named(blocking) -> None:
    with late_server(says=b"HTTP/1.1 400 Bad Request\r\n\r\n") as server:
        server.answer.set()
        store = open_store(server.url, blocking=blocking)
        with pytest.raises(StoreUnavailableError, match="no Redis answers there"):
            drive(store.kv.get("k")) if blocking else asyncio.run(store.kv.get("k"))


@pytest.mark.parametrize(
    ("says", "kind"),
    [
        (b"-OOM command not allowed\r\n", StoreUnavailableError),
        (b"-READONLY You can't write\r\n", StoreUnavailableError),
        (b"-LOADING Redis is loading\r\n", StoreUnavailableError),
        (b"-NOPERM no permissions\r\n", StoreAuthError),
        (b"-NOAUTH Authentication required.\r\n", StoreAuthError),
        (b"-ERR DB index is out of range\r\n", ConfigurationError),
        (b"-MOVED 1 127.0.0.1:1\r\n", StoreError),
    ],
)
@pytest.mark.parametrize("blocking", [False, True], ids=["async", "blocking"])
def test_what_a_server_refuses_is_an_error_of_ours(says, kind, blocking) -> None:
    with late_server(says=says) as server:
        server.answer.set()
        store = open_store(server.url, blocking=blocking)
        with pytest.raises(kind) as caught:
            drive(store.kv.delete("k")) if blocking else asyncio.run(store.kv.delete("k"))
        assert type(caught.value) is kind


def test_threads_share_few_connections_and_wait_for_them(clean_redis_url) -> None:
    store = open_store(clean_redis_url, blocking=True, timeout_s=20)
    found: list[bytes | None] = []
    drive(store.kv.set("k", b"x"))
    threads = [threading.Thread(target=lambda: found.append(drive(store.kv.get("k")))) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"x"] * 200
    with redis.Redis.from_url(clean_redis_url) as client:
        assert 0 < [one["name"] for one in client.client_list()].count("langchain-llmops") <= 64
    drive(store.aclose())
