"""What is wrong with a command is one line that names the fix."""

from __future__ import annotations

import sys

import pytest

from langchain_llmops.cli.scope import duration_s, parse_moment
from langchain_llmops.core.errors import ConfigurationError

pytestmark = pytest.mark.usefixtures("clean")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("cost", "--by", "planet"), "--by takes one of user, session, day, model, tag, route, node, not 'planet'"),
        (("cost", "--since", "yesterday"), "--since takes a length like 7d"),
        (("cost", "--since", "999999999w", "--until", "2025-13-01"), "--until takes a length like 7d"),
        (("cost", "--since", "1d", "--until", "2d"), "--since must be before --until"),
        (("cost", "--json", "--csv"), "--json or --csv, not both"),
        (("cost", "--by", "user", "--per-success"), "give one of --by, --project and --per-success"),
        (("cost", "--project", "10000"), "--project takes conversations per time"),
        (("cost", "--project", "0/day"), "--project takes conversations per time"),
        (("cost", "--limit", "0"), "Invalid value for '--limit'"),
        (("logs", "--slower-than", "slow"), "--slower-than takes a length like 500ms, 2s or 7d"),
        (("cost", "--by", "user", "--all-tags"), "--all-tags goes with --by tag"),
        (("cost", "--models", "gpt-4o"), "--models goes with --project"),
        (("cost", "--per-success", "--models", "gpt-4o"), "--models goes with --project"),
        (("cost", "--by", "user", "--threshold", "0.5"), "--threshold goes with --per-success"),
        (("cost", "--project", "9/day", "--limit", "5"), "--limit goes with --by"),
        (("cost", "--per-success", "--limit", "5"), "--limit goes with --by"),
        (("cost", "--per-success", "--threshold", "nan"), "--threshold must be a finite number"),
        (("cost", "--project", "9/day", "--models", "\udcff"), "--models must be valid UTF-8"),
        (("cost", "--state", "/tmp/\udcff"), "--state must be valid UTF-8"),
        (("trace",), "Missing argument 'ID'"),
        (("replay", "request-1"), "give --model, --prompt FILE, or both"),
        (("replay", "nobody", "--model", "gpt-4o"), "has no 'nobody'"),
        (("replay", "tool-1", "--model", "gpt-4o", "--prompt", "/no/such/file"), "/no/such/file: No such file"),
        (("replay", "tool-1", "--model", "gpt-4o", "--prompt", "/tmp"), "--prompt: cannot read /tmp: Is a directory"),
        (("replay", "tool-1", "--model", "gpt-4o", "--prompt", sys.executable), "is not UTF-8 text"),
        (("replay", "request-1", "--model", "gpt-4o"), "set LLMOPS_LOG_CONTENT=1"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_fix(llmops, state, arguments, reason):
    where = () if "--state" in arguments else ("--state", state)
    code, out, err = llmops(*arguments, *where)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert reason in err


@pytest.mark.parametrize("words", ["\udcff", "ad\ud83d", "a\x00b"])
@pytest.mark.parametrize("option", ["--user", "--session", "--tenant", "--model"])
def test_what_no_database_can_be_asked_for_is_the_option_s_fault(llmops, where, option, words):
    code, out, err = llmops("logs", option, words, *where)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{option} must be valid UTF-8 text without NUL characters" in err


def test_moments_are_lengths_before_now_or_dates_in_utc():
    assert parse_moment("7d", 1e9, "--since") == 1e9 - 7 * 86400
    assert parse_moment("1.5h", 1e9, "--since") == 1e9 - 5400
    assert parse_moment("2001-09-09", 0, "--since") == parse_moment("2001-09-09T02:00+02:00", 0, "--since")
    assert (duration_s("500ms", "-"), duration_s("2 s", "-"), duration_s("1.5m", "-")) == (0.5, 2.0, 90.0)
    with pytest.raises(ConfigurationError, match="-1s"):
        duration_s("-1s", "--slower-than")
