"""Makes the checkpointer's compression dictionary, and shows what it saves.

    python tests/benchmarks/checkpoint_dictionary.py [--write FILE] [--quick] [--json FILE]

The dictionary is trained on this project's own text and on messages, metadata and checkpoints that a seeded generator
makes, as LangGraph's serializer packs them. It is measured on text it has not seen: that of Python's standard library.
"""

from __future__ import annotations

import argparse
import ast
import random
import statistics
import sys
import sysconfig
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import zstandard
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langchain_llmops.checkpoint.dictionary import checkpoint_dictionary
from langchain_llmops.core.envelope import Envelope
from tests.benchmarks.harness import Figure, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEED = 20261121
DICTIONARY_ID = 32_769  # the first of those that a public dictionary may have, and two bytes long
DICTIONARY_BYTES = 32 * 1024
SAMPLES = {"ours": 5000, "messages": 5000, "records": 1500}
SIZES = (300, 1000, 5000)
LARGE = (16_000, 64_000, 256_000)
PACK = JsonPlusSerializer().dumps_typed
MODELS = ("gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06", "claude-sonnet-4-5", "gemini-2.5-flash", "mistral-large")
TOOLS = ("search", "lookup_order", "get_weather", "read_file", "run_query", "send_email", "calculator", "retrieve")
NAMES = ("query", "path", "city", "order_id", "limit", "text", "url", "sql", "name", "content")
CHANNELS = (
    "messages",
    "branch:to:model",
    "branch:to:tools",
    "__start__",
    "__pregel_tasks",
    "structured_response",
    "files",
)
NODES = ("__input__", "__start__", "model", "tools", "agent", "summarize", "retrieve", "__interrupt__")


def own_texts() -> list[str]:
    """This project's source, tests and manual."""
    files = [*sorted((ROOT / "langchain_llmops").rglob("*.py")), ROOT / "README.md", ROOT / "CHANGELOG.md"]
    return [path.read_text("utf-8") for path in files if path != Path(__file__)]


def slices(texts: list[str], rng: random.Random, sizes: tuple[int, int]) -> Iterator[str]:
    """Pieces of texts for ever; each text as often as it is long."""
    weights = [len(text) for text in texts]
    while True:
        (text,) = rng.choices(texts, weights)
        size = rng.randint(*sizes)
        start = rng.randrange(max(1, len(text) - size))
        yield text[start : start + size]


def message(rng: random.Random, content: str) -> object:
    """One of every type, with its usual fields."""
    name = unique(rng, 4)
    match rng.randrange(8):
        case 0 | 1:
            return HumanMessage(content, id=name)
        case 2:
            return SystemMessage(content, id=name)
        case 3 | 4:
            return ToolMessage(content, name=rng.choice(TOOLS), id=name, tool_call_id=call_id(rng), status="success")
        case 5:
            return (
                RemoveMessage(id=name)
                if rng.random() < 0.3
                else HumanMessage([{"type": "text", "text": content}], id=name)
            )
        case _:
            return answer(rng, content)


def answer(rng: random.Random, content: str) -> AIMessage:
    """What a provider's package makes of an answer."""
    prompt, said = rng.randint(20, 9000), rng.randint(1, 900)
    calls = [tool_call(rng) for _ in range(rng.choice((0, 0, 1, 1, 2)))]
    tokens = {
        "completion_tokens": said,
        "prompt_tokens": prompt,
        "total_tokens": prompt + said,
        "completion_tokens_details": {
            "accepted_prediction_tokens": 0, "audio_tokens": 0, "reasoning_tokens": 0, "rejected_prediction_tokens": 0,
        },
        "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": rng.choice((0, 1024))},
    }  # fmt: skip
    about = {
        "token_usage": tokens,
        "model_provider": rng.choice(("openai", "anthropic", "google_genai")),
        "model_name": rng.choice(MODELS),
        "system_fingerprint": f"fp_{rng.getrandbits(40):010x}",
        "id": f"chatcmpl-{rng.getrandbits(140):035x}",
        "service_tier": "default",
        "finish_reason": "tool_calls" if calls else "stop",
        "logprobs": None,
    }
    return AIMessage(
        "" if calls and rng.random() < 0.5 else content,
        additional_kwargs={"refusal": None},
        response_metadata=about,
        id=f"lc_run--{unique(rng, 7)}-0",
        tool_calls=calls,
        usage_metadata={
            "input_tokens": prompt,
            "output_tokens": said,
            "total_tokens": prompt + said,
            "input_token_details": {"audio": 0, "cache_read": 0},
            "output_token_details": {"audio": 0, "reasoning": 0},
        },
    )


def tool_call(rng: random.Random) -> dict:
    """A call with one or two arguments."""
    names = rng.sample(NAMES, rng.randint(1, 2))
    return {"name": rng.choice(TOOLS), "args": {name: rng.randint(1, 99999) for name in names}, "id": call_id(rng)}


def unique(rng: random.Random, version: int) -> str:
    """A UUID; those of versions 6 and 7 begin with the time."""
    number = rng.getrandbits(128) if version == 4 else 0x1F0C << 112 | rng.getrandbits(112)
    return str(uuid.UUID(int=number & ~(0xF << 76) | version << 76))


def call_id(rng: random.Random) -> str:
    """As OpenAI's are."""
    return "call_" + "".join(rng.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=24))


