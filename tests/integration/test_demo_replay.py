"""Real conversations through the agent and the whole suite, read back message for message."""

from __future__ import annotations

import asyncio
import shutil
from decimal import Decimal

import pytest

from langchain_llmops import LLMOps, Settings
from langchain_llmops.demo.replay import mismatches
from langchain_llmops.demo.run import Demo
from langchain_llmops.demo.traffic import read_traffic
from tests.support.data import shared_data
from tests.support.servers import free_port

SAMPLE = 40


@pytest.fixture(scope="module")
def recording():
    return shared_data("support/airline_gpt4o_conversations.jsonl.gz")


def settings_for(folder, **options) -> Settings:
    fast = {"retry_base_s": 0.01, "retry_max_s": 0.1, "max_attempts": 4, "request_timeout_s": 20.0, "log_calls": "off"}
    return Settings(state_dir=folder, cache_scope="session", **{**fast, **options})


def replayed(recording, settings, count=None, **options):
    conversations = read_traffic(recording)[:count]
    report = Demo(settings, conversations, replay=recording, speed=0.0, **options).run()
    return conversations, report.as_dict()


def counts(conversations) -> dict[str, int]:
    messages = [message for conversation in conversations for message in conversation.after_system]
    return {
        "assistant_messages": sum(message["role"] == "assistant" for message in messages),
        "tool_results": sum(message["role"] == "tool" for message in messages),
        "recording_ends": len(conversations),
        "mismatches": 0,
        "unknown_prefixes": 0,
    }


def differing(settings, conversations) -> dict[str, list[int]]:
    """Sessions whose state, read by a new process's eyes (nothing hot), differs from the recording."""

    async def read() -> dict[str, list[int]]:
        async with LLMOps(settings) as ops:
            found = {}
            for conversation in conversations:
                config = ops.config(user_id=conversation.user, session_id=conversation.session)
                state = await ops.checkpointer.aget_tuple(config)
                wrong = mismatches(conversation, state.checkpoint["channel_values"]["messages"])
                if wrong:
                    found[conversation.session] = wrong
            return found

    return asyncio.run(read())


def check_sums(figures) -> None:
    routes = figures["routes"].values()
    assert figures["model_calls"] == sum(route["calls"] for route in routes)
    assert figures["model_calls"] == figures["cache"]["hits"] + figures["cache"]["misses"]
    assert all(route["calls"] == route["hits"] + route["misses"] for route in routes)
    assert figures["cost_usd"] == pytest.approx(sum(route["cost_usd"] for route in routes), abs=1e-9)
    assert figures["saved_usd"] == pytest.approx(figures["baseline_cost_usd"] - figures["cost_usd"], abs=1e-9)
    assert figures["ledger"] == {"dropped": 0, "reader_failures": {}}


def test_all_200_recorded_conversations_replay_embedded_and_read_back_equal(recording, tmp_path):
    settings = settings_for(tmp_path)
    conversations, figures = replayed(recording, settings)
    assert figures["replay"] == {
        "assistant_messages": 2454,
        "tool_results": 1164,
        "recording_ends": 200,
        "mismatches": 0,
        "unknown_prefixes": 0,
    }
    assert figures["replay"] == counts(conversations)
    assert (figures["model_calls"], figures["tool_calls"], figures["conversations"]) == (2454, 1164, 200)
    assert figures["cache"]["hits"] == 0
    assert figures["saved_usd"] > 0
    check_sums(figures)
    assert figures["checkpoints"]["count"] > 2454
    assert figures["checkpoints"]["bytes"]["cold"] > 0
    assert differing(settings, conversations) == {}


def test_a_sample_replays_on_redis_postgres_and_s3(recording, tmp_path, clean_redis_url, postgres_url, s3_url):
    settings = settings_for(tmp_path, redis_url=clean_redis_url, postgres_url=postgres_url, objects_url=s3_url)
    conversations, figures = replayed(recording, settings, SAMPLE)
    assert figures["replay"] == counts(conversations)
    check_sums(figures)
    assert all(figures["checkpoints"]["bytes"][tier] > 0 for tier in ("hot", "warm", "cold"))
    assert differing(settings, conversations) == {}


@pytest.mark.parametrize("place", ["embedded", "servers"])
def test_under_faults_every_answer_still_arrives_and_failures_are_priced_apart(recording, tmp_path, place, request):
    names = {"redis_url": "clean_redis_url", "postgres_url": "postgres_url", "objects_url": "s3_url"}
    servers = {} if place == "embedded" else {name: request.getfixturevalue(f) for name, f in names.items()}
    settings = settings_for(tmp_path, **servers)
    conversations, figures = replayed(recording, settings, SAMPLE, faults=0.1, seed=3)
    assert figures["replay"] == counts(conversations)
    assert figures["failed_conversations"] == {}
    injected = sum(figures["injected_faults"].values())
    assert injected > 0
    assert figures["failed_attempts"]["count"] == injected
    assert figures["failed_attempts"]["cost_usd"] > 0
    check_sums(figures)
    assert differing(settings, conversations) == {}


def test_faults_change_what_failures_cost_and_not_what_answers_cost(recording, tmp_path):
    _, calm = replayed(recording, settings_for(tmp_path / "calm"), 8)
    _, stormy = replayed(recording, settings_for(tmp_path / "stormy", max_attempts=12), 8, faults=0.2)
    assert sum(error["fell_back"] for error in stormy["errors"].values()) == 0
    assert Decimal(str(stormy["cost_usd"])) == Decimal(str(calm["cost_usd"]))
    assert stormy["failed_attempts"]["count"] > calm["failed_attempts"]["count"] == 0


def test_a_second_replay_with_fresh_sessions_hits_the_shared_cache(recording, tmp_path):
    settings = settings_for(tmp_path).model_copy(update={"cache_scope": "shared", "cache_tool_calls": True})
    port = free_port()
    replayed(recording, settings, 5, port=port)
    again = read_traffic(recording)[:5]
    for conversation in again:
        conversation.session += "@again"
    figures = Demo(settings, again, replay=recording, speed=0.0, port=port).run().as_dict()
    assert figures["cache"]["hit_rate"] == 1.0
    assert figures["cost_usd"] == 0
    assert figures["replay"] == counts(again)


def test_a_replay_that_was_stopped_goes_on_where_it_stood(recording, tmp_path):
    settings = settings_for(tmp_path)
    conversations = read_traffic(recording)[:6]
    for conversation in conversations:
        conversation.turns = conversation.turns[:2]
    Demo(settings, conversations, replay=recording, speed=0.0).run()
    whole, figures = replayed(recording, settings, 6)
    assert figures["replay"] == counts(whole)
    assert figures["model_calls"] < counts(whole)["assistant_messages"]
    assert differing(settings, whole) == {}


def test_the_state_folder_can_move(recording, tmp_path):
    conversations, _ = replayed(recording, settings_for(tmp_path / "old"), 3)
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert differing(settings_for(tmp_path / "new"), conversations) == {}
