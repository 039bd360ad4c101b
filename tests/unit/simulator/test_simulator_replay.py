"""A replay answers with what was recorded, or says why it does not."""

from __future__ import annotations

import gzip
import json

import httpx
import pytest

from langchain_llmops.simulator import ApiError, Replay, Request, SimulatorError, running
from langchain_llmops.simulator.recordings import Recording
from tests.support.data import shared_data

AIRLINE = "support/airline_gpt4o_conversations.jsonl.gz"


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def replay_of(**conversations):
    return Replay(Recording(name, tuple(messages)) for name, messages in conversations.items())


def asked(replay, messages, conversation_id=None):
    return replay.answer(Request("gpt-4o", tuple(messages), conversation_id=conversation_id))


def refusal_of(replay, messages, conversation_id=None):
    with pytest.raises(ApiError) as caught:
        asked(replay, messages, conversation_id)
    return caught.value.status, caught.value.code


FORK = replay_of(
    one=[user("hi"), assistant("A"), user("more"), assistant("B")],
    two=[user("hi"), assistant("A"), user("more"), assistant("C"), user("thanks")],
    three=[user("hi")],
)


def test_equal_replies_need_no_header():
    replay = replay_of(one=[user("hi"), assistant("A"), user("x")], two=[user("hi"), assistant("A"), user("y")])
    assert asked(replay, [user("hi")]).content == "A"
    assert asked(replay, [user("hi")], "nobody").content == "A"


def test_different_replies_need_a_header_that_names_one():
    messages = [user("hi"), assistant("A"), user("more")]
    assert asked(FORK, messages, "one").content == "B"
    assert asked(FORK, messages, "two").content == "C"
    for name in (None, "nobody", "three"):
        with pytest.raises(ApiError, match=r"in 2 recordings: one, two.*X-Replay-Conversation") as caught:
            asked(FORK, messages, name)
        assert (caught.value.status, caught.value.code) == (409, "ambiguous_prefix")


def test_an_end_and_a_continuation_are_ambiguous_without_a_header():
    assert refusal_of(FORK, [user("hi")]) == (409, "ambiguous_prefix")
    assert refusal_of(FORK, [user("hi")], "three") == (404, "recording_ended")
    assert asked(FORK, [user("hi")], "one").content == "A"


def test_a_whole_recording_has_ended_and_everything_else_is_unknown():
    whole = [user("hi"), assistant("A"), user("more"), assistant("C"), user("thanks")]
    assert refusal_of(FORK, whole) == (404, "recording_ended")
    assert refusal_of(FORK, [*whole, user("more")]) == (404, "unknown_prefix")
    assert refusal_of(FORK, [user("hi"), assistant("A")]) == (404, "unknown_prefix")
    assert refusal_of(FORK, [user("Hi")]) == (404, "unknown_prefix")


def test_a_recorded_answer_is_given_whole_whatever_max_tokens_says():
    replay = replay_of(one=[user("hi"), assistant("a long answer " * 10), user("x")])
    with running(replay) as simulator:
        body = {"model": "gpt-4o", "messages": [user("hi")], "max_tokens": 3}
        response = httpx.post(f"{simulator.base_url}/chat/completions", json=body)
    assert response.json()["choices"][0]["message"]["content"] == "a long answer " * 10


@pytest.fixture(scope="module")
def airline():
    with gzip.open(shared_data(AIRLINE), "rt") as lines:
        return [json.loads(line) for line in lines]


def test_every_recorded_answer_comes_back_word_for_word(airline):
    """The whole real file, over HTTP: 2,454 answers, 1,164 of them tool calls."""
    answers = calls = ends = 0
    with (
        running(Replay.from_file(shared_data(AIRLINE))) as simulator,
        httpx.Client(base_url=simulator.base_url) as client,
    ):
        for conversation in airline:
            messages, header = conversation["messages"], {"X-Replay-Conversation": conversation["conversation_id"]}

            def post(count, messages=messages, header=header):
                body = {"model": "gpt-4o", "messages": messages[:count]}
                return client.post("/chat/completions", json=body, headers=header)

            for i, message in enumerate(messages):
                if message["role"] == "assistant":
                    said = post(i).raise_for_status().json()["choices"][0]["message"]
                    assert said["content"] == message["content"]
                    assert functions(said) == functions(message)
                    answers += 1
                    calls += len(functions(message))
            end = post(len(messages))
            assert (end.status_code, end.json()["error"]["code"]) == (404, "recording_ended")
            ends += 1
    assert (answers, calls, ends) == (2454, 1164, 200)
    assert simulator.stats.by_status == {200: 2454, 404: 200}


