"""`llmops cache warm`: what is asked ahead is a hit for the program, within its budget, and no mistake costs money."""

from __future__ import annotations

import contextlib
import json
from urllib.parse import urlsplit

import pytest
import redis

from langchain_llmops import LLMOps, Settings
from langchain_llmops.simulator import Echo, FaultPlan, running
from tests.integration.test_cli_cache import one_line
from tests.support.commands import asked, table
from tests.support.models import eventually
from tests.support.servers import redis_server

pytestmark = pytest.mark.usefixtures("clean")

MODEL = "openai:gpt-4o-mini"
LONG = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is my order?"}]}
LINES = [{"prompt": "What is your returns policy?"}, LONG, {"prompt": "Hi", "options": {"temperature": 0}}]


@pytest.fixture
def provider(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "simulated")
    monkeypatch.setenv("LLMOPS_RETRY_BASE_S", "0.001")
    with running(Echo()) as simulator:
        monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
        yield simulator


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "faq.jsonl", LINES)


def write(file, lines):
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return file


def warmed(outcome) -> dict:
    code, out, err = outcome
    assert err == ""
    found = json.loads(out)
    return {"code": code, "failures": found["failures"], **found["warmed"][0]}


def warm(llmops, file, state, *options) -> dict:
    return warmed(llmops("cache", "warm", file, "--model", MODEL, "--state", state, "--json", *options))


def test_what_was_warmed_is_a_hit_for_the_program(llmops, provider, file, tmp_path) -> None:
    first = warm(llmops, file, tmp_path)
    assert (first["code"], first["requests"], first["asked"], first["cached"], first["failed"]) == (0, 3, 3, 0, 0)
    assert first["spent_usd"] > 0
    again = warm(llmops, file, tmp_path)
    assert (again["asked"], again["cached"], again["spent_usd"]) == (0, 3, 0)
    assert provider.stats.requests == 3
    with LLMOps(Settings(state_dir=tmp_path, log_calls="off")) as ops:
        routed = ops.router(MODEL, "openai:gpt-4o").invoke("What is your returns policy?")
        plain = ops.models.model(MODEL).invoke([("system", "Be brief."), ("user", "Where is my order?")])
        cold = ops.models.model(MODEL, temperature=0).invoke("Hi")
    assert all("llmops_cache" in answer.response_metadata for answer in (routed, plain, cold))
    assert provider.stats.requests == 3


def test_what_was_done_is_shown(llmops, provider, file, tmp_path) -> None:
    shown = table(asked(llmops, "cache", "warm", file, "--model", MODEL, "--state", tmp_path))
    assert shown["3"][:3] == ["3", "0", "0"]


def test_requests_of_one_file_that_are_equal_are_asked_once(llmops, provider, tmp_path) -> None:
    file = write(tmp_path / "f", [{"prompt": "hi"}] * 8)
    found = warm(llmops, file, tmp_path, "--concurrency", 8)
    assert (found["asked"], found["cached"]) == (1, 7)


def test_a_budget_is_kept_and_what_it_leaves_out_is_told(llmops, provider, tmp_path) -> None:
    lines = [{"prompt": f"What about number {number}?"} for number in range(20)]
    one = warm(llmops, write(tmp_path / "one", lines[:1]), tmp_path / "a")["spent_usd"]
    found = warm(
        llmops, write(tmp_path / "all", lines), tmp_path / "b", "--max-usd", f"{5.5 * one:.10f}", "--concurrency", 8
    )
    assert (found["asked"], found["left_out"]) == (5, 15)
    assert found["spent_usd"] <= 5.5 * one
    assert warm(llmops, write(tmp_path / "all", lines), tmp_path / "c", "--max-usd", 0)["left_out"] == 20
    assert provider.stats.requests == 6


def test_a_request_that_fails_is_told_with_its_line_and_the_others_go_on(llmops, provider, tmp_path) -> None:
    file = write(tmp_path / "f", [{"prompt": "hi"}, {"prompt": "ho", "options": {"base_url": "http://127.0.0.1:1/v1"}}])
    found = warm(llmops, file, tmp_path)
    assert (found["code"], found["asked"], found["failed"]) == (1, 1, 1)
    assert found["failures"][0].startswith("line 2 failed: ")


def test_what_failed_attempts_may_have_cost_counts_as_spent(llmops, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "simulated")
    monkeypatch.setenv("LLMOPS_RETRY_BASE_S", "0.001")
    file = write(tmp_path / "f", [{"prompt": "hi"}])
    with running(Echo()) as provider:
        plain = warm(llmops, file, tmp_path / "a", "--base-url", provider.base_url)
    with running(Echo(), faults=FaultPlan(schedule={1: "cut"})) as provider:
        cut = warm(llmops, file, tmp_path / "b", "--base-url", provider.base_url)
    assert (cut["asked"], cut["spent_usd"] > plain["spent_usd"]) == (1, True)


