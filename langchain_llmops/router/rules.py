"""Readable rules: the first whose conditions all hold names the route."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from langchain_llmops.router.signals import Signals

__all__ = ["Rules"]

_CONDITIONS: Final[dict[str, tuple[type, Callable[[Signals, Any], bool]]]] = {
    "min_tokens": (int, lambda signals, limit: signals.tokens >= limit),
    "has_code": (bool, lambda signals, wanted: signals.has_code is wanted),
    "min_tools": (int, lambda signals, limit: signals.tools >= limit),
    "min_tool_results": (int, lambda signals, limit: signals.tool_results >= limit),
    "min_turns": (int, lambda signals, limit: signals.turns >= limit),
    "any_keyword": (list, lambda signals, pattern: pattern.search(signals.text) is not None),
}


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str
    route: str
    tests: tuple[tuple[Callable[[Signals, Any], bool], Any], ...]


class Rules:
    """Rules of a JSON object: `{"version": 1, "otherwise": route, "rules": [{"name", "route", "when": {…}}]}`.

    Conditions of `when`: `min_tokens`, `has_code`, `min_tools`, `min_tool_results`, `min_turns`, `any_keyword` (whole
    words, any case). Raises `ConfigurationError` naming the rule and the reason.
    """

    def __init__(self, document: Mapping[str, Any], *, source: str = "rules") -> None:
        if (
            not isinstance(document, dict)
            or document.get("version") != 1
            or not isinstance(document.get("otherwise"), str)
        ):
            raise ConfigurationError(f'{source}: needs "version": 1 and "otherwise": the route when no rule holds')
        self.otherwise: str = document["otherwise"]
        listed = document.get("rules")
        if not isinstance(listed, list):
            raise ConfigurationError(f'{source}: needs "rules": a list')
        self._rules = [_read_rule(rule, f"{source}, rule {number}") for number, rule in enumerate(listed, 1)]

    @classmethod
    def load(cls, path: Path | str | None = None, *, max_simple_tokens: int | None = None) -> Rules:
        """The rules of a file; those that ship with the package when None, with their length limit replaced."""
        if path is None:
            document = json.loads(files("langchain_llmops.router").joinpath("data/rules.json").read_text("utf-8"))
            if max_simple_tokens is not None:
                document["rules"][0]["when"]["min_tokens"] = max_simple_tokens + 1
            return cls(document, source="built-in rules")
        try:
            return cls(json.loads(Path(path).read_text("utf-8")), source=str(path))
        except OSError as error:
            raise ConfigurationError(f"rules file {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"rules file {path}: not UTF-8 text") from error
        except json.JSONDecodeError as error:
            raise ConfigurationError(f"rules file {path}, line {error.lineno}: {error.msg}") from error

    @property
    def routes(self) -> set[str]:
        """Every route that the rules can name."""
        return {self.otherwise, *(rule.route for rule in self._rules)}

    def decide(self, signals: Signals) -> tuple[str, tuple[str, ...]]:
        """`(route, reasons)`; the reasons are the names of the rules."""
        for rule in self._rules:
            if all(test(signals, limit) for test, limit in rule.tests):
                return rule.route, (rule.name,)
        return self.otherwise, ("no rule asked for more",)


def _read_rule(rule: Any, place: str) -> _Rule:
    if not isinstance(rule, dict) or not isinstance(rule.get("name"), str) or not isinstance(rule.get("route"), str):
        raise ConfigurationError(f'{place}: needs "name" and "route"')
    when = rule.get("when")
    if not isinstance(when, dict) or not when:
        raise ConfigurationError(f'{place} ({rule["name"]}): needs "when" with a condition of {sorted(_CONDITIONS)}')
    return _Rule(
        rule["name"], rule["route"], tuple(_read_test(*item, f"{place} ({rule['name']})") for item in when.items())
    )


def _read_test(name: str, limit: Any, place: str) -> tuple[Callable[[Signals, Any], bool], Any]:
    if name not in _CONDITIONS:
        raise ConfigurationError(f"{place}: unknown condition {name!r}; known: {sorted(_CONDITIONS)}")
    kind, test = _CONDITIONS[name]
    if type(limit) is not kind:
        raise ConfigurationError(f"{place}: {name} must be {kind.__name__}, not {limit!r}")
    return test, _words(limit, place) if isinstance(limit, list) else limit


def _words(words: Iterable[Any], place: str) -> re.Pattern[str]:
    listed = list(words)
    if not listed or not all(isinstance(word, str) and word for word in listed):
        raise ConfigurationError(f"{place}: any_keyword must be a list of words")
    # a word ends where letters do, so that "c++" is one too
    return re.compile(r"(?<!\w)(?:" + "|".join(re.escape(word.lower()) for word in listed) + r")(?!\w)")
