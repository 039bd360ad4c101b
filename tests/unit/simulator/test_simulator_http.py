"""What goes over the socket, byte by byte."""

from __future__ import annotations

import asyncio
import json
import socket
import threading

import pytest

from langchain_llmops.simulator import Echo, FaultPlan, SimulatorError, running
from langchain_llmops.simulator.http1 import HttpResponse, HttpServer
from langchain_llmops.simulator.server import ServerSettings, SimulatorServer

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}


def request(method="POST", path="/v1/chat/completions", body=b"", headers=()):
    body = json.dumps(body).encode() if isinstance(body, dict) else body
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture
def dial():
    """Opens raw connections to a simulator."""
    sockets = []

    def make(simulator):
        host, _, port = simulator.url.removeprefix("http://").rpartition(":")
        sockets.append(socket.create_connection((host, int(port)), timeout=10))
        return sockets[-1]

    yield make
    for one in sockets:
        one.close()


def answer(connection):
    """Reads one answer with a Content-Length: status, headers, body."""
    file = connection.makefile("rb")
    with file:
        status = int(file.readline().split()[1])
        headers = {}
        while (line := file.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, file.read(int(headers["content-length"]))


def test_a_whole_answer_arrives_in_one_piece(echo, dial):
    connection = dial(echo)
    for _ in range(20):
        connection.sendall(request(body=CHAT))
        head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
        assert b"content-length: %d" % len(body) in head.lower()
        assert json.loads(body)["choices"][0]["message"]["content"] == "hello"


def test_an_error_arrives_in_one_piece_too(echo, dial):
    connection = dial(echo)
    connection.sendall(request(body=b"{"))
    head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request")
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


def test_pipelined_requests_are_answered_in_order(echo, dial):
    connection = dial(echo)
    texts = [f"message {i}" for i in range(5)]
    connection.sendall(
        b"".join(request(body={**CHAT, "messages": [{"role": "user", "content": text}]}) for text in texts)
    )
    file = connection.makefile("rb")
    seen = []
    with file:
        for _ in texts:
            length = 0
            while (line := file.readline().strip()) != b"":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            seen.append(json.loads(file.read(length))["choices"][0]["message"]["content"])
    assert seen == texts


def test_a_client_that_expects_is_told_to_continue(echo, dial):
    connection = dial(echo)
    head, _, body = request(body=CHAT, headers=["Expect: 100-continue"]).partition(b"\r\n\r\n")
    connection.sendall(head + b"\r\n\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
    connection.sendall(body)
    assert answer(connection)[0] == 200


def test_a_body_over_the_limit_is_413_and_the_connection_goes_on(echo, dial):
    connection = dial(echo)
    connection.sendall(request(body=b"x" * (20 * 1024 * 1024 + 1)))
    status, _, body = answer(connection)
    assert status == 413
    assert json.loads(body)["error"]["code"] == "request_too_large"
    connection.sendall(request(body=CHAT))
    assert answer(connection)[0] == 200


def test_a_body_over_the_limit_is_refused_before_it_is_sent(echo, dial):
    connection = dial(echo)
    connection.sendall(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n")
    assert answer(connection)[0] == 413
    assert connection.recv(100) == b""


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/nothing", 404),
        ("GET", "/", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/v1/models/gpt-4o", 405),
        ("GET", "/healthz", 200),
        ("GET", "/healthz?verbose=1", 200),
    ],
)
def test_paths_and_methods(echo, dial, method, path, status):
    connection = dial(echo)
    connection.sendall(request(method, path))
    assert answer(connection)[0] == status


def test_a_wrong_method_names_the_right_one(echo, dial):
    connection = dial(echo)
    connection.sendall(request("GET", "/v1/embeddings"))
    assert answer(connection)[1]["allow"] == "POST"


def test_what_is_not_http_is_a_400_and_the_end(echo, dial):
    connection = dial(echo)
    connection.sendall(b"this is not HTTP\r\n\r\n")
    status, _, body = answer(connection)
    assert status == 400
    assert "not valid HTTP" in json.loads(body)["error"]["message"]
    assert connection.recv(100) == b""


def test_a_missing_key_is_401_in_the_apis_words(dial):
    with running(api_keys=["k"]) as simulator:
        connection = dial(simulator)
        connection.sendall(request(body=CHAT))
        status, _, body = answer(connection)
    assert status == 401
    assert "You didn't provide an API key" in json.loads(body)["error"]["message"]


def test_stats_are_served_and_not_counted(echo, dial):
    connection = dial(echo)
    connection.sendall(request(body=CHAT))
    answer(connection)
    for _ in range(2):
        connection.sendall(request("GET", "/__stats"))
        seen = json.loads(answer(connection)[2])
        assert seen["requests"] == 1
        assert seen["by_status"] == {"200": 1}


def test_a_cut_answer_promises_more_than_it_gives(dial):
    with running(faults=FaultPlan(rates={"cut": 1.0})) as simulator:
        connection = dial(simulator)
        connection.sendall(request(body=CHAT))
        data = b""
        while piece := connection.recv(65536):
            data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    promised = int(next(line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"content-length")))
    assert 0 < len(body) < promised


def test_a_client_that_asks_to_close_is_closed(echo, dial):
    connection = dial(echo)
    connection.sendall(request(body=CHAT, headers=["Connection: close"]))
    assert answer(connection)[0] == 200
    assert connection.recv(100) == b""


def test_a_stop_releases_what_hangs_and_closes_every_connection(dial, eventually):
    with running(faults=FaultPlan(rates={"hang": 1.0})) as simulator:
        hanging, idle = dial(simulator), dial(simulator)
        hanging.sendall(request(body=CHAT))
        eventually(lambda: simulator.stats.in_flight == 1)
    assert hanging.recv(100) == b""
    assert idle.recv(100) == b""
    assert not [thread for thread in threading.enumerate() if thread.name == "simulator"]
    with pytest.raises(ConnectionRefusedError):
        dial(simulator)


async def test_a_stop_does_not_wait_for_what_hangs(eventually):
    server = SimulatorServer(Echo(), ServerSettings(faults=FaultPlan(rates={"hang": 1.0})))
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    writer.write(request(body=CHAT))
    await asyncio.to_thread(eventually, lambda: server.stats.in_flight == 1)
    async with asyncio.timeout(10):
        await server.stop(grace_s=3600)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_a_running_answer_is_finished_within_the_grace_of_a_stop():
    begun, release = asyncio.Event(), asyncio.Event()

    async def handler(http):
        begun.set()
        await release.wait()
        return HttpResponse(200, b"finished")

    server = HttpServer(handler)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request("GET", "/"))
    await begun.wait()
    stop = asyncio.create_task(server.stop(grace_s=3600))
    await asyncio.sleep(0)
    release.set()
    await stop
    assert (await reader.read()).endswith(b"finished")
    writer.close()
    await writer.wait_closed()


