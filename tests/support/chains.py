"""The rungs of a fallback chain, and ways to ask it."""

from __future__ import annotations

from typing import Any

from langchain_llmops.core.types import Identity
from tests.support.models import ScriptedModel

WHO = Identity(user="ada", session="s")


def first(*script: Any) -> ScriptedModel:
    return ScriptedModel(*script, model_name="first")


def second(*script: Any) -> ScriptedModel:
    return ScriptedModel(*(script or ("second",)), model_name="second")


def read(chain, config=None) -> str:
    return "".join(piece.text for piece in chain.stream("hi", config))


async def ask_stream(chain, config) -> str:
    return read(chain, config)


async def ask_astream(chain, config) -> str:
    return "".join([piece.text async for piece in chain.astream("hi", config)])
