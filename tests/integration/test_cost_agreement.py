"""The same conversations cost the same in the ledger, in Prometheus, in LangSmith, and by a sum of our own."""

from __future__ import annotations

import json
from collections import defaultdict
from decimal import Decimal
from typing import ClassVar

import pytest
from langchain_core.utils.function_calling import convert_to_openai_tool

from langchain_llmops import LLMOps, Settings
from langchain_llmops.core.tokens import default_token_counter
from langchain_llmops.demo.replay import recorded_tools
from langchain_llmops.demo.run import Demo
from langchain_llmops.demo.traffic import read_traffic
from langchain_llmops.recorder.running import running as recording
from tests.support.data import shared_data
from tests.support.langsmith import traced_to

SAMPLE = 15
# dollars per million tokens (input, output), from the provider's price list
PRICES = {"gpt-4o-mini": (Decimal("0.15"), Decimal("0.60")), "gpt-4o": (Decimal("2.50"), Decimal(10))}


@pytest.fixture
def recorder():
    with recording() as recorder, traced_to(recorder.url):
        yield recorder


class Watched(LLMOps):
    """Keeps its registry and its models by session in reach after the demo has closed it."""

    seen: ClassVar[list[Watched]] = []

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.models_of = defaultdict(list)
        self.bus.subscribe(self._note)
        Watched.seen.append(self)

    def _note(self, event) -> None:
        record = getattr(event, "record", None)
        if record is not None and record.kind == "model":
            self.models_of[record.identity.session].append((record.started_at, record.model))


def own_sum(conversations, models_of) -> Decimal:
    """Tokens counted message by message in the recording, at the prices above."""
    count = default_token_counter().count
    schemas = [convert_to_openai_tool(tool) for tool in recorded_tools(conversations)]
    tools = count(json.dumps(schemas, ensure_ascii=False, separators=(",", ":")))
    total = Decimal(0)
    for conversation in conversations:
        models = iter([model for _, model in sorted(models_of[conversation.session])])
        messages = [{"role": "system", "content": conversation.system}, *conversation.after_system]
        prompt = 3 + tools
        for message in messages:
            calls = [call["function"] for call in message.get("tool_calls") or ()]
            text = count(message["content"] or "") + sum(count(call["name"]) for call in calls)
            if message["role"] == "assistant":
                price_in, price_out = PRICES[next(models)]
                said = text + sum(count(call["arguments"]) for call in calls)
                total += (prompt * price_in + said * price_out) / 10**6
            prompt += 3 + count(message["role"]) + text + sum(count(as_asked_again(call)) for call in calls)
        assert next(models, None) is None
    return total


def as_asked_again(call) -> str:
    """LangChain parses a call's arguments, and writes them in its own way when the history goes out again."""
    return json.dumps(json.loads(call["arguments"]), ensure_ascii=False)


def test_conversations_cost_the_same_wherever_one_looks(recorder, tmp_path, monkeypatch):
    monkeypatch.setattr("langchain_llmops.demo.run.LLMOps", Watched)
    file = shared_data("support/airline_gpt4o_conversations.jsonl.gz")
    conversations = read_traffic(file)[:SAMPLE]
    settings = Settings(state_dir=tmp_path, cache_scope="session", log_calls="off")
    report = Demo(settings, conversations, replay=file, speed=0.0).run().as_dict()
    (ops,) = Watched.seen
    scraped = [metric for metric in ops.registry.collect() if metric.name == "llmops_cost_usd"]
    prometheus = sum(sample.value for sample in scraped[0].samples if sample.name == "llmops_cost_usd_total")
    traced = sum(Decimal(run["extra"]["metadata"]["llmops_cost_usd"]) for run in recorder.runs(run_type="llm"))
    ours = own_sum(conversations, ops.models_of)
    assert report["model_calls"] == sum(len(models) for models in ops.models_of.values()) > 150
    assert Decimal(str(report["cost_usd"])) == pytest.approx(ours, abs=Decimal("1e-9"))
    assert prometheus == pytest.approx(float(ours), abs=1e-9)
    assert traced == pytest.approx(ours, abs=Decimal("1e-9"))
