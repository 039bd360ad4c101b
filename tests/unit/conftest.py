"""What tests of several rooms share."""

from __future__ import annotations

import openai
import pytest


@pytest.fixture
async def http_clients():
    """HTTP clients of their own for LangChain's models, whose default ones are shared and never closed."""
    async with openai.DefaultAsyncHttpxClient(verify=False) as async_client:
        with openai.DefaultHttpxClient(verify=False) as client:
            yield {"http_client": client, "http_async_client": async_client}
