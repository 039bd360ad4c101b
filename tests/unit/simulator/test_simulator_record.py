"""What goes through the proxy comes back in a replay, once, whole and without keys."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_llmops.simulator import FaultPlan, Replay, Scripted, SimulatorError, record, recording, running
from langchain_llmops.simulator.assemble import StreamedMessage, message_of
from langchain_llmops.simulator.book import Book, without_keys
from langchain_llmops.simulator.http1 import HttpResponse, HttpServer
from langchain_llmops.simulator.record import Recorder
from langchain_llmops.simulator.recordings import Recording, read_recordings, write_recordings
from langchain_llmops.simulator.tokens import Usage
from langchain_llmops.simulator.types import Reply, Request, ToolCall
from langchain_llmops.simulator.wire import Answer, chat_body, chat_frames

SCRIPT = Scripted(
    [
        {"when": {"regex": r"order (?P<id>\d+)"},
         "reply": {"tool_calls": [{"name": "look", "arguments": {"id": "{id}", "note": "é 🙂 " * 9}},
                                  {"name": "log", "arguments": {}}]}},
        {"when": {"last_role": "tool", "contains": "shipped"}, "reply": "It is on its way, " + "really " * 20},
        {"when": {"contains": "secret"}, "reply": {"refusal": "I will not say."}},
        {"default": "Hello there."},
    ]
)  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("look", "log")]


class Proxy:
    """A recorder as the `connect` fixture takes it."""

    def __init__(self, recorder):
        self.base_url = f"{recorder.url}/v1"


def talk(client, stream):
    """A conversation of five turns with parallel tool calls; gives every answer."""
    messages, said = [], []

    def turn(*new):
        messages.extend(new)
        if stream:
            with client.chat.completions.stream(model="gpt-4o", messages=messages, tools=TOOLS) as events:
                message = events.get_final_completion().choices[0].message
        else:
            message = client.chat.completions.create(model="gpt-4o", messages=messages, tools=TOOLS).choices[0].message
        calls = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()]
        said.append((message.content, calls, message.refusal))
        turn_message = {"role": "assistant", "content": message.content or ""}
        if message.tool_calls:
            turn_message["tool_calls"] = [
                {
                    "id": c.id,
                    "type": "function",
                    "function": {"name": c.function.name, "arguments": c.function.arguments},
                }
                for c in message.tool_calls
            ]
        messages.append(turn_message)
        return message

    turn({"role": "user", "content": "hi"})
    calls = turn({"role": "user", "content": "where is order 12?"}).tool_calls
    turn(*({"role": "tool", "tool_call_id": call.id, "content": "shipped"} for call in calls))
    turn({"role": "user", "content": "tell me a secret"})
    turn({"role": "user", "content": "bye"})
    return said


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_replay_of_the_recording_gives_the_same_answers(tmp_path, connect, stream, suffix):
    path = tmp_path / f"out{suffix}"
    with running(SCRIPT) as upstream, recording(path, upstream.base_url) as recorder:
        original = talk(connect(Proxy(recorder)), stream)
    assert len(read_recordings(path)) == 1
    with running(Replay.from_file(path)) as simulator:
        assert talk(connect(simulator), stream) == talk(connect(simulator), not stream) == original
    assert [said[2] for said in original][-2] == "I will not say."


@pytest.mark.parametrize("complete", [True, False])
async def test_a_stream_counts_from_its_finish_reason_on_whenever_the_client_leaves(tmp_path, complete):
    """Clients leave at `[DONE]`, and the provider may end its stream later; one who leaves before gets nothing kept."""
    frames, tail = chat_frames(Answer(Request("m", (user("x"),)), Reply(content="several words here"), Usage(1, 1)))

    async def provider(http):
        async def chunks():
            yield b"".join(frames) + (tail if complete else b"")
            await asyncio.Event().wait()

        return HttpResponse(200, chunks(), (("content-type", "text/event-stream"),))

    upstream = HttpServer(provider)
    await upstream.start()
    recorder = Recorder(tmp_path / "out.jsonl", upstream.url)
    await recorder.start()
    async with httpx.AsyncClient() as client:
        body = {"model": "m", "messages": [user("x")]}
        async with client.stream("POST", f"{recorder.url}/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if line == "data: [DONE]" or (not complete and "here" in line):
                    break
    await recorder.stop()
    await upstream.stop(grace_s=0)
    assert recorder.conversations == int(complete)
    assert (tmp_path / "out.jsonl").exists() == complete


async def test_the_async_client_and_other_paths_pass_through(tmp_path, aconnect):
    path = tmp_path / "out.jsonl"
    with running() as upstream, recording(path, upstream.url) as recorder:  # a bare host gets its /v1
        client = await aconnect(Proxy(recorder))
        assert "gpt-4o" in [model.id async for model in client.models.list()]
        assert len((await client.embeddings.create(model="text-embedding-3-small", input="a")).data) == 1
        stream = await client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "hi"
    assert upstream.stats.by_path == {"/v1/models": 1, "/v1/embeddings": 1, "/v1/chat/completions": 1}
    assert len(read_recordings(path)) == 1


@pytest.mark.parametrize("kind", ["rate_limit", "cut", "malformed"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_failed_fails_for_the_client_too_and_is_not_recorded(tmp_path, ask, kind, stream):
    path = tmp_path / "out.jsonl"
    with running(faults=FaultPlan(rates={kind: 1.0})) as upstream, recording(path, upstream.base_url) as recorder:
        with pytest.raises((openai.APIError, ValueError)):
            list(ask(Proxy(recorder), "long enough to be cut " * 5, stream=stream))
    assert not path.exists()


def test_an_upstream_that_is_not_there_is_a_502(tmp_path, ask):
    with running() as gone:
        pass
    with recording(tmp_path / "out.jsonl", gone.base_url) as recorder:
        with pytest.raises(openai.InternalServerError, match="did not answer: ConnectError") as caught:
            ask(Proxy(recorder))
    assert caught.value.status_code == 502


def test_keys_never_reach_the_file(tmp_path, connect):
    path = tmp_path / "out.jsonl"
    with running() as upstream, recording(path, upstream.base_url) as recorder:
        client = connect(Proxy(recorder), api_key="my-odd-key-123")
        for text in (
            "use sk-abcDEF123456_x-y please",
            "mine is my-odd-key-123",
            "Authorization: Bearer abc.DEF.123456",
        ):
            client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": text}])
    data = path.read_text()
    for secret in ("sk-abc", "my-odd-key", "abc.DEF", 'authorization":'):
        assert secret not in data
    assert data.count("[key removed]") == 6


def test_the_file_is_whole_while_the_recorder_runs(tmp_path, connect, eventually):
    path = tmp_path / "out.jsonl"
    with running() as upstream, recording(path, upstream.base_url) as recorder:
        client = connect(Proxy(recorder))
        for i in range(3):
            client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": f"hi {i}"}])
        eventually(lambda: path.exists() and len(read_recordings(path)) == 3)
        assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_write_under_way_at_the_stop_does_not_undo_the_last_one(tmp_path, ask, monkeypatch):
    path, begun, later = tmp_path / "out.jsonl", threading.Event(), threading.Event()

    def slow_at_first(target, recordings):
        if begun.is_set():
            write_recordings(target, recordings)
            later.set()
        else:
            begun.set()
            later.wait(0.5)  # the time a wrong order has to show itself
            write_recordings(target, recordings)

    monkeypatch.setattr(record, "write_recordings", slow_at_first)
    with running() as upstream, recording(path, upstream.base_url) as recorder:
        ask(Proxy(recorder), "one")
        assert begun.wait(10)
        ask(Proxy(recorder), "two")
    assert len(read_recordings(path)) == 2


def test_an_existing_recording_is_gone_on_with(tmp_path, ask):
    path = tmp_path / "out.jsonl"
    for text in ("one", "two", "one"):
        with running() as upstream, recording(path, upstream.base_url) as recorder:
            ask(Proxy(recorder), text)
    assert recorder.conversations == 2
    assert [one.messages[0]["content"] for one in read_recordings(path)] == ["one", "two"]


@pytest.mark.parametrize(
    ("make", "upstream", "reason"),
    [
        (lambda path: None, "api.openai.com", "--upstream must be a URL"),
        (lambda path: None, "ftp://example.com", "--upstream must be a URL"),
        (lambda path: path.write_text("garbage"), "http://127.0.0.1:1", "line 1: is not JSON"),
        (lambda path: path.mkdir(), "http://127.0.0.1:1", "cannot be read: Is a directory"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(tmp_path, make, upstream, reason):
    path = tmp_path / "out.jsonl"
    make(path)
    before = path.read_text() if path.is_file() else None
    with pytest.raises(SimulatorError, match=reason):
        with recording(path, upstream):
            pass
    assert (path.read_text() if path.is_file() else None) == before


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SimulatorError, match=r"the folder .* does not exist"):
        with recording(tmp_path / "no" / "out.jsonl", "http://127.0.0.1:1"):
            pass


def test_a_file_that_cannot_be_written_at_the_stop_is_raised_there(tmp_path, ask):
    folder = tmp_path / "there"
    folder.mkdir()

    def record_then_lose_the_folder():
        with running() as upstream, recording(folder / "out.jsonl", upstream.base_url) as recorder:
            folder.rmdir()
            ask(Proxy(recorder))

    with pytest.raises(SimulatorError, match="cannot be written: No such file"):
        record_then_lose_the_folder()


# The pure parts


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


def test_a_conversation_that_grows_is_kept_once_in_its_longest_form_under_its_first_name():
    book = Book()
    turns = [user("a"), said("b"), user("c"), said("d"), user("e"), said("f")]
    names = set()
    for end in (2, 4, 6):
        assert book.add(turns[:end])
        names |= {one.conversation_id for one in book.recordings}
    assert not book.add(turns[:2])
    assert not book.add(turns)
    assert [len(one.messages) for one in book.recordings] == [6]
    assert len(names) == 1


def test_different_answers_to_the_same_question_are_both_kept():
    book = Book()
    assert book.add([user("a"), said("b")])
    assert book.add([user("a"), said("c")])
    assert book.add([user("a"), said("b"), user("x"), said("y")])
    assert sorted(len(one.messages) for one in book.recordings) == [2, 4]
    assert len({one.conversation_id for one in book.recordings}) == 2


TURNS = st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map(
    lambda words: [m for i, word in enumerate(words) for m in (user(word), said(f"{word}{i % 2}"))]
)


@given(st.lists(TURNS, max_size=12))
def test_no_recording_is_the_beginning_of_another_and_none_is_lost(conversations):
    book = Book()
    for messages in conversations:
        book.add(messages)
    kept = [list(one.messages) for one in book.recordings]
    for messages in conversations:
        assert sum(one[: len(messages)] == messages for one in kept) >= 1
    for one in kept:
        assert not any(one is not other and other[: len(one)] == one for other in kept)
    assert len({one.conversation_id for one in book.recordings}) == len(kept)


@given(st.binary(max_size=300))
def test_foreign_bytes_never_break_the_recorder(data):
    message_of(data)
    streamed = StreamedMessage()
    streamed.feed(b"data: " + data + b"\n\n")
    assert streamed.message is None


REPLIES = st.builds(
    Reply,
    content=st.none() | st.text(max_size=60),
    tool_calls=st.lists(st.builds(ToolCall, st.just("f"), st.text(max_size=60)), max_size=3).map(tuple),
)


@given(REPLIES, st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_a_streamed_message_is_the_whole_one_however_the_bytes_are_cut(reply, sizes):
    answer = Answer(Request("m", (user("x"),)), reply, Usage(1, 1))
    frames, tail = chat_frames(answer)
    data, streamed, at = b"".join(frames) + tail, StreamedMessage(), 0
    while at < len(data):
        size = sizes[at % len(sizes)]
        streamed.feed(data[at : at + size])
        at += size
    whole = message_of(chat_body(answer))
    assert whole is not None
    assert streamed.message is not None
    for one in (whole, streamed.message):
        for call in one.get("tool_calls", ()):
            call.pop("id")
    assert streamed.message == whole


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_stripping_keys_twice_is_stripping_them_once(text):
    once = without_keys({"a": [text, {"b": text}]}, ("secret",))
    assert without_keys(once, ("secret",)) == once


def test_a_written_file_is_read_back_and_never_half_there(tmp_path):
    path = tmp_path / "out.jsonl.gz"
    recordings = [Recording("a", (user("x é"), said("y")))]
    write_recordings(path, recordings)
    assert read_recordings(path) == recordings
    before = path.read_bytes()

    def broken():
        yield recordings[0]
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        write_recordings(path, broken())
    assert path.read_bytes() == before
    assert gzip.decompress(before).count(b"\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_error_answers_keep_their_body_and_headers(tmp_path):
    with running(faults=FaultPlan(rates={"rate_limit": 1.0}, retry_after_s=0.25)) as upstream:
        with recording(tmp_path / "out.jsonl", upstream.base_url) as recorder:
            body = {"model": "gpt-4o", "messages": [user("x")]}
            response = httpx.post(f"{recorder.url}/v1/chat/completions", json=body)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "0.25"
    assert response.json()["error"]["code"] == "rate_limit_exceeded"