def record(rng: random.Random) -> object:
    """What a checkpointer keeps beside values: metadata, a manifest, an interrupt, a document."""

    def version() -> str:
        return f"{rng.randint(1, 400):032}.{rng.random():.16f}"

    step = rng.randint(-1, 400)
    match rng.randrange(5):
        case 0:
            return {
                "source": rng.choice(("input", "loop", "update", "fork")), "step": step, "parents": {},
                "run_id": unique(rng, 7), "user_id": f"u{rng.randint(1, 9999)}",
                "thread_id": unique(rng, 4), "langgraph_step": step,
                "langgraph_node": rng.choice(NODES), "langgraph_triggers": [rng.choice(CHANNELS)],
                "langgraph_checkpoint_ns": "", "session_id": f"s{rng.randint(1, 9999)}",
                "ls_integration": "langchain_create_agent",
            }  # fmt: skip
        case 1 | 2:
            channels = rng.sample(CHANNELS, rng.randint(2, 5))
            return {
                "v": 4,
                "ts": f"2026-11-{rng.randint(1, 28):02}T09:17:{rng.randint(0, 59):02}.{rng.randrange(10**6):06}+00:00",
                "id": unique(rng, 6), "channel_versions": {name: version() for name in channels},
                "versions_seen": {node: {rng.choice(channels): version()} for node in rng.sample(NODES, 3)},
                "updated_channels": channels, "channel_values": {},
            }  # fmt: skip
        case 3:
            return [rng.choice(CHANNELS), version(), unique(rng, 6), rng.choice(NODES), step, None]
        case _:
            return Document(
                "", id=call_id(rng), metadata={"source": "README.md", "title": "", "page": step, "score": 0.5}
            )


def samples() -> list[bytes]:
    """What the dictionary learns from; the same at every run over the same source."""
    rng = random.Random(SEED)
    texts = own_texts()
    pieces = slices(texts, rng, (300, 3000))
    made = [next(pieces).encode() for _ in range(SAMPLES["ours"])]
    shorter = slices(texts, rng, (5, 900))
    made += [PACK(message(rng, next(shorter)))[1] for _ in range(SAMPLES["messages"])]
    return made + [PACK(record(rng))[1] for _ in range(SAMPLES["records"])]


def trained() -> bytes:
    """The dictionary: on one thread, with nothing left to chance."""
    made = zstandard.train_dictionary(
        DICTIONARY_BYTES, samples(), k=500, d=6, f=20, accel=1, level=3, dict_id=DICTIONARY_ID
    )
    return made.as_bytes()


def unseen(kind: str) -> str:
    """Text of the kind that the dictionary was not made of."""
    library = Path(sysconfig.get_path("stdlib"))
    if kind == "source":
        return "".join(path.read_text("utf-8", "replace") for path in sorted(library.glob("*.py"))[:60])
    tree = ast.parse((library / "pydoc_data" / "topics.py").read_text("utf-8"))
    return "\n".join(n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def measured(kind: str, size: int, count: int) -> list[bytes]:
    """Messages as they are stored."""
    rng = random.Random(SEED + size)
    pieces = slices([unseen(kind)], rng, (size, size))
    makers: tuple[Callable[[str], object], ...] = (
        lambda text: HumanMessage(text, id=unique(rng, 4)),
        lambda text: answer(rng, text),
        lambda text: ToolMessage(text, name="read_file", tool_call_id=call_id(rng)),
    )
    return [PACK(makers[n % 3](next(pieces)))[1] for n in range(count)]


def figures(dictionary: bytes, count: int) -> list[Figure]:
    """Bytes and microseconds with the dictionary, beside those without."""
    small, plain, found = Envelope(dictionary=dictionary), Envelope(), []
    for kind in ("source", "prose"):
        for size in SIZES:
            messages = measured(kind, size, count)
            ours, theirs = [small.seal(one) for one in messages], [plain.seal(one) for one in messages]
            found.append(Figure.at_most(f"bytes of a message of {size} B of {kind}", mean(ours), mean(theirs), None))
            if size == SIZES[1]:
                sealing = microseconds(small.seal, messages), microseconds(plain.seal, messages)
                opening = microseconds(small.open, ours), microseconds(plain.open, theirs)
                found.append(Figure.at_most(f"µs to seal it ({kind})", *sealing))
                found.append(Figure.at_most(f"µs to open it ({kind})", *opening))
    always = zstandard.ZstdCompressor(dict_data=zstandard.ZstdCompressionDict(dictionary))
    for size in LARGE:
        messages = measured("source", size, count // 10)
        bytes_ = (mean([packer.compress(one) for one in messages]) for packer in (always, zstandard.ZstdCompressor()))
        found.append(Figure.at_most(f"bytes of {size} B of source, if it were always used", *bytes_))
    return found


def mean(stored: list[bytes]) -> float:
    """Their bytes on average."""
    return statistics.mean(map(len, stored))


def microseconds(call: Callable[[bytes], object], values: list[bytes]) -> float:
    """Of this thread's time, for one call, in the median of rounds."""
    rounds = []
    for _ in range(7):
        began = time.thread_time()
        for value in values:
            call(value)
        rounds.append((time.thread_time() - began) / len(values) * 1e6)
    return statistics.median(rounds)


def main() -> None:
    """Make it, or measure the one that is shipped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="make a dictionary of today's text there, and measure it"
    )
    parser.add_argument("--quick", action="store_true", help="few messages, for a look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    options = parser.parse_args()
    dictionary = trained() if options.write else checkpoint_dictionary()
    if options.write:
        options.write.write_bytes(dictionary)
    rows = figures(dictionary, 30 if options.quick else 300)
    show("Messages at rest, with the checkpointer's dictionary (ours) and without (peer)", rows, options.json)


if __name__ == "__main__":
    main()
