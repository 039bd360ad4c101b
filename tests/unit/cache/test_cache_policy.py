"""What is said of a cache is checked where it is said, in one line that names what would be right."""

from __future__ import annotations

import pytest

from langchain_llmops.cache.policy import Policy, Ttl
from langchain_llmops.core.errors import ConfigurationError

NAN, INF = float("nan"), float("inf")
ABOVE = "must be above 0 seconds"
WRONG = {
    **{f"{name} of {value!r}": (Ttl, {name: value}, f"'{name}' {ABOVE}") for name in ("l1_s", "l2_s", "l3_s")
       for value in ("30", None, NAN, INF, 0, -1, True)},
    **{f"stale_s of {value!r}": (Ttl, {"stale_s": value}, "'stale_s' must be 0 or more") for value in
       ("30", None, NAN, INF, -1)},
    "a tag's time": (Ttl, {"tags": {"doc": "60"}}, f"'doc' {ABOVE}"),
    "tags that are a list": (Ttl, {"tags": ["doc"]}, 'seconds by tag, as {"doc": 60}'),
    "no tags": (Ttl, {"tags": None}, 'seconds by tag, as {"doc": 60}'),
    "a text for tools": (Policy, {"tool_calls": "text"}, r'names of tools, as ["search"]'),
    "a number for tools": (Policy, {"tool_calls": 1}, "True, False or names of tools"),
    "None for tools": (Policy, {"tool_calls": None}, "True, False or names of tools"),
    "keep that is no function": (Policy, {"keep": True}, "keep of a Policy must be a function"),
    "warm that is no bool": (Policy, {"warm": "no"}, "warm of a Policy must be True or False"),
    "unset_temperature that is none": (Policy, {"unset_temperature": None}, "must be True or False"),
    **{f"max_bytes of {value!r}": (Policy, {"max_bytes": value}, "max_bytes of a Policy must be 1 or more") for value in
       (0, -1, "9", 1.5, True, None)},
    **{f"refused_s of {value!r}": (Policy, {"refused_s": value}, "refused_s of a Policy must be 0 or more") for value in
       (-1, NAN, "9", None)},
}  # fmt: skip


@pytest.mark.parametrize(("kind", "said", "fix"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_meant_is_one_clear_line(kind, said, fix) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kind(**said)
    assert fix in str(caught.value)
    assert "\n" not in str(caught.value)


RIGHT = [
    (Ttl, {"l1_s": 1, "l2_s": 0.5, "stale_s": 0, "tags": {"doc": 60}}),
    (Policy, {"tool_calls": ["search"]}),
    (Policy, {"tool_calls": frozenset()}),
    (Policy, {"tool_calls": True, "warm": True, "max_bytes": 1, "refused_s": 0, "keep": bool}),
]


@pytest.mark.parametrize(("kind", "said"), RIGHT)
def test_what_can_be_meant_is_taken(kind, said) -> None:
    made = kind(**said)
    assert all(getattr(made, name) == value for name, value in said.items())
