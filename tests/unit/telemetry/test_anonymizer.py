"""What leaves for a trace names nobody and opens nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_llmops.telemetry.anonymize import EDGE, LONGEST_TEXT, Anonymizer

MASKED = {
    "write to ada.lovelace+x@example.co.uk today": "write to <email> today",
    "card 4111 1111 1111 1111 please": "card <card> please",
    "IBAN DE89 3704 0044 0532 0130 00 ok": "IBAN <iban> ok",
    "4111-1111-1111-1111": "<card>",
    "call +49 (170) 123-4567 now": "call <phone> now",
    "my key is sk-abcdefghijklmnop": "my key is sk-***",
    "a@b@example.com+bob@example.com": "a@<email><email>",
    "@example.com@example.org ada@example.com.": "@<email> <email>.",
    "größe.ø@exämple.de": "<email>",
}
LEFT = [
    "order 12345 of 2024-05-15",
    "v1.2.3",
    "10:30",
    "gpt-4o-mini-2024-07-18",
    "a@b",
    "3.14159265",
    "$1,234.56",
    "at 1732190400001",
    "4111 1111 1111 1112",
]


@pytest.mark.parametrize(("text", "masked"), MASKED.items())
def test_personal_data_and_secrets_are_masked_wherever_they_are(text, masked) -> None:
    mask = Anonymizer()
    assert mask.text(text) == masked
    assert mask({"messages": [{"content": text, "n": 1}, [text]]}) == {
        "messages": [{"content": masked, "n": 1}, [masked]]
    }


@pytest.mark.parametrize("text", LEFT)
def test_what_is_nobodys_is_left(text) -> None:
    assert Anonymizer().text(text) == text


def test_an_identity_that_says_who_it_is_becomes_a_stable_name() -> None:
    mask = Anonymizer()
    one, again = mask({"user_id": "ada@example.com"}), mask({"user_id": "ada@example.com"})
    assert one == again
    assert one["user_id"].startswith("anon-")
    assert mask({"user_id": "bob@example.com"}) != one
    assert mask({"user_id": "u1", "session_id": "s1"}) == {"user_id": "u1", "session_id": "s1"}


HOSTILE = (
    "a",
    "0123456789abcdef",
    "A1",
    "+1",
    "a.",
    "a@",
    "@a",
    "a@b.",
    "1 ",
    "(1)",
    "4111-",
    "a@b.c ",
    "123 4567890 ",
)


def test_a_long_text_is_masked_in_time_that_grows_with_its_length_only() -> None:
    """A tool may return a megabyte without a space, and the caller waits while it is masked.

    A child with a deadline: quadratic work on these texts takes hours.
    """
    code = (
        "from langchain_llmops.telemetry.anonymize import Anonymizer\n"
        "mask = Anonymizer()\n"
        f"for part in {HOSTILE!r}:\n"
        "    mask(part * (300_000 // len(part)) + ' @')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


CUT = ("ada.lovelace@example.com", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "+49 (170) 123-4567",
       "redis://ada:hunter22@host", "password=hunter22")  # fmt: skip


@pytest.mark.parametrize("secret", CUT)
def test_what_is_left_out_of_a_longer_text_leaves_no_half_of_a_secret_behind(secret) -> None:
    mask = Anonymizer()
    for kept in (1, 5, len(secret) // 2, len(secret) - 1, len(secret)):
        text = "so " * ((LONGEST_TEXT - 1 - kept) // 3)
        text = text + "." * (LONGEST_TEXT - 2 - kept - len(text)) + " " + secret + " and more"
        sent = mask.text(text)
        assert set(sent) <= set("so .…")
        assert LONGEST_TEXT - 2 * EDGE < len(sent) < LONGEST_TEXT
        assert mask.text(sent) == sent


def test_a_text_of_just_the_longest_length_is_sent_whole() -> None:
    text = "a " * (LONGEST_TEXT // 2)
    assert Anonymizer().text(text) == text


def test_a_secret_that_only_its_key_tells_is_masked() -> None:
    arguments = {"user": "ada", "password": "hunter22", "headers": [{"x-api-key": "abcd efgh"}], "token": 5}
    shown = {"user": "ada", "password": "***", "headers": [{"x-api-key": "***"}], "token": 5}
    assert Anonymizer()(arguments) == shown


def test_patterns_of_ones_own_are_masked_too() -> None:
    assert Anonymizer({"employee": r"E-\d{5}"}).text("E-12345 called") == "<employee> called"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_masking_keeps_the_shape_and_is_the_same_twice(value) -> None:
    mask = Anonymizer()
    once = mask(value)
    assert mask(once) == once
    assert type(once) is type(value)
    assert not isinstance(value, list | dict) or len(once) == len(value)
