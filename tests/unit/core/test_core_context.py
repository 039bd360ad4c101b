"""Who is asking: into a run's metadata, and out of it again."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_llmops.core import context
from langchain_llmops.core.context import KNOWN_IDENTITIES, acting_for, current_identity, identity_from, run_config
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.types import Identity

KEYS = {
    "tenant": "tenant_id",
    "team": "team_id",
    "user": "user_id",
    "session": "session_id",
    "request": "request_id",
    "api_key_id": "api_key_id",
    "ip": "ip",
}
name = st.none() | st.text(min_size=1)


@given(st.builds(Identity, name, name, name, name, st.text(min_size=1), name, name))
def test_an_identity_comes_back_from_the_metadata_it_went_into(who) -> None:
    assert identity_from(run_config(who)["metadata"]) == who


def test_every_part_of_an_identity_has_its_key() -> None:
    who = Identity(**{part: f"the {part}" for part in KEYS})
    metadata = run_config(who)["metadata"]
    assert {KEYS[part]: metadata[KEYS[part]] for part in KEYS} == {KEYS[part]: f"the {part}" for part in KEYS}


def test_a_session_is_the_langgraph_thread_and_the_langsmith_thread() -> None:
    config = run_config(Identity(user="u", session="s"))
    assert config["configurable"] == {"thread_id": "s"}
    assert config["metadata"]["session_id"] == config["metadata"]["thread_id"] == "s"


def test_a_thread_of_its_own_does_not_rename_the_session() -> None:
    config = run_config(Identity(session="s"), thread_id="t")
    assert config["configurable"] == {"thread_id": "t"}
    assert (config["metadata"]["session_id"], config["metadata"]["thread_id"]) == ("s", "t")
    assert identity_from(config["metadata"]).session == "s"


def test_without_a_session_there_is_no_thread() -> None:
    config = run_config(Identity(user="u"))
    assert "configurable" not in config
    assert "thread_id" not in config["metadata"]
    assert "callbacks" not in config


def test_a_thread_stands_in_for_a_missing_session() -> None:
    assert identity_from({"thread_id": "t"}) == Identity(session="t")
    assert identity_from({"thread_id": "t", "session_id": "s"}) == Identity(session="s")


def test_a_request_id_is_made_when_none_is_given() -> None:
    made = [run_config(Identity())["metadata"]["request_id"] for _ in range(2)]
    assert made[0] != made[1]
    assert uuid.UUID(made[0])
    assert run_config(Identity(request="r"))["metadata"]["request_id"] == "r"


def test_the_identity_wins_over_metadata_of_the_same_name() -> None:
    config = run_config(Identity(user="u"), metadata={"user_id": "forged", "plan": "gold"}, tags=("a", "b"))
    assert config["metadata"]["user_id"] == "u"
    assert config["metadata"]["plan"] == "gold"
    assert config["tags"] == ["a", "b"]


def test_callbacks_are_passed_on() -> None:
    assert run_config(Identity(), callbacks=[])["callbacks"] == []


@pytest.mark.parametrize("part", KEYS)
@pytest.mark.parametrize("value", ["", 7, b"u", ["u"]])
def test_a_wrong_name_is_one_clear_error(part, value) -> None:
    with pytest.raises(ConfigurationError, match=f"^{KEYS[part]} must be a non-empty string, not") as caught:
        run_config(Identity(**{part: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["user", "session", "request", "tenant"])
def test_a_name_that_was_meant_for_an_identity_is_no_metadata(part) -> None:
    with pytest.raises(ConfigurationError, match=f"^metadata '{part}' would name nobody: say {part}_id$"):
        run_config(Identity(), metadata={"topic": "tents", part: "x"})


def test_a_run_without_metadata_names_nobody() -> None:
    assert identity_from(None) == identity_from({}) == Identity()
    assert identity_from({"user_id": 7}) == Identity(user="7")


def test_identities_that_compare_equal_are_told_apart() -> None:
    """Who was read once is remembered: by text only, as 1 and True are one key."""
    for user, text in (("1", "1"), (1, "1"), (True, "True"), (1.0, "1.0"), (["1"], "['1']"), (1, "1")):
        assert identity_from({"user_id": user}) == Identity(user=text)
    assert identity_from({"user_id": "1"}, "acme") == Identity(user="1", tenant="acme")
    assert identity_from({"user_id": "1", "tenant_id": "other"}, "acme") == Identity(user="1", tenant="other")
    assert identity_from({"session_id": "1"}) == identity_from({"thread_id": "1"}) == Identity(session="1")


def test_identities_without_end_leave_no_trace_in_memory() -> None:
    for number in range(3 * KNOWN_IDENTITIES):
        identity_from({"user_id": f"u{number}"})
    identity_from({"user_id": "u" * 10_000})
    assert len(context._known) <= KNOWN_IDENTITIES
    assert not [1 for named in context._known if any(len(value or "") > 1000 for value in named)]


def test_who_asks_is_who_the_run_names_else_who_the_block_names() -> None:
    assert current_identity() is None
    with acting_for(Identity(user="ada", tenant="acme")):
        assert current_identity() == Identity(user="ada", tenant="acme")
        assert current_identity({"user_id": "eve"}) == Identity(user="eve", tenant="acme")
        assert current_identity({"session_id": "1"}) == Identity(user="ada", tenant="acme", session="1")
    with acting_for(Identity(user="ada", session="1")):
        assert current_identity({"user_id": "eve"}) == Identity(user="eve")
        assert current_identity({"user_id": "ada"}) == Identity(user="ada", session="1")
    with acting_for(Identity(user="ada", tenant="acme")):
        assert current_identity({"tenant_id": "rival"}) == Identity(user="ada", tenant="rival")
    assert current_identity() is None
