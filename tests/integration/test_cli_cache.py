"""`llmops cache` as a user runs it: what is there, why it is no hit, and what empties the caches of other processes."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from urllib.parse import quote

import pytest
from langchain_openai import ChatOpenAI

from langchain_llmops import LLMOps, Settings, TieredCache
from langchain_llmops.cache.policy import Ttl
from langchain_llmops.simulator import Echo, running
from tests.support.cache import KEPT, keep, texts
from tests.support.commands import asked, fill, table
from tests.support.models import ScriptedModel, eventually
from tests.support.recorded import call, hit

pytestmark = pytest.mark.usefixtures("clean")

UNKNOWN = "0" * 64
SEEN_S = 0.25
LEVELS = {"--redis": "L2", "--state": "L3"}


def one_line(outcome, code=2) -> str:
    """The error of a command: its code, one line, nothing on stdout."""
    found, out, err = outcome
    assert (found, out) == (code, ""), err
    assert len(err.strip().splitlines()) == 1, err
    return err


@pytest.fixture(params=["sqlite", "redis"])
def place(request, tmp_path):
    """The option that names a cache, and its URL."""
    if request.param == "redis":
        url = request.getfixturevalue("clean_redis_url")
        return ("--redis", url), url
    return ("--state", tmp_path), f"sqlite:///{quote(str(tmp_path / 'cache.db'))}"


@pytest.fixture
def process(place):
    """Makes caches as other processes have them."""
    made = []

    def process(**options) -> TieredCache:
        urls = {LEVELS[place[0][0]].lower(): place[1]}
        made.append(TieredCache.from_urls(**{"timeout_s": 5.0, "tags_of": tags_of, **urls, **options}))
        return made[-1]

    yield process
    for cache in made:
        cache.close()


def tags_of(prompt, llm_string):
    return [prompt.split()[0]]


def kept(cache, *prompts) -> list[str]:
    """Keep an answer under each prompt; their keys."""
    keep(cache, *prompts)
    return [cache.asked(prompt, "m").key for prompt in prompts]


def gone(cache, prompt) -> bool:
    """Asked in a frame of its own: who finds nothing is believed to ask the provider."""
    return cache.lookup(prompt, "m") is None


# explain


def explained(llmops, place, *arguments) -> dict:
    (level,) = json.loads(asked(llmops, "cache", "explain", *arguments, *place[0], "--json"))["levels"]
    return level


def test_an_answer_is_explained_by_the_key_of_its_hit(llmops, place, process) -> None:
    cache = process(ttl=Ttl(l2_s=600, l3_s=600))
    kept(cache, "a question")
    key = cache.lookup("a question", "m")[0].message.response_metadata["llmops_cache"]["key"]
    level = explained(llmops, place, key)
    name = LEVELS[place[0][0]]
    assert (level["level"], level["state"], level["changed"]) == (name, "fresh", [])
    assert 0 <= level["age_s"] < 60
    assert 540 < level["left_s"] <= 600
    assert level["size_bytes"] == cache.stats()[f"written_bytes:{name}"]
    assert "fresh" in asked(llmops, "cache", "explain", key, *place[0])


def test_the_text_of_an_answer_is_shown_only_when_it_is_asked_for(llmops, place, process) -> None:
    cache = process()
    secret = replace_text("the secret of the house")
    cache.update("q", "m", secret)
    assert cache.flush()
    key = cache.asked("q", "m").key
    for form in ((), ("--json",)):
        assert "secret" not in asked(llmops, "cache", "explain", key, *place[0], *form)
        assert "the secret of the house" in asked(llmops, "cache", "explain", key, "--text", *place[0], *form)


def replace_text(text):
    (generation,) = KEPT
    message = generation.message.model_copy(update={"content": text})
    return [type(generation)(message=message)]


def test_an_answer_whose_tag_was_invalidated_says_so_and_names_a_tag_that_is_named(llmops, place, process) -> None:
    cache = process()
    (key, other) = kept(cache, "doc:1 says", "doc:2 says")
    asked(llmops, "cache", "invalidate", "--tag", "doc:1", *place[0])
    level = explained(llmops, place, key)
    assert (level["state"], level["changed"]) == ("invalidated", ["a tag not named here"])
    assert explained(llmops, place, key, "--tag", "doc:1")["changed"] == ["doc:1"]
    assert explained(llmops, place, other)["state"] == "fresh"
    asked(llmops, "cache", "clear", "--yes", *place[0])
    assert explained(llmops, place, other)["changed"] == ["everything (cleared)"]


def test_an_answer_past_its_time_is_stale(llmops, place, process) -> None:
    cache = process(ttl=Ttl(l2_s=0.001, l3_s=0.001, stale_s=600))
    (key,) = kept(cache, "old")
    eventually(lambda: explained(llmops, place, key)["state"] == "stale")
    assert explained(llmops, place, key)["left_s"] < 0


def test_a_damaged_answer_is_told_and_not_read(llmops, clean_redis_url, tmp_path) -> None:
    import redis

    cache = TieredCache.from_urls(clean_redis_url, timeout_s=5.0)
    (key,) = kept(cache, "q")
    with redis.Redis.from_url(clean_redis_url) as client:
        client.set(f"llmops:cache:2:{key}", b"x" * 99)
    cache.close()
    level = explained(llmops, (("--redis", clean_redis_url),), key)
    assert (level["state"], level["size_bytes"]) == ("damaged", 99)


def test_another_namespace_and_tenant_are_told_by_their_own_tags(llmops, place, process) -> None:
    whose = ("--tenant", "acme", "--namespace", "n")
    cache = process(tenant="acme", namespace="n")
    (key,) = kept(cache, "a")
    asked(llmops, "cache", "clear", "--yes", *place[0])
    assert explained(llmops, place, key, *whose)["state"] == "fresh"
    asked(llmops, "cache", "clear", "--yes", *whose, *place[0])
    assert explained(llmops, place, key, *whose)["changed"] == ["everything (cleared)"]


def test_a_key_that_no_level_has_is_one_line_and_exit_code_1(llmops, place, process) -> None:
    kept(process(), "a")
    assert UNKNOWN in one_line(llmops("cache", "explain", UNKNOWN, *place[0]), code=1)


# invalidate and clear


@pytest.mark.parametrize("command", [("invalidate", "--tag", "doc:1", "--tag", "doc:2"), ("clear", "--yes")])
def test_what_a_command_forgets_is_gone_from_running_processes_within_250_ms(llmops, place, process, command) -> None:
    here, there = process(), process()
    kept(here, "doc:1 says", "doc:2 says", "doc:3 says")
    assert texts(there.lookup("doc:1 says", "m")) == ["ok"]
    asked(llmops, "cache", *command, *place[0])
    time.sleep(SEEN_S)
    for cache in (here, there, process()):
        assert gone(cache, "doc:1 says")
        assert gone(cache, "doc:2 says")
        assert gone(cache, "doc:3 says") is (command[0] == "clear")


def test_a_cache_is_cleared_only_by_who_means_it(llmops, place, process, monkeypatch) -> None:
    cache = process()
    kept(cache, "a")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, _, err = llmops("cache", "clear", *place[0])
    assert (code, "nothing was cleared" in err) == (1, True)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = llmops("cache", "clear", *place[0])
    assert (code, "--yes" in err) == (2, True)
    assert not gone(process(), "a")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert llmops("cache", "clear", *place[0])[0] == 0
    assert gone(process(), "a")


def test_a_cache_in_postgresql_is_looked_into_and_emptied_like_any_other(llmops, postgres_url) -> None:
    where = (("--postgres", postgres_url),)
    with TieredCache.from_urls(l3=postgres_url, timeout_s=5.0, tags_of=tags_of) as cache:
        key, other = kept(cache, "doc:1 says", "doc:2 says")
    assert explained(llmops, where, key)["state"] == "fresh"
    asked(llmops, "cache", "invalidate", "--tag", "doc:1", *where[0])
    assert explained(llmops, where, key, "--tag", "doc:1")["changed"] == ["doc:1"]
    assert explained(llmops, where, other)["state"] == "fresh"
    asked(llmops, "cache", "clear", "--yes", *where[0])
    assert explained(llmops, where, other)["changed"] == ["everything (cleared)"]


@pytest.mark.parametrize(
    ("whose", "named"),
    [
        ((), "of tenant 'default', no namespace\n"),
        (("--namespace", "n"), "of tenant 'default', namespace 'n'\n"),
        (("--tenant", "acme", "--namespace", ""), "of tenant 'acme', no namespace\n"),
    ],
)
def test_whose_answers_were_forgotten_is_always_said(llmops, place, process, whose, named) -> None:
    kept(process(), "a")
    assert asked(llmops, "cache", "invalidate", "--tag", "doc:1", *whose, *place[0]).endswith(named)
    assert asked(llmops, "cache", "clear", "--yes", *whose, *place[0]).endswith(named)


@pytest.mark.parametrize("command", ["explain", "invalidate", "clear"])
def test_help_says_that_tenant_and_namespace_are_the_application_s(llmops, command) -> None:
    said = " ".join(asked(llmops, "cache", command, "--help").split())
    assert "namespace must be" in said
    assert "of the application" in said


# stats


def test_stats_reach_the_levels_and_sum_the_ledger(llmops, place, process, tmp_path) -> None:
    kept(process(), "a")
    ledger = tmp_path / "ledgers"
    ledger.mkdir()
    records = [
        hit(saved_usd="0.25"),
        replace(hit(saved_usd="0.5"), cache_level="L2"),
        replace(hit(saved_usd=None), model="own-13b"),
        call(),
        call(),
    ]
    fill(f"sqlite:///{ledger / 'ledger.db'}", records)
    if place[0][0] == "--state":
        (ledger / "cache.db").write_bytes((tmp_path / "cache.db").read_bytes())
        where = ("--state", ledger)
    else:
        where = ("--state", ledger, *place[0])
    found = json.loads(asked(llmops, "cache", "stats", *where, "--json"))
    (level,) = found["levels"]
    assert (level["level"], level["error"]) == (LEVELS[place[0][0]], None)
    assert level["latency_s"] > 0
    answers = {row["of"]: (row["answers"], row["saved_usd"]) for row in found["answers"]}
    assert answers == {"hits in L1": (2, 0.25), "hits in L2": (1, 0.5), "misses": (2, None)}
    assert (found["total"]["hits"], found["total"]["hit_rate"], found["total"]["saved_usd"]) == (3, 0.6, 0.75)
    assert found["total"]["saved_tokens"] == 3 * 120
    assert {row["model"]: (row["hits"], row["saved_usd"]) for row in found["models"]} == {
        "gpt-4o": (2, 0.75),
        "own-13b": (1, None),
    }
    shown = table(asked(llmops, "cache", "stats", *where))
    assert shown["hits in L1"] == ["2", "40.0 %", "$0.250"]
    assert shown["own-13b"] == ["1", "0", "100.0 %", "120", "-"]
    assert asked(llmops, "cache", "stats", *where, "--csv").splitlines()[0].startswith("model,hits,misses")


def test_stats_are_of_the_time_and_the_model_that_are_asked_for(llmops, tmp_path, clean_redis_url) -> None:
    fill(f"sqlite:///{tmp_path / 'ledger.db'}", [hit(), hit(model="gpt-4o-mini"), call()])
    where = ("--state", tmp_path, "--redis", clean_redis_url, "--json")
    chosen = json.loads(asked(llmops, "cache", "stats", "--model", "gpt-4o-mini", *where))
    assert chosen["total"]["hits"] == 1
    late = json.loads(asked(llmops, "cache", "stats", "--since", "1h", *where))
    assert (late["total"]["hits"], late["total"]["hit_rate"]) == (0, None)


def test_a_level_that_is_away_is_told_with_the_rest_and_exit_code_1(llmops, tmp_path) -> None:
    fill(f"sqlite:///{tmp_path / 'ledger.db'}", [hit()])
    code, out, err = llmops(
        "cache", "stats", "--state", tmp_path, "--redis", "redis://:hunter2@127.0.0.1:1/0", "--json"
    )
    found = json.loads(out)
    assert (code, err) == (1, "")
    assert "cannot be reached" in found["levels"][0]["error"]
    assert found["total"]["hits"] == 1
    assert "hunter2" not in out


def test_stats_of_a_cache_without_a_ledger_are_of_its_levels(llmops, place, process) -> None:
    kept(process(), "a")
    assert "there is no ledger" in asked(
        llmops, "cache", "stats", *place[0], *(("--state", "/nowhere") * (place[0][0] == "--redis"))
    )


# a hit told by metadata, ledger and metrics


def test_a_program_s_hit_saves_the_same_wherever_one_looks(llmops, tmp_path) -> None:
    settings = Settings(state_dir=tmp_path, log_calls="off")
    with running(Echo()) as provider, LLMOps(settings) as ops:
        model = ChatOpenAI(model="gpt-4o-mini", base_url=provider.base_url, api_key="k", max_retries=0, cache=ops.cache)
        told = [model.invoke("hi", ops.config()).response_metadata.get("llmops_cache") for _ in range(2)][1]
        exported = ops.registry.get_sample_value("llmops_saved_usd_total", {"model": "gpt-4o-mini"})
        reported = ops.report().as_dict()["cache"]
        assert ops.registry.get_sample_value("llmops_cache_counts_total", {"what": "stored"}) == 1
    found = json.loads(asked(llmops, "cache", "stats", "--state", tmp_path, "--json"))["total"]
    assert told["saved_usd"] == exported == reported["saved_usd"] == found["saved_usd"] > 0
    assert reported["saved_usd_by_level"] == {"L1": told["saved_usd"]}
    level = explained(llmops, (("--state", tmp_path),), told["key"])
    assert (level["model"], level["saved_usd"]) == ("gpt-4o-mini", told["saved_usd"])


# mistakes


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("explain", "abc"), "KEY is 64 characters"),
        (("explain", UNKNOWN.upper().replace("0", "A")), "KEY is 64 characters"),
        (("explain", UNKNOWN), "there is no cache in"),
        (("invalidate", "--tag", "a"), "there is no cache in"),
        (("clear", "--yes"), "there is no cache in"),
        (("stats",), "there is no cache in"),
        (("invalidate",), "Missing option '--tag'"),
        (("invalidate", "--tag", "", "--redis", "redis://127.0.0.1:1/0"), "a cache tag is a text of 1 to 200"),
        (("invalidate", "--tag", "a", "--redis", "redis://:hunter2@127.0.0.1:1/0"), "cannot be reached"),
        (("clear", "--yes", "--redis", "redis://127.0.0.1:1/0"), "cannot be reached"),
        (("explain", UNKNOWN, "--redis", "redis://127.0.0.1:1/0"), "cannot be reached"),
        (("explain", UNKNOWN, "--redis", "http://nowhere"), "LLMOPS_REDIS_URL"),
        (("explain", UNKNOWN, "--redis", ""), "--redis takes redis://"),
        (("explain", UNKNOWN, "--postgres", ""), "--postgres takes postgresql://"),
        (("clear", "--yes", "--postgres", "postgresql://u:hunter2@127.0.0.1:1/x"), "LLMOPS_POSTGRES_URL"),
        (("nonsense",), "No such command"),
    ],
)
def test_a_mistake_is_one_line(llmops, tmp_path, arguments, reason) -> None:
    line = one_line(llmops("cache", *arguments, "--state", tmp_path))
    assert reason in line
    assert "hunter2" not in line
    assert not (tmp_path / "cache.db").exists()


@pytest.mark.parametrize("command", [("invalidate", "--tag", "doc"), ("clear", "--yes")])
def test_a_tenant_that_runs_name_is_forgotten_in_running_processes(llmops, place, process, command) -> None:
    cache = process(tags_of=lambda prompt, llm: ["doc"])
    model = ScriptedModel(cache=cache)

    def ask(tenant):
        model.invoke("hi", {"metadata": {"tenant_id": tenant}})
        return model.calls

    assert [ask("acme"), ask("rival"), ask("acme")] == [1, 2, 2]
    assert cache.flush()
    asked(llmops, "cache", *command, "--tenant", "acme", *place[0])
    eventually(lambda: ask("acme") == 3)
    assert ask("rival") == 3
