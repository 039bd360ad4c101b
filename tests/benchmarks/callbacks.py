"""What callbacks cost: CPU of a call, of a streamed token and of an agent's turn, beside no callbacks and the peers.

`python tests/benchmarks/callbacks.py [--quick] [--json FILE]`. Ours runs with the default readers on (ledger in SQLite,
Prometheus, LangSmith facts, call log off as by default) and is flushed within the measured time, so the writers' CPU
counts; so do the peers' exporters, which send to a server that throws everything away, in a process of its own.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import sys
import tempfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

sys.path.insert(0, str(Path(__file__).parents[2]))
for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
    os.environ.pop(name, None)
logging.disable(logging.ERROR)

from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool

from langchain_llmops import LLMOps, OpsCallbackHandler, Settings
from langchain_llmops.telemetry.prometheus import PrometheusReader, exposition
from tests.benchmarks.harness import Figure, arguments, interleaved, nothing, paired_ratio, show

TOKENS = 500
USAGE = {
    "input_tokens": 1000,
    "output_tokens": 200,
    "total_tokens": 1200,
    "input_token_details": {"cache_read": 400},
    "output_token_details": {"reasoning": 50},
}
TOLD = {"model_name": "gpt-4o-mini-2024-07-18", "model_provider": "openai", "finish_reason": "stop"}
WORDS = [f"tok{number} " for number in range(TOKENS)]
METADATA = {"user_id": "u1", "session_id": "s1"}
INFO = b'{"version":"0.99.0","batch_ingest_config":{"use_multipart_endpoint":true,"scale_up_qsize_trigger":1000,\
"scale_up_nthreads_limit":16,"scale_down_nempty_trigger":4,"size_limit":100,"size_limit_bytes":20971520},\
"instance_flags":{"zstd_compression_enabled":true}}'


class Instant(BaseChatModel):
    """A model that answers at once; `acts` makes it call a tool first."""

    acts: bool = False
    model_name: str = "gpt-4o-mini"

    @property
    def _llm_type(self) -> str:
        return "openai-chat"

    def _get_ls_params(self, stop: Any = None, **kwargs: Any) -> Any:
        return {"ls_provider": "openai", "ls_model_name": "gpt-4o-mini", "ls_model_type": "chat"}

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        if self.acts and not any(isinstance(message, ToolMessage) for message in messages):
            calls = [{"name": "add", "args": {"a": 1, "b": 2}, "id": "c1"}]
            message = AIMessage(content="", tool_calls=calls, usage_metadata=USAGE, response_metadata=TOLD)
        else:
            message = AIMessage(content="hello world", usage_metadata=USAGE, response_metadata=TOLD)
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return self._generate(messages)

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        yield from _chunks()

    async def _astream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        for chunk in _chunks():
            yield chunk


def _chunks() -> Iterator[ChatGenerationChunk]:
    for word in WORDS:
        yield ChatGenerationChunk(message=AIMessageChunk(content=word))
    yield ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata=USAGE, response_metadata=TOLD))


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def config(callbacks: Any) -> Any:
    return {"callbacks": callbacks, "metadata": METADATA} if callbacks else {"metadata": METADATA}


def invoke(count: int) -> Callable[[Any], int]:
    def work(callbacks: Any) -> int:
        model = Instant()
        for _ in range(count):
            model.invoke("hi", config(callbacks))
        return count

    return work


def stream(count: int) -> Callable[[Any], int]:
    def work(callbacks: Any) -> int:
        model = Instant()
        for _ in range(count):
            for _chunk in model.stream("hi", config(callbacks)):
                pass
        return count * TOKENS

    return work


def astream(count: int) -> Callable[[Any], int]:
    async def go(callbacks: Any) -> None:
        model = Instant()
        for _ in range(count):
            async for _chunk in model.astream("hi", config(callbacks)):
                pass

    def work(callbacks: Any) -> int:
        asyncio.run(go(callbacks))
        return count * TOKENS

    return work


def agent_turn(count: int) -> Callable[[Any], int]:
    agent = create_agent(Instant(acts=True), [add])

    def work(callbacks: Any) -> int:
        for _ in range(count):
            agent.invoke({"messages": [("user", "hi")]}, config(callbacks))
        return count

    return work


# the variants


class Idle(BaseCallbackHandler):
    """Does nothing at all: what LangChain itself spends on having a handler."""

    run_inline = True

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        """Nothing; without it LangChain would write the prompt out as text."""


@contextmanager
def idle() -> Iterator[Any]:
    yield [Idle()]


def ours(ops: LLMOps) -> Callable[[], Any]:
    @contextmanager
    def variant() -> Iterator[Any]:
        yield ops.callbacks
        ops.ledger.flush()

    return variant


def langsmith(url: str) -> Callable[[], Any]:
    from langchain_core.tracers import LangChainTracer
    from langsmith import Client

    client = Client(api_url=url, api_key="none")

    @contextmanager
    def variant() -> Iterator[Any]:
        yield [LangChainTracer(client=client, project_name="benchmark")]
        client.flush()

    return variant


def langfuse(url: str) -> Callable[[], Any]:
    from langfuse import Langfuse
    from langfuse.langchain import CallbackHandler
    from opentelemetry.sdk.trace import TracerProvider

    client = Langfuse(public_key="pk", secret_key="sk", host=url, tracer_provider=TracerProvider())

    @contextmanager
    def variant() -> Iterator[Any]:
        yield [CallbackHandler(public_key="pk")]
        client.flush()

    return variant


def scrape_size() -> Figure:
    """Lines of a scrape after calls of 10,000 users, beside those of one."""
    sizes = []
    for users in (1, 10_000):
        handler, reader = OpsCallbackHandler(), PrometheusReader()
        handler.bus.subscribe(reader)
        model = Instant()
        for number in range(10_000):
            who = {"user_id": f"u{number % users}", "session_id": f"s{number % users}"}
            model.invoke("hi", {"callbacks": [handler], "metadata": who})
        sizes.append(exposition(reader.registry).count(b"\n"))
    return Figure.at_most("lines of a scrape, 10,000 users / one user", sizes[1], sizes[0], 1.0)


class _Silence(BaseHTTPRequestHandler):
    """Takes everything, keeps nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _take(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        body = INFO if self.path.startswith("/info") else b"{}"
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = _take  # noqa: N815 - the names http.server looks for


def _serve(port: Any) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Silence)
    port.put(server.server_port)
    server.serve_forever()