def test_answers_that_were_paid_for_and_not_kept_are_told(llmops, provider, tmp_path) -> None:
    file = write(tmp_path / "f", [{"prompt": "hi", "options": {"temperature": 1}}])
    found = warm(llmops, file, tmp_path)
    assert (found["asked"], found["unkept"]) == (1, 1)


def test_an_answer_that_is_warmed_with_tags_goes_with_them(llmops, provider, tmp_path) -> None:
    file = write(tmp_path / "f", [{"prompt": "hi", "cache_tags": ["doc:1"]}, {"prompt": "ho"}])
    warm(llmops, file, tmp_path)
    asked(llmops, "cache", "invalidate", "--tag", "doc:1", "--state", tmp_path)
    assert warm(llmops, file, tmp_path)["cached"] == 1


def test_users_who_do_not_share_answers_are_warmed_each_for_himself(llmops, provider, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("LLMOPS_CACHE_SCOPE", "user")
    file = write(tmp_path / "f", [{"prompt": "hi", "user_id": "ada"}, {"prompt": "hi", "user_id": "bob"}])
    assert warm(llmops, file, tmp_path)["asked"] == 2
    write(file, [{"prompt": "hi", "user_id": "ada"}, {"prompt": "hi"}])
    line = one_line(llmops("cache", "warm", file, "--model", MODEL, "--state", tmp_path))
    assert "line 2: LLMOPS_CACHE_SCOPE=user needs 'user_id'" in line


# levels that cannot be reached, or take nothing


def in_redis(llmops, file, url, *options) -> tuple[int, dict, str]:
    code, out, err = llmops("cache", "warm", file, "--model", MODEL, "--redis", url, "--json", *options)
    return code, json.loads(out)["warmed"][0], err


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Where the default state folder is."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    folder = Settings().state_dir
    assert folder.is_relative_to(tmp_path)
    return folder


@pytest.mark.parametrize(
    ("option", "url", "reason"),
    [
        ("--redis", "redis://:hunter2@127.0.0.1:1/0", "LLMOPS_REDIS_URL: Redis at 127.0.0.1:1 cannot be reached"),
        ("--redis", "redis://{redis}/9999", "has no database 9999; correct its number"),
        ("--redis", "redis://:hunter2@{redis}/0", "refused the credentials; check user and password"),
        ("--postgres", "postgresql://u:hunter2@127.0.0.1:1/x", "LLMOPS_POSTGRES_URL: PostgreSQL at 127.0.0.1:1"),
    ],
)
def test_nothing_is_asked_while_a_level_cannot_be_reached(
    llmops, provider, file, home, redis_url, option, url, reason
) -> None:
    url = url.format(redis=urlsplit(redis_url).netloc)
    line = one_line(llmops("cache", "warm", file, "--model", MODEL, option, url))
    assert reason in line
    assert "hunter2" not in line
    assert provider.stats.requests == 0


def a_replica(client) -> None:
    client.replicaof("127.0.0.1", "1")


def full(client) -> None:
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1mb")
    client.config_set("maxmemory", "1")


def well(client) -> None:
    client.config_set("maxmemory", "0")
    client.replicaof("NO", "ONE")


@pytest.mark.parametrize("begun", [0, 1])
@pytest.mark.parametrize(("fault", "reason"), [(a_replica, "read only replica"), (full, "maxmemory")])
def test_answers_that_a_level_did_not_take_are_told_and_are_no_success(
    llmops, provider, file, tmp_path, home, begun, fault, reason
) -> None:
    first = write(tmp_path / "first", LINES[:begun])
    with redis_server() as server, contextlib.closing(redis.Redis.from_url(server.url)) as client:
        if begun:
            assert in_redis(llmops, first, server.url)[0] == 0
        fault(client)
        code, found, err = in_redis(llmops, file, server.url)
        assert (code, found["asked"], found["cached"], found["unwritten"]) == (1, 3 - begun, begun, 3 - begun)
        assert len(err.strip().splitlines()) == 1
        assert f"could not write {3 - begun} answers to L2: LLMOPS_REDIS_URL" in err
        assert reason in err
        well(client)
        code, found, err = in_redis(llmops, file, server.url)
        assert (code, found["asked"], found["unwritten"], err) == (0, 3 - begun, 0, "")


class FullBefore(Echo):
    """A Redis takes what was answered before it is asked this, and nothing more."""

    def __init__(self, client, text) -> None:
        self._client, self._text = client, text

    def answer(self, request):
        reply = super().answer(request)
        if reply.content == self._text:
            eventually(lambda: len(self._client.keys("llmops:cache:2:*")) == 2)
            full(self._client)
        return reply


def test_a_level_that_takes_no_more_while_answers_are_asked_for_is_told(llmops, provider, file, home) -> None:
    with redis_server() as server, contextlib.closing(redis.Redis.from_url(server.url)) as client:
        with running(FullBefore(client, "Hi")) as other:
            where = ("--base-url", other.base_url, "--concurrency", 1)
            code, found, err = in_redis(llmops, file, server.url, *where)
        assert (code, found["asked"], 1 <= found["unwritten"] < 3) == (1, 3, True)
        assert "could not write up to" in err


def test_answers_of_postgresql_are_warmed_and_what_they_cost_is_in_its_ledger(
    llmops, provider, file, home, postgres_url
) -> None:
    where = ("--postgres", postgres_url)
    found = warmed(llmops("cache", "warm", file, "--model", MODEL, *where, "--json"))
    assert (found["code"], found["asked"], found["unwritten"]) == (0, 3, 0)
    assert json.loads(asked(llmops, "cache", "stats", *where, "--json"))["total"]["misses"] == 3
    assert warmed(llmops("cache", "warm", file, "--model", MODEL, *where, "--json"))["cached"] == 3
    assert not home.exists()


# where the spending is kept


def test_a_ledger_is_written_where_one_is_named_or_exists_and_none_is_made(
    llmops, provider, tmp_path, home, clean_redis_url, monkeypatch
) -> None:
    def ask(name, *options) -> None:
        file = write(tmp_path / name, [{"prompt": name}])
        assert in_redis(llmops, file, clean_redis_url, *options)[1]["asked"] == 1

    def known(folder) -> str:
        return asked(llmops, "cost", "--by", "tag", "--state", folder, "--json")

    ask("one")
    assert not home.exists()
    ask("two", "--state", tmp_path / "named")
    assert "llmops:warm" in known(tmp_path / "named")
    monkeypatch.setenv("LLMOPS_STATE_DIR", str(tmp_path / "told"))
    ask("three")
    assert "llmops:warm" in known(tmp_path / "told")
    monkeypatch.delenv("LLMOPS_STATE_DIR")
    with LLMOps(Settings(log_calls="off")) as ops:
        ops.models.model(MODEL, cache=False).invoke("hi", ops.config())
    assert "llmops:warm" not in known(home)
    ask("four")
    assert "llmops:warm" in known(home)


def test_help_says_where_the_spending_is_kept(llmops) -> None:
    said = " ".join(asked(llmops, "cache", "warm", "--help").split())
    assert "in none where there is none" in said


# mistakes


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nonsense", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("[1]", "line 2: not a JSON object"),
        ({}, "line 2: give 'prompt' or 'messages'"),
        ({"prompt": "a", "messages": [["user", "b"]]}, "line 2: give 'prompt' or 'messages'"),
        ({"prompt": ""}, "line 2: 'prompt' must be a non-empty text"),
        ({"prompt": 3}, "line 2: 'prompt' must be a non-empty text"),
        ({"messages": []}, "line 2: 'messages' must be a list with something in it"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "line 2: 'messages' are not messages"),
        ({"prompt": "a", "promt": "b"}, "line 2: unknown 'promt'"),
        ({"prompt": "a", "options": 3}, "line 2: 'options' must be an object"),
        ({"prompt": "a", "cache_tags": "doc"}, "line 2: 'cache_tags' must be a list of texts"),
        ({"prompt": "a", "model": "nobody:x"}, "line 2: model 'nobody:x'"),
        ({"prompt": "a", "model": "openai:"}, "line 2: model 'openai:'"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_asked(llmops, provider, tmp_path, line, reason) -> None:
    file = write(tmp_path / "f", [{"prompt": "hi"}, line])
    assert reason in one_line(llmops("cache", "warm", file, "--model", MODEL, "--state", tmp_path))
    assert provider.stats.requests == 0


@pytest.mark.parametrize(
    ("arguments", "environment", "reason"),
    [
        ((), {}, "line 1: no 'model', and no --model is given"),
        (("--model", "openai:nobody-s-model", "--max-usd", "1"), {}, "no price is known for 'openai:nobody-s-model'"),
        (("--model", MODEL), {"LLMOPS_CACHE": "0"}, "LLMOPS_CACHE is off"),
        (("--model", MODEL), {"OPENAI_API_KEY": ""}, "line 1: model 'openai:gpt-4o-mini'"),
        (("--model", MODEL, "--concurrency", "0"), {}, "Invalid value for '--concurrency'"),
        (("--model", MODEL, "--max-usd", "-1"), {}, "Invalid value for '--max-usd'"),
    ],
)
def test_a_wrong_option_asks_nothing(
    llmops, provider, file, tmp_path, monkeypatch, arguments, environment, reason
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert reason in one_line(llmops("cache", "warm", file, *arguments, "--state", tmp_path))
    assert provider.stats.requests == 0


@pytest.mark.parametrize("content", [None, b"", b"\n\n", b"\xff\xfe"])
def test_a_file_without_requests_is_one_line(llmops, tmp_path, content) -> None:
    file = tmp_path / "f"
    if content is not None:
        file.write_bytes(content)
    assert str(file) in one_line(llmops("cache", "warm", file, "--model", MODEL, "--state", tmp_path))
