"""A simulator per test and the official clients on it."""

from __future__ import annotations

import contextlib
import time

import openai
import pytest

from langchain_llmops.simulator import running


@pytest.fixture
def echo():
    """A simulator that echoes."""
    with running() as simulator:
        yield simulator


@pytest.fixture
def connect():
    """Makes `openai` clients without retries, closed at the end of the test."""
    with contextlib.ExitStack() as stack:

        def make(simulator, **options):
            options = {"api_key": "sk-test-key", "max_retries": 0, **options}
            http_client = openai.DefaultHttpxClient(verify=False)  # loading certificates costs 30 ms a client
            client = openai.OpenAI(base_url=simulator.base_url, http_client=http_client, **options)
            return stack.enter_context(client)

        yield make


@pytest.fixture
async def aconnect():
    """The same for the async client."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(simulator, **options):
            options = {"api_key": "sk-test-key", "max_retries": 0, **options}
            http_client = openai.DefaultAsyncHttpxClient(verify=False)
            client = openai.AsyncOpenAI(base_url=simulator.base_url, http_client=http_client, **options)
            return await stack.enter_async_context(client)

        yield make


@pytest.fixture
def ask(connect):
    """One question to a simulator, as `ask(simulator, text, **parameters)`."""

    def make(simulator, text="hello", **parameters):
        messages = parameters.pop("messages", [{"role": "user", "content": text}])
        return connect(simulator).chat.completions.create(model="gpt-4o", messages=messages, **parameters)

    return make


@pytest.fixture
def eventually():
    """Waits until a condition holds, and fails when it does not within ten seconds."""

    def wait(condition, deadline_s=10.0):
        end = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < end, "the condition did not come true in time"
            time.sleep(0.005)

    return wait