@contextmanager
def black_hole() -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    port = context.Queue()
    process = context.Process(target=_serve, args=(port,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port.get(timeout=30)}"
    finally:
        process.terminate()
        process.join()


def main() -> None:
    options = arguments(__doc__ or "")
    rounds = 3 if options.quick else 15
    works = {
        "invoke": (invoke(600), 1.30),
        "agent with one tool": (agent_turn(40), 1.05),
        "stream, per token": (stream(12), 1.10),
        "astream, per token": (astream(12), 1.20),
    }
    figures = []
    with tempfile.TemporaryDirectory() as folder, black_hole() as url, LLMOps(Settings(state_dir=Path(folder))) as ops:
        variants: dict[str, Callable[[], Any]] = {"none": nothing, "a handler that does nothing": idle}
        variants |= {"ours": ours(ops), "LangChainTracer": langsmith(url)}
        if find_spec("langfuse"):
            variants["Langfuse"] = langfuse(url)
        for work, (run, target) in works.items():
            spent = interleaved(variants, run, rounds)
            for name in variants:
                if name != "none":
                    label = f"{work}: {name} / none, CPU us"
                    figures.append(_figure(label, spent[name], spent["none"], target if name == "ours" else None))
    figures.append(scrape_size())
    show("Callbacks: CPU, flush included; 1.0 is no callbacks at all", figures, options.json)
    if "Langfuse" not in variants:
        print("Langfuse is not installed (pip install '.[bench]'): left out")


def _figure(label: str, spent: list[float], base: list[float], target: float | None) -> Figure:
    ratio = paired_ratio(spent, base)
    return Figure(label, median(spent), median(base), ratio, target, None if target is None else ratio <= target)


if __name__ == "__main__":
    main()
