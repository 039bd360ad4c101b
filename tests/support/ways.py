"""The ways to ask a chat model for one message, sync and async, each as a whole message."""

from __future__ import annotations

from functools import reduce
from operator import add

import pytest

__all__ = ["ainvoke", "astream", "each_first_way", "each_stream", "each_way", "invoke", "stream"]


async def invoke(model, asked="hi", config=None):
    return model.invoke(asked, config)


async def ainvoke(model, asked="hi", config=None):
    return await model.ainvoke(asked, config)


async def stream(model, asked="hi", config=None):
    return reduce(add, model.stream(asked, config))


async def astream(model, asked="hi", config=None):
    return reduce(add, [piece async for piece in model.astream(asked, config)])


def _each(name: str, ways):
    return pytest.mark.parametrize(name, ways, ids=lambda way: way.__name__)


each_way = _each("ask", [invoke, ainvoke, stream, astream])
each_first_way = _each("first", [invoke, ainvoke, stream, astream])
each_stream = _each("ask", [stream, astream])