def test_shared_beginnings_of_the_real_file_are_answered_or_refused_by_what_follows(airline):
    """Seven prefixes of the file are shared, and all go on alike: no header is needed until one is made to differ."""
    followers = {}
    for conversation in airline:
        for i, message in enumerate(conversation["messages"]):
            if message["role"] == "assistant":
                said = json.dumps([[m["role"], m["content"], functions(m)] for m in conversation["messages"][:i]])
                followers.setdefault(said, []).append((conversation, i))
    shared = [group for group in followers.values() if len(group) > 1]
    assert len(shared) == 7
    replay = Replay.from_file(shared_data(AIRLINE))
    for group in followers.values():
        for conversation, i in group:
            assert asked(replay, conversation["messages"][:i]).content == conversation["messages"][i]["content"]

    conversation, i = shared[0][0]
    names = sorted(other["conversation_id"] for other, _ in shared[0])
    changed = [*conversation["messages"][:i], assistant("Something else."), *conversation["messages"][i + 1 :]]
    forked = Replay(
        Recording(one["conversation_id"], tuple(changed if one is conversation else one["messages"])) for one in airline
    )
    with pytest.raises(ApiError) as caught:
        asked(forked, changed[:i])
    assert caught.value.code == "ambiguous_prefix"
    assert all(name in caught.value.message for name in names)
    assert asked(forked, changed[:i], conversation["conversation_id"]).content == "Something else."


def functions(message):
    return [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in message.get("tool_calls") or ()
    ]


def test_a_streamed_replay_gives_the_recorded_call(ask, airline):
    conversation = airline[0]
    messages = conversation["messages"]
    at = next(i for i, message in enumerate(messages) if message.get("tool_calls"))
    with running(Replay.from_file(shared_data(AIRLINE))) as simulator:
        header = {"X-Replay-Conversation": conversation["conversation_id"]}
        chunks = list(ask(simulator, messages=messages[:at], stream=True, extra_headers=header))
    pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or ()]
    recorded = messages[at]["tool_calls"][0]["function"]
    assert pieces[0].function.name == recorded["name"]
    assert "".join(piece.function.arguments for piece in pieces) == recorded["arguments"]
    assert pieces[0].id != messages[at]["tool_calls"][0]["id"]


GOOD = json.dumps({"conversation_id": "a", "messages": [user("hi")]})


@pytest.mark.parametrize(
    ("lines", "line", "reason"),
    [
        ([GOOD, "{"], 2, "is not JSON"),
        ([GOOD, "[]"], 2, "needs an object"),
        (["", "", '{"conversation_id": "a"}'], 3, "needs an object with `conversation_id`"),
        (['{"conversation_id": "a", "messages": []}'], 1, "a list `messages`"),
        ([json.dumps({"messages": [user("hi")]})], 1, "needs a `conversation_id`"),
        ([GOOD, GOOD], 2, "'a' stands twice"),
        ([json.dumps({"conversation_id": "b", "messages": [{"role": "robot"}]})], 1, r"'robot'.*Supported values"),
        ([json.dumps({"conversation_id": "b", "messages": [user(3)]})], 1, r"messages\[0\].content"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_wrong_line_is_named(tmp_path, lines, line, reason, suffix):
    path = tmp_path / f"recording{suffix}"
    data = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    with pytest.raises(SimulatorError, match=rf"recording{suffix}, line {line}: .*{reason}") as caught:
        Replay.from_file(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("missing.jsonl", None, "No such file"),
        ("empty.jsonl", b"\n\n", "holds no conversation"),
        ("plain.jsonl.gz", b"{}", "cannot be read"),
        ("torn.jsonl.gz", gzip.compress(GOOD.encode() * 50, mtime=0)[:-12], "cannot be read"),
        ("latin.jsonl", b'{"conversation_id": "\xff"}', "line 1: is not JSON"),
    ],
    ids=["missing", "empty", "plain", "torn", "latin"],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name, data, reason):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(SimulatorError, match=reason) as caught:
        Replay.from_file(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