def test_a_hang_is_bounded(dial):
    with running(faults=FaultPlan(rates={"hang": 1.0}, hang_s=0.01)) as simulator:
        connection = dial(simulator)
        connection.sendall(request(body=CHAT))
        assert connection.recv(100) == b""


def test_a_taken_port_is_one_clear_error(echo):
    port = int(echo.url.rpartition(":")[2])
    with pytest.raises(SimulatorError, match=f"cannot listen on 127.0.0.1:{port}: .*port 0 takes a free port"):
        with running(port=port):
            pass


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_port_out_of_range_is_one_clear_error(port):
    with pytest.raises(SimulatorError, match="cannot listen on"):
        with running(port=port):
            pass


async def test_a_slow_reader_holds_a_stream_back_and_leaving_ends_it(eventually):
    sent = 0

    async def endless(http):
        async def chunks():
            nonlocal sent
            while True:
                sent += 1
                yield b"x" * 65536

        return HttpResponse(200, chunks())

    server = HttpServer(endless)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
    writer.write(request("GET", "/"))
    await reader.readline()
    before = -1
    while before != sent:  # until the buffers of both sides are full
        before = sent
        for _ in range(50):
            await asyncio.sleep(0)
    assert 0 < sent < 2000
    writer.close()
    await writer.wait_closed()
    await server.stop()
    assert not server.tasks
    assert not server.connections


async def test_a_defect_in_a_handler_cuts_that_connection_only(caplog):
    async def handler(http):
        if http.path == "/bad":
            raise RuntimeError("a defect")
        return HttpResponse(200, b"fine")

    server = HttpServer(handler)
    await server.start()
    seen = []
    for path in ("/bad", "/good"):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request("GET", path, headers=["Connection: close"]))
        seen.append(await reader.read())
        writer.close()
        await writer.wait_closed()
    await server.stop()
    assert seen[0] == b""
    assert seen[1].endswith(b"fine")
    assert "a defect" in caplog.text
