"""The compression dictionary for checkpoints: what messages, metadata and source text have in common.

Made by `tests/benchmarks/checkpoint_dictionary.py` of this project's own text and of generated messages. Stored values
name it by its id, so a file that has been shipped is never changed or removed: a better one is another file.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

__all__ = ["checkpoint_dictionary"]

FILE: Final = "dictionary-1.zst-dict"


@cache
def checkpoint_dictionary() -> bytes:
    """For `Envelope(dictionary=…)`."""
    return files("langchain_llmops.checkpoint").joinpath(FILE).read_bytes()
