"""A replay says what is missing from what was recorded, as the handler and the ledger leave it out."""

from __future__ import annotations

import json

import pytest

from langchain_llmops import LLMOps, Settings
from langchain_llmops.ledger.buffer import MAX_CONTENT
from langchain_llmops.simulator import Echo, running
from langchain_llmops.telemetry.records import LONGEST_TEXT
from tests.support.commands import asked
from tests.support.models import ScriptedModel
from tests.support.recorded import URLS

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture(params=URLS)
def where(request, tmp_path):
    """The option that names a ledger, and the settings of who fills it."""
    if request.param == "sqlite":
        return ("--state", tmp_path), {"state_dir": tmp_path}
    url = request.getfixturevalue("postgres_url")
    return ("--postgres", url), {"state_dir": tmp_path, "postgres_url": url}


@pytest.fixture
def again(llmops, where, monkeypatch):
    """Records a prompt and its answer, and asks them again."""
    monkeypatch.setenv("OPENAI_API_KEY", "simulated")
    option, settings = where

    def record_and_replay(prompt, *options, answer="fine", succeeds=True):
        with LLMOps(Settings(**settings, log_content=True, log_calls="off")) as ops:
            for one in [prompt] if isinstance(prompt, str) else prompt:
                ScriptedModel(answer).invoke(one, ops.config(request_id="request-1"))
        with running(Echo()) as provider:
            model = ("--model", "openai:gpt-4o-mini", "--base-url", provider.base_url)
            command = ("replay", "request-1", *model, *option, *options)
            return asked(llmops, *command) if succeeds else llmops(*command)

    return record_and_replay


def flags(out: str) -> list[tuple[bool, bool]]:
    found = json.loads(out)
    return [(one["cut"], one["masked"]) for one in (found, *found["calls"])]


LONG = "x" * (LONGEST_TEXT + 1)


def test_a_text_that_was_cut_is_said(again):
    out = again(["short", LONG])
    assert "1 of 2 calls had texts cut when they were recorded" in out
    assert "masked" not in out


def test_programs_see_which_calls_were_cut(again):
    assert flags(again(["short", LONG], "--json")) == [(True, False), (False, False), (True, False)]


def test_a_cut_answer_is_said_too(again):
    assert flags(again("short", "--json", answer=LONG))[0] == (True, False)


def test_a_cut_inside_a_secret_is_said(again):
    assert flags(again("x" * (LONGEST_TEXT - 9) + " token=abcdefgh", "--json"))[0] == (True, True)


@pytest.mark.parametrize("secret", ["my key is sk-abcdefghijkl", '{"password": "hunter22"}', "redis://u:p@host/0"])
def test_a_masked_secret_is_said(again, secret):
    assert "1 of 1 calls had secrets masked when they were recorded" in again(secret)
    assert flags(again(secret, "--json")) == [(False, True)] * 3


@pytest.mark.parametrize("plain", ["***very*** bold", "[3 characters left out] of it", "the password is long"])
def test_what_is_whole_is_not_said_to_miss_anything(again, plain):
    assert flags(again(plain, "--json")) == [(False, False)] * 2


def test_content_that_the_ledger_cut_is_one_line_that_says_so(again):
    messages = [("human", "x" * LONGEST_TEXT)] * (MAX_CONTENT // LONGEST_TEXT + 1)
    code, out, err = again([messages], succeeds=False)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "was too long for the ledger and is cut; it cannot be replayed" in err
