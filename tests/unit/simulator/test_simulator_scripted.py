"""Rules from a file: the first that matches answers; a wrong one is named."""

from __future__ import annotations

import json

import pytest

from langchain_llmops.simulator import ApiError, Request, Scripted, SimulatorError, running

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}


def reply(script, *messages, model="gpt-4o", **fields):
    turns = tuple({"role": "user", "content": m} if isinstance(m, str) else m for m in messages)
    return script.answer(Request(model, turns, **fields))


def result(text):
    return {"role": "tool", "tool_call_id": "c1", "content": text}


SCRIPT = """
- when: {regex: "order (?P<id>[0-9]+)( for (?P<who>\\\\w+))?"}
  reply:
    tool_calls:
      - {name: look, arguments: {order_id: "{id}", deep: [{who: "{who}", keep: "{unknown}", n: 3}]}}
- when: {last_role: tool, contains: SHIPPED}
  reply: "On its way: {not_a_name}"
- when: {tool_result_contains: lost}
  reply: {content: Sorry., finish_reason: length}
- when: {model: gpt-4o-mini}
  reply: I am small.
- when: {contains: secret}
  reply: {refusal: I will not say.}
- default: "How can I help?"
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.yaml"
    path.write_text(SCRIPT)
    return Scripted.from_file(path)


def test_named_groups_fill_arguments_at_any_depth_and_other_braces_stay(script):
    call = reply(script, "where is order 77 for Ann").tool_calls[0]
    assert json.loads(call.arguments) == {"order_id": "77", "deep": [{"who": "Ann", "keep": "{unknown}", "n": 3}]}
    assert json.loads(reply(script, "order 8").tool_calls[0].arguments)["deep"][0]["who"] == ""


def test_a_rule_on_the_users_words_does_not_match_again_on_the_tools_result(script):
    assert reply(script, "where is order 77", CALLED, result("nothing")).content == "How can I help?"


def test_rules_can_look_at_the_tools_results(script):
    assert reply(script, "order 77", CALLED, result("it shipped today")).content == "On its way: {not_a_name}"
    lost = reply(script, "order 77", CALLED, result("it is LOST"), result("and gone"))
    assert (lost.content, lost.finish) == ("Sorry.", "length")
    assert reply(script, "order 7", CALLED, result("lost"), CALLED, result("found")).content == "How can I help?"


def test_rules_can_look_at_the_model_and_can_refuse(script):
    assert reply(script, "hi", model="gpt-4o-mini").content == "I am small."
    assert reply(script, "the Secret").refusal == "I will not say."
    assert reply(script, "the Secret").content is None


def test_the_first_rule_that_matches_wins():
    script = Scripted([{"when": {"contains": "a"}, "reply": "first"}, {"when": {"contains": "ab"}, "reply": "second"}])
    assert reply(script, "ab").content == "first"


def test_without_a_match_and_a_default_it_is_a_404():
    with pytest.raises(ApiError) as caught:
        reply(Scripted([{"when": {"contains": "a"}, "reply": "x"}]), "b")
    assert (caught.value.status, caught.value.code) == (404, "no_rule_matches")


def test_a_json_file_is_a_script_too(tmp_path):
    path = tmp_path / "script.json"
    path.write_text(json.dumps([{"default": "hello"}]))
    assert reply(Scripted.from_file(path), "x").content == "hello"


def test_text_becomes_json_where_the_caller_demands_it_and_scripted_json_stays():
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    wanted = {"type": "json_schema", "name": "s", "schema": schema}
    script = Scripted([{"when": {"contains": "five"}, "reply": '{"n": 5}'}, {"default": "plain"}])
    assert json.loads(reply(script, "five", response_format=wanted).content) == {"n": 5}
    assert json.loads(reply(script, "x", response_format=wanted).content) == {"n": 0}


def test_a_script_works_over_the_wire(script, ask):
    with running(script) as simulator:
        assert ask(simulator, "hi").choices[0].message.content == "How can I help?"


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("hello", "must be a mapping"),
        ({"when": {"contains": "a"}}, "needs `when` and `reply`"),
        ({"when": {}, "reply": "x"}, "`when` is empty"),
        ({"when": {"sounds": "a"}, "reply": "x"}, "does not know `sounds`"),
        ({"when": {"contains": 3}, "reply": "x"}, "`contains` must be text"),
        ({"when": {"regex": "("}, "reply": "x"}, "`regex` is not valid"),
        ({"when": {"last_role": "robot"}, "reply": "x"}, "`last_role` is one of"),
        ({"when": {"contains": "a"}, "reply": {}}, "needs `content`"),
        ({"when": {"contains": "a"}, "reply": {"text": "x"}}, "does not know `text`"),
        ({"when": {"contains": "a"}, "reply": {"content": None}}, "`content` must be text"),
        ({"when": {"contains": "a"}, "reply": {"refusal": "no", "content": "x"}}, "stands alone"),
        ({"when": {"contains": "a"}, "reply": {"content": "x", "finish_reason": "tired"}}, "`finish_reason` is one of"),
        ({"when": {"contains": "a"}, "reply": {"tool_calls": []}}, "list of"),
        ({"when": {"contains": "a"}, "reply": {"tool_calls": [{"arguments": {}}]}}, "`name` of a tool call"),
        ({"when": {"contains": "a"}, "reply": {"tool_calls": [{"name": "f", "arguments": "x"}]}}, "must be a mapping"),
        ({"when": {"contains": "a"}, "reply": {"tool_calls": [{"name": "f", "arguments": {"x": {1, 2}}}]}}, "not JSON"),
        ({"default": "b"}, "a default already"),
        ({"default": "b", "reply": "c"}, "needs `when` and `reply`"),
    ],
)
def test_a_wrong_rule_is_named_with_its_number(rule, reason):
    with pytest.raises(SimulatorError, match=rf"^script, rule 2: .*{reason}") as caught:
        Scripted([{"default": "a"}, rule])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [(None, "No such file"), ("a: [", "not valid YAML"), ("a: 1", "a script is a list"), ("", "a script is a list")],
)
def test_a_wrong_file_is_named(tmp_path, text, reason):
    path = tmp_path / "script.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SimulatorError, match=rf"script.yaml: .*{reason}") as caught:
        Scripted.from_file(path)
    assert "\n" not in str(caught.value)


def test_a_wrong_rule_of_a_file_is_named_with_the_file(tmp_path):
    path = tmp_path / "script.yaml"
    path.write_text("- default: a\n- when: {date: x}\n  reply: y\n")
    with pytest.raises(SimulatorError, match=r"script.yaml, rule 2: `when` does not know `date`"):
        Scripted.from_file(path)
