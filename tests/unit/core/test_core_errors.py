"""The error tree: what users may catch, and what may be tried again."""

from __future__ import annotations

import pytest
from langchain_core.exceptions import LangChainException, ModelError

from langchain_llmops.core import errors

TREE = {
    "ConfigurationError": "LLMOpsError",
    "MissingExtraError": "ConfigurationError",
    "InputFileError": "ConfigurationError",
    "StoreError": "LLMOpsError",
    "StoreUnavailableError": "StoreError",
    "StoreAuthError": "StoreError",
    "StoreConflictError": "StoreError",
    "EnvelopeError": "LLMOpsError",
    "CheckpointError": "LLMOpsError",
    "ThreadOwnerMismatch": "CheckpointError",
    "CheckpointConflict": "CheckpointError",
    "ConversationTooLong": "CheckpointError",
    "ConversationEnded": "CheckpointError",
    "UserErased": "CheckpointError",
    "ErasureIncomplete": "CheckpointError",
    "ModelCallError": "LLMOpsError",
    "MalformedAnswerError": "ModelCallError",
    "TruncatedAnswerError": "ModelCallError",
    "RefusalError": "ModelCallError",
    "FallbackExhaustedError": "ModelCallError",
}
RETRYABLE = {"ErasureIncomplete", "StoreUnavailableError", "MalformedAnswerError", "TruncatedAnswerError"}


def test_the_tree_is_the_one_its_docstring_draws() -> None:
    assert {name: getattr(errors, name).__bases__[0].__name__ for name in TREE} == TREE
    assert set(errors.__all__) == {*TREE, "LLMOpsError"}
    assert errors.__doc__ is not None
    drawn = [line.split()[1] for line in errors.__doc__.splitlines() if line.lstrip().startswith("*")]
    assert set(drawn) == set(errors.__all__)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_says_whether_it_may_be_retried(name) -> None:
    assert getattr(errors, name).is_retryable is (name in RETRYABLE)


@pytest.mark.parametrize("name", [name for name in TREE if name.endswith(("AnswerError", "RefusalError"))])
def test_failures_of_a_model_are_caught_as_langchains_own(name) -> None:
    assert issubclass(getattr(errors, name), ModelError)
    assert issubclass(getattr(errors, name), LangChainException)
    assert issubclass(getattr(errors, name), errors.LLMOpsError)


def test_a_missing_extra_says_how_to_install_it() -> None:
    told = str(errors.MissingExtraError("PostgreSQL", "postgres"))
    assert told == "PostgreSQL needs an extra: pip install 'langchain-llmops[postgres]'"


def test_a_malformed_line_names_file_and_line() -> None:
    assert str(errors.InputFileError("traffic.jsonl", 7, "not JSON")) == "traffic.jsonl, line 7: not JSON"
