"""Rules: the first that holds names the route; a wrong file is one line that names the place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.tokens import HeuristicTokenCounter
from langchain_llmops.router.rules import Rules
from langchain_llmops.router.signals import MAX_SCANNED_CHARS, Signals, read_signals

COUNTER = HeuristicTokenCounter()
QUIET = Signals(tokens=5, has_code=False, text="where is my order", tools=2, tool_results=0, turns=1)


def signals(**changes) -> Signals:
    return Signals(**{name: changes.get(name, getattr(QUIET, name)) for name in Signals.__slots__})


def rules(*listed: dict, otherwise: str = "simple") -> Rules:
    return Rules({"version": 1, "otherwise": otherwise, "rules": list(listed)})


def rule(name: str = "r", route: str = "complex", **when) -> dict:
    return {"name": name, "route": route, "when": when}


TABLE = [
    (rule(min_tokens=5), QUIET, True),
    (rule(min_tokens=6), QUIET, False),
    (rule(has_code=True), signals(has_code=True), True),
    (rule(has_code=True), QUIET, False),
    (rule(has_code=False), QUIET, True),
    (rule(min_tools=2), QUIET, True),
    (rule(min_tools=3), QUIET, False),
    (rule(min_tool_results=1), signals(tool_results=1), True),
    (rule(min_tool_results=1), QUIET, False),
    (rule(min_turns=2), signals(turns=2), True),
    (rule(min_turns=2), QUIET, False),
    (rule(any_keyword=["order"]), QUIET, True),
    (rule(any_keyword=["refund", "order"]), QUIET, True),
    (rule(any_keyword=["ORDER"]), QUIET, True),
    (rule(any_keyword=["my order"]), QUIET, True),
    (rule(any_keyword=["ord"]), QUIET, False),
    (rule(any_keyword=["trade-off"]), signals(text="a trade-off, really"), True),
    (rule(any_keyword=["a.b"]), signals(text="axb"), False),
    (rule(any_keyword=["c++"]), signals(text="i write c++ all day"), True),
    (rule(any_keyword=["Straße"]), signals(text="welche straße ist das"), True),
    (rule(min_tokens=5, min_tools=2), QUIET, True),
    (rule(min_tokens=5, min_tools=9), QUIET, False),
]


@pytest.mark.parametrize(("one", "seen", "holds"), TABLE)
def test_a_rule_holds_when_all_its_conditions_do(one, seen, holds) -> None:
    assert rules(one).decide(seen) == (("complex", ("r",)) if holds else ("simple", ("no rule asked for more",)))


def test_the_first_rule_that_holds_decides_and_is_the_reason() -> None:
    several = rules(
        rule("never", min_tokens=99), rule("first", "large", min_tokens=1), rule("second", "huge", min_tokens=1)
    )
    assert several.decide(QUIET) == ("large", ("first",))
    assert several.routes == {"simple", "complex", "large", "huge"}


def test_without_rules_everything_is_otherwise() -> None:
    assert rules(otherwise="only").decide(QUIET) == ("only", ("no rule asked for more",))


# the rules we ship


@pytest.mark.parametrize(
    ("seen", "route"),
    [
        (QUIET, "simple"),
        (signals(tokens=601), "complex"),
        (signals(has_code=True), "complex"),
        (signals(tools=32), "complex"),
        (signals(tool_results=3), "complex"),
        (signals(text="please compare these two plans"), "complex"),
        (signals(turns=50), "simple"),
    ],
)
def test_the_rules_we_ship_send_hard_questions_to_the_complex_model(seen, route) -> None:
    assert Rules.load().decide(seen)[0] == route
    assert Rules.load().routes == {"simple", "complex"}


def test_the_limit_of_length_is_the_longest_simple_question() -> None:
    limited = Rules.load(max_simple_tokens=10)
    assert [limited.decide(signals(tokens=tokens))[0] for tokens in (10, 11)] == ["simple", "complex"]


# files


def test_rules_come_from_a_file(tmp_path) -> None:
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({"version": 1, "otherwise": "a", "rules": [rule(route="b", min_tokens=1)]}))
    for given_path in (path, str(path)):
        assert Rules.load(given_path).decide(QUIET) == ("b", ("r",))


def document(*listed: object, **changes: object) -> bytes:
    return json.dumps({"version": 1, "otherwise": "a", "rules": list(listed), **changes}).encode()


WRONG = {
    "no JSON": (b'{"version": 1,\n"rules": oops}', r"^rules file {path}, line 2: Expecting value$"),
    "not text": (b"\xff\xfe", "^rules file {path}: not UTF-8"),
    "a list": (b"[]", '^{path}: needs "version": 1 and "otherwise"'),
    "a number": (b"3", '^{path}: needs "version": 1 and "otherwise"'),
    "no version": (document(version=None), '^{path}: needs "version": 1'),
    "another version": (document(version=2), '^{path}: needs "version": 1'),
    "no otherwise": (document(otherwise=None), '^{path}: needs .* "otherwise"'),
    "no rules": (document(rules=None), '^{path}: needs "rules": a list'),
    "rules of another kind": (document(rules={}), '^{path}: needs "rules": a list'),
    "a rule of another kind": (document(3), '^{path}, rule 1: needs "name" and "route"'),
    "a rule without name": (document({"route": "a", "when": {"min_tokens": 1}}), '^{path}, rule 1: needs "name" and'),
    "the second rule": (
        document(rule(min_tokens=1), {"name": "second", "when": {}}),
        '^{path}, rule 2: needs "name" and "route"',
    ),
    "no condition": (document(rule("lonely")), r'^{path}, rule 1 \(lonely\): needs "when" with a condition of'),
    "a condition of another kind": (document({**rule("odd"), "when": 3}), r'^{path}, rule 1 \(odd\): needs "when"'),
    "an unknown condition": (
        document(rule("new", max_tokens=3)),
        r"^{path}, rule 1 \(new\): unknown condition 'max_tokens'; known: ",
    ),
    "a text for a number": (document(rule("x", min_tokens="3")), r"rule 1 \(x\): min_tokens must be int, not '3'$"),
    "true for a number": (document(rule("x", min_tokens=True)), r"rule 1 \(x\): min_tokens must be int, not True$"),
    "a number for true": (document(rule("x", has_code=1)), r"rule 1 \(x\): has_code must be bool, not 1$"),
    "a text for words": (document(rule("x", any_keyword="a")), r"rule 1 \(x\): any_keyword must be list, not 'a'$"),
    "no words": (document(rule("x", any_keyword=[])), r"rule 1 \(x\): any_keyword must be a list of words$"),
    "an empty word": (document(rule("x", any_keyword=[""])), r"rule 1 \(x\): any_keyword must be a list of words$"),
    "a number for a word": (
        document(rule("x", any_keyword=[3])),
        r"rule 1 \(x\): any_keyword must be a list of words$",
    ),
}


@pytest.mark.parametrize(("content", "told"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_one_line_that_names_the_place(content, told, tmp_path) -> None:
    path = tmp_path / "rules.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=told.replace("{path}", str(path))) as caught:
        Rules.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line_that_names_it(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match=r"^rules file .*rules\.json: No such file or directory$"):
        Rules.load(tmp_path / "rules.json")


# signals


def read(*messages, tools: int = 0) -> Signals:
    return read_signals(messages, tools=tools, counter=COUNTER)


def test_signals_are_of_the_last_user_message_and_what_came_after_it() -> None:
    seen = read(
        SystemMessage("be brief " * 100),
        HumanMessage("first"),
        ToolMessage("old", tool_call_id="0"),
        HumanMessage("Where IS my order"),
        AIMessage("", tool_calls=[]),
        ToolMessage("x", tool_call_id="1"),
        ToolMessage("y", tool_call_id="2"),
        tools=3,
    )
    assert seen == Signals(
        tokens=COUNTER.count("Where IS my order"),
        has_code=False,
        text="where is my order",
        tools=3,
        tool_results=2,
        turns=2,
    )


def test_a_request_without_a_user_message_has_an_empty_text() -> None:
    assert read(SystemMessage("x"), tools=1) == Signals(0, has_code=False, text="", tools=1, tool_results=0, turns=0)
    assert read() == Signals(0, has_code=False, text="", tools=0, tool_results=0, turns=0)


def test_text_in_blocks_is_read_as_text() -> None:
    blocks = [{"type": "text", "text": "def f():"}, {"type": "image_url", "image_url": {"url": "http://x"}}]
    assert read(HumanMessage(blocks)).has_code


CODE = ["```\nx\n```", "def main():", "class A:", "import os", "function f() {", "x => x + 1", "</div>",
        "SELECT a FROM b", "Traceback (most recent call last)", "int x = 1;"]  # fmt: skip
PROSE = ["where is my order", "I was in a class on Friday", "what is the function of the liver", "select a gift from us",  # noqa: E501 - sentences, one after another
         "the price; is it fixed?", "a <- b"]  # fmt: skip


@pytest.mark.parametrize("text", CODE)
def test_code_is_seen(text) -> None:
    assert read(HumanMessage(f"what does this do:\n{text}")).has_code


@pytest.mark.parametrize("text", PROSE)
def test_prose_is_no_code(text) -> None:
    assert not read(HumanMessage(text)).has_code


def test_a_very_long_message_is_read_in_part_and_its_length_in_whole() -> None:
    seen = read(HumanMessage("word " * 100_000 + "def f():"))
    assert len(seen.text) == MAX_SCANNED_CHARS
    assert 90_000 < seen.tokens < 110_000


@given(st.text(), st.integers(0, 50))
def test_any_text_has_signals_and_a_route(text, tools) -> None:
    seen = read(HumanMessage(text), tools=tools)
    assert Rules.load().decide(seen)[0] in {"simple", "complex"}
