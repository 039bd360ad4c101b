r"""Answers by rules from a small YAML or JSON file.

A script is a list; the first rule that matches answers, the `default` when none does:

    - when: {regex: "order (?P<id>\d+)"}
      reply: {tool_calls: [{name: lookup_order, arguments: {order_id: "{id}"}}]}
    - when: {last_role: tool, contains: shipped}
      reply: {content: "It is on its way."}
    - default: "How can I help?"

`contains` (any case) and `regex` look at the user's message when it is the last one; with `last_role: tool` at the
results since the last call. `model` is the model asked for, `tool_result_contains` looks at those results.
Named groups of the regex can stand in texts and tool arguments as `{name}`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from langchain_llmops.simulator.behaviours import forced_text
from langchain_llmops.simulator.types import ApiError, Reply, Request, SimulatorError, ToolCall, last_text, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from langchain_llmops.simulator.types import Message

__all__ = ["Scripted"]

_CONDITIONS: Final = ("contains", "regex", "model", "last_role", "tool_result_contains")
_REPLY: Final = ("content", "tool_calls", "refusal", "finish_reason")
_FINISHES: Final = ("stop", "length", "tool_calls", "content_filter")
_ROLES: Final = ("system", "developer", "user", "assistant", "tool")


class Scripted:
    """Answers by the first rule that matches; without one and without a default it is a 404 `no_rule_matches`."""

    def __init__(self, rules: Iterable[Mapping[str, Any]], *, source: str = "script") -> None:
        self._rules: list[_Rule] = []
        self._default: _Template | None = None
        for number, rule in enumerate(rules, start=1):
            try:
                self._add(rule)
            except _RuleError as error:
                raise SimulatorError(f"{source}, rule {number}: {error}") from error

    @classmethod
    def from_file(cls, path: str | Path) -> Scripted:
        """Rules of a `.yaml`, `.yml` or `.json` file.

        Raises:
            SimulatorError: the file cannot be read or a rule is malformed; names the file and the rule.
        """
        try:
            rules = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise SimulatorError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
        except yaml.YAMLError as error:
            raise SimulatorError(f"{path}: is not valid YAML or JSON: {' '.join(str(error).split())}") from error
        if not isinstance(rules, list) or not rules:
            raise SimulatorError(f"{path}: a script is a list of rules, each with `when` and `reply`, or `default`")
        return cls(rules, source=str(path))

    def answer(self, request: Request) -> Reply:
        """The reply of the first rule that matches, else the default."""
        for rule in self._rules:
            captures = rule.match(request)
            if captures is not None:
                return rule.reply.filled(captures, request)
        if self._default is None:
            raise ApiError(404, "No rule of the script matches, and it has no default.", code="no_rule_matches")
        return self._default.filled({}, request)

    def _add(self, rule: object) -> None:
        fields = _mapping(rule, "a rule")
        if set(fields) == {"default"}:
            if self._default is not None:
                raise _RuleError("there is a default already")
            self._default = _Template.of(fields["default"])
        elif set(fields) == {"when", "reply"}:
            self._rules.append(_Rule.of(_mapping(fields["when"], "`when`"), fields["reply"]))
        else:
            present = ", ".join(map(str, fields)) or "nothing"
            raise _RuleError(f"needs `when` and `reply`, or only `default`; it has {present}")


class _RuleError(Exception):
    """What is wrong with one rule."""


@dataclass(frozen=True, slots=True)
class _Rule:
    contains: str | None
    regex: re.Pattern[str] | None
    model: str | None
    last_role: str | None
    tool_result_contains: str | None
    reply: _Template

    @classmethod
    def of(cls, when: Mapping[str, Any], reply: object) -> _Rule:
        _only(when, _CONDITIONS, "`when`")
        if not when:
            raise _RuleError("`when` is empty; for an answer to everything use `default`")
        texts = {name: _text(when[name], f"`{name}`") if name in when else None for name in _CONDITIONS}
        pattern = texts.pop("regex")
        role = texts.pop("last_role")
        if role is not None and role not in _ROLES:
            raise _RuleError(f"`last_role` is one of {', '.join(_ROLES)}, not {role!r}")
        if role is None and texts["tool_result_contains"] is not None:
            role = "tool"
        elif role is None and (pattern is not None or texts["contains"] is not None):
            role = "user"  # or a rule that calls a tool would match again on its result, for ever
        regex = _compiled(pattern) if pattern is not None else None
        return cls(**texts, regex=regex, last_role=role, reply=_Template.of(reply))

    def match(self, request: Request) -> dict[str, str] | None:
        """The captures when the rule matches, else None."""
        if self.model is not None and request.model != self.model:
            return None
        if self.last_role is not None and request.messages[-1]["role"] != self.last_role:
            return None
        if not _holds(self.tool_result_contains, _tool_results(request.messages)):
            return None
        text = _tool_results(request.messages) if self.last_role == "tool" else last_text(request.messages, "user")
        if not _holds(self.contains, text):
            return None
        if self.regex is None:
            return {}
        found = self.regex.search(text)
        return None if found is None else {name: value or "" for name, value in found.groupdict().items()}


@dataclass(frozen=True, slots=True)
class _Template:
    content: str | None
    calls: tuple[tuple[str, Mapping[str, Any]], ...]
    refusal: str | None
    finish_reason: str | None

    @classmethod
    def of(cls, reply: object) -> _Template:
        if isinstance(reply, str):
            return cls(reply, (), None, None)
        fields = _mapping(reply, "`reply`")
        _only(fields, _REPLY, "`reply`")
        if not {"content", "tool_calls", "refusal"} & set(fields):
            raise _RuleError("`reply` needs `content`, `tool_calls` or `refusal`")
        if "refusal" in fields and {"content", "tool_calls"} & set(fields):
            raise _RuleError("`refusal` stands alone in a `reply`")
        finish = fields.get("finish_reason")
        if finish is not None and finish not in _FINISHES:
            raise _RuleError(f"`finish_reason` is one of {', '.join(_FINISHES)}, not {finish!r}")
        content, refusal = (_text(fields[k], f"`{k}`") if k in fields else None for k in ("content", "refusal"))
        return cls(content, _calls(fields["tool_calls"]) if "tool_calls" in fields else (), refusal, finish)

    def filled(self, captures: Mapping[str, str], request: Request) -> Reply:
        """The reply with `{name}` replaced; where JSON is demanded and the text is none, a generated instance."""
        content = None if self.content is None else _fill(self.content, captures)
        if content is not None and not self.calls and not _is_json_object(content):
            content = forced_text(request, content) or content
        return Reply(
            content=content,
            tool_calls=tuple(
                ToolCall(name, json.dumps(_fill(arguments, captures), ensure_ascii=False))
                for name, arguments in self.calls
            ),
            refusal=None if self.refusal is None else _fill(self.refusal, captures),
            finish_reason=self.finish_reason,
        )


def _calls(value: object) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    if not isinstance(value, list) or not value:
        raise _RuleError("`tool_calls` is a list of `{name, arguments}`")
    calls = []
    for call in value:
        fields = _mapping(call, "a tool call")
        _only(fields, ("name", "arguments"), "a tool call")
        name = _text(fields.get("name"), "`name` of a tool call")
        arguments = _mapping(fields.get("arguments", {}), f"`arguments` of {name}")
        try:
            json.dumps(arguments, allow_nan=False)
        except (TypeError, ValueError) as error:  # YAML has dates, and numbers that JSON has not
            raise _RuleError(f"`arguments` of {name} are not JSON ({error}); quote dates") from error
        calls.append((name, arguments))
    return tuple(calls)


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _RuleError(f"{what} must be a mapping, not {value!r}")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise _RuleError(f"{what} must be text, not {value!r}; quote it")
    return value


def _only(fields: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    unknown = next((name for name in fields if name not in known), None)
    if unknown is not None:
        raise _RuleError(f"{what} does not know `{unknown}`; it knows {', '.join(known)}")


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise _RuleError(f"`regex` is not valid: {error}") from error


def _holds(wanted: str | None, text: str) -> bool:
    return wanted is None or wanted.casefold() in text.casefold()


def _tool_results(messages: tuple[Message, ...]) -> str:
    """The tool results since the last message that is none, oldest first."""
    results: list[str] = []
    for message in reversed(messages):
        if message["role"] != "tool":
            break
        results.append(text_of(message))
    return "\n".join(reversed(results))


def _fill(value: Any, captures: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda found: captures.get(found[1], found[0]), value)
    if isinstance(value, dict):
        return {name: _fill(member, captures) for name, member in value.items()}
    if isinstance(value, list):
        return [_fill(member, captures) for member in value]
    return value


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
