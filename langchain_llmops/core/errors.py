"""The error tree.

* LLMOpsError                       everything this package raises on purpose
  * ConfigurationError              a setting, URL, option or file the user can mend
    * MissingExtraError             a feature whose optional dependency is not installed
    * InputFileError                a malformed line in a file the user gave (file and line in the message)
  * StoreError                      a database or object store failed
    * StoreUnavailableError         not reachable or timed out (retryable)
    * StoreAuthError                credentials refused
    * StoreConflictError            lost a race that the caller must see
  * EnvelopeError                   stored bytes that are not ours, damaged, or need a key
  * CheckpointError                 the conversation store refuses
    * ThreadOwnerMismatch           a session id that belongs to another user
    * CheckpointConflict            another writer has continued the thread (also StoreConflictError)
    * ConversationTooLong           a conversation above its maximum length
    * ConversationEnded             a conversation that was left alone for too long
    * UserErased                    a user whose data are being erased
    * ErasureIncomplete             a user's data are not all erased yet (retryable; its `receipt` says what is left)
  * ModelCallError (also ModelError of langchain-core)
    * MalformedAnswerError          the provider's answer could not be parsed (retryable)
    * TruncatedAnswerError          a stream that ended without a finish reason (retryable)
    * RefusalError                  the provider declined to answer
    * FallbackExhaustedError        every rung of a chain failed; the last cause is chained
"""

from __future__ import annotations

from langchain_core.exceptions import ModelError

__all__ = [
    "CheckpointConflict",
    "CheckpointError",
    "ConfigurationError",
    "ConversationEnded",
    "ConversationTooLong",
    "EnvelopeError",
    "ErasureIncomplete",
    "FallbackExhaustedError",
    "InputFileError",
    "LLMOpsError",
    "MalformedAnswerError",
    "MissingExtraError",
    "ModelCallError",
    "RefusalError",
    "StoreAuthError",
    "StoreConflictError",
    "StoreError",
    "StoreUnavailableError",
    "ThreadOwnerMismatch",
    "TruncatedAnswerError",
    "UserErased",
]


class LLMOpsError(Exception):
    """Base of every error this package raises; `is_retryable` says whether trying again may help."""

    is_retryable = False


class ConfigurationError(LLMOpsError):
    """A setting, URL, option or file is wrong; the message names it and the fix."""


class MissingExtraError(ConfigurationError):
    """A feature needs an optional dependency; the message is the line that installs it."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an extra: pip install 'langchain-llmops[{extra}]'")


class InputFileError(ConfigurationError):
    """A file given by the user is malformed at one line (1-based)."""

    def __init__(self, path: object, line: int, reason: str) -> None:
        super().__init__(f"{path}, line {line}: {reason}")


class StoreError(LLMOpsError):
    """A database or object store failed; the driver's error is chained, passwords never appear."""


class StoreUnavailableError(StoreError):
    """The store could not be reached or did not answer in time.

    `outcome_unknown`: a connection was lost in use, so that what was asked for may or may not have happened. Known of
    PostgreSQL; see `stores.base.idempotent`. `rolled_back`: others were in the way, and nothing happened.
    """

    is_retryable = True
    outcome_unknown = False
    rolled_back = False


class StoreAuthError(StoreError):
    """The store refused the credentials."""


class StoreConflictError(StoreError):
    """Another writer was first."""


class EnvelopeError(LLMOpsError):
    """Stored bytes are not ours, are damaged, or were encrypted with a key that is not given."""


class CheckpointError(LLMOpsError):
    """The checkpointer refuses an operation."""


class ThreadOwnerMismatch(CheckpointError):  # noqa: N818 - the name users of the checkpointer look for
    """A thread id is already owned by another user."""


class CheckpointConflict(CheckpointError, StoreConflictError):  # noqa: N818 - the name users of the checkpointer look for
    """With strict fencing: another writer has continued the thread, and this one's state is superseded."""


class ConversationTooLong(CheckpointError):  # noqa: N818 - says what is the matter, as its siblings do
    """A checkpoint would make a conversation longer than is allowed."""


class ConversationEnded(CheckpointError):  # noqa: N818 - says what is the matter, as its siblings do
    """A conversation was not used for longer than its timeout, and takes no more."""


class UserErased(CheckpointError):  # noqa: N818 - says what is the matter, as its siblings do
    """A write for a user whose data are being erased."""


class ErasureIncomplete(CheckpointError):  # noqa: N818 - says what is the matter, as its siblings do
    """Some of a user's data could not be erased yet: ask again. `receipt` says what was erased and what is left."""

    is_retryable = True

    def __init__(self, message: str, receipt: object) -> None:
        super().__init__(message)
        self.receipt = receipt


class ModelCallError(LLMOpsError, ModelError):
    """A model call failed in a way that is ours to name."""


class MalformedAnswerError(ModelCallError):
    """The provider answered with something that cannot be parsed."""

    is_retryable = True


class TruncatedAnswerError(ModelCallError):
    """A stream ended without a finish reason, so its answer may be cut."""

    is_retryable = True


class RefusalError(ModelCallError):
    """The provider declined to answer."""


class FallbackExhaustedError(ModelCallError):
    """Every rung of a fallback chain failed; `__cause__` is the last rung's error."""
