"""How long a conversation may be left alone, and how long it may become."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_llmops.checkpoint.length import trimmed
from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.errors import ConfigurationError, ConversationEnded, ConversationTooLong, ThreadOwnerMismatch
from tests.support.checkpoints import COLOURS, Caller
from tests.support.checkpoints import config as named


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["sqlite", "postgresql"])
def opened(request, tmp_path):
    """Savers over one database."""
    warm = f"sqlite:///{tmp_path}/ck.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    made = []

    def open_one(**options) -> TieredCheckpointSaver:
        made.append(TieredCheckpointSaver.from_urls(warm=warm, cold=f"file://{tmp_path}/cold", **options))
        return made[-1]

    yield open_one
    for saver in made:
        saver.close()


@pytest.mark.parametrize("colour", COLOURS)
async def test_a_conversation_left_alone_for_too_long_takes_no_more(opened, colour):
    clock = Clock()
    caller = Caller(opened(conversation_timeout_s=60.0, clock=clock), colour)
    parent = await caller.put("t", {"a": 1}, user="ann")
    for turn in range(5):
        clock.now += 59
        parent = await caller.put("t", {"a": turn}, parent=parent, user="ann")
    clock.now += 61

    for _ in range(2):
        with pytest.raises(ConversationEnded, match="'t' was left alone for longer than 60 s"):
            await caller.put("t", {"a": 9}, parent=parent, user="ann")
        with pytest.raises(ConversationEnded):
            await caller.write("t", parent, ("a", 9), metadata={"user_id": "ann"})
    with pytest.raises(ThreadOwnerMismatch):
        await caller.put("t", {"a": 9}, parent=parent, user="bob")

    assert (await caller.get(named("t"))).checkpoint["channel_values"] == {"a": 4}
    assert len(await caller.list(named("t"))) == 6
    await caller.put("another", {"a": 1}, user="ann")


async def test_a_busy_conversation_never_ends_however_short_its_timeout(opened):
    clock = Clock()
    caller = Caller(opened(conversation_timeout_s=4.0, clock=clock))
    parent = None
    for turn in range(60):
        clock.now += 0.5
        parent = await caller.put("t", {"a": turn}, parent=parent)


async def test_an_ended_conversation_has_ended_when_it_is_cold_too(opened):
    clock = Clock()
    saver = opened(conversation_timeout_s=60.0, clock=clock)
    caller = Caller(saver)
    parent = await caller.put("t", {"a": 1})
    clock.now += 61
    assert saver.sweep().archived == 1

    with pytest.raises(ConversationEnded):
        await caller.put("t", {"a": 2}, parent=parent)
    assert (await caller.get(named("t"))).checkpoint["channel_values"] == {"a": 1}


@pytest.mark.parametrize("colour", COLOURS)
async def test_a_longer_conversation_is_refused_and_stays_as_it_was(opened, colour):
    caller = Caller(opened(max_length=3), colour)
    messages = [HumanMessage(str(n), id=str(n)) for n in range(4)]
    parent = await caller.put("t", {"messages": messages[:3]})

    with pytest.raises(ConversationTooLong, match=r"4 messages is longer than 3 \(max_length\)"):
        await caller.put("t", {"messages": messages}, parent=parent)

    assert (await caller.get(named("t"))).checkpoint["channel_values"] == {"messages": messages[:3]}


@pytest.mark.parametrize("colour", COLOURS)
async def test_or_it_loses_its_oldest_messages(opened, colour):
    caller = Caller(opened(max_length=3, on_max_length="trim"), colour)
    messages = [HumanMessage(str(n), id=str(n)) for n in range(5)]
    given = list(messages)
    await caller.put("t", {"messages": given, "other": [1, 2, 3, 4, 5]})

    values = (await caller.get(named("t"))).checkpoint["channel_values"]
    assert values == {"messages": messages[2:], "other": [1, 2, 3, 4, 5]}
    assert given == messages


SYSTEM = SystemMessage("be kind", id="s")
CALL = AIMessage("", id="c", tool_calls=[{"name": "f", "args": {}, "id": "1"}])
ANSWER = ToolMessage("found", tool_call_id="1", id="a")
ROLES = {role: {"role": role} for role in ("system", "user", "tool")}
ASK, TELL = HumanMessage("?", id="h"), AIMessage("!", id="t")


@pytest.mark.parametrize(
    ("messages", "limit", "left"),
    [
        ([SYSTEM, ASK, TELL, ASK], 3, [SYSTEM, TELL, ASK]),
        ([ASK, CALL, ANSWER, TELL], 2, [TELL]),
        ([ASK, CALL, ANSWER, TELL], 3, [CALL, ANSWER, TELL]),
        ([SYSTEM, CALL, ANSWER, ANSWER], 3, [SYSTEM]),
        ([SYSTEM, SYSTEM, SYSTEM, ASK], 2, [SYSTEM, ASK]),
        ([ROLES["system"], ASK, ROLES["tool"], ROLES["user"]], 3, [ROLES["system"], ROLES["user"]]),
        ([ASK, TELL], 1, [TELL]),
    ],
)
def test_what_is_left_stands_by_itself(messages, limit, left):
    assert trimmed(messages, limit) == left


@pytest.mark.parametrize(
    "options", [{"max_length": 0}, {"max_length": "5"}, {"conversation_timeout_s": -1.0}, {"on_max_length": "shorten"}]
)
def test_a_limit_that_means_nothing_is_refused(opened, options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        opened(**options)
