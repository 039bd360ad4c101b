"""The pages: what they list, that they page, and that nothing in a run can steer a browser."""

from __future__ import annotations

import html
import re
from contextlib import contextmanager
from html.parser import HTMLParser
from urllib.parse import quote
from uuid import UUID

import httpx
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_llmops.recorder.listing import PAGE_ROWS, in_order
from langchain_llmops.recorder.running import running
from langchain_llmops.recorder.words import last_words, lines_of
from tests.support.traces import child, run, spent, uuid

EVIL = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>&amp;"


@pytest.fixture(params=["memory", "postgresql"], scope="module")
def shop(request):
    """Traces of two users in a recorder of their own, over either database."""
    with schema_of(request) as url, running(url) as recorder, httpx.Client(base_url=recorder.url) as http:
        post(http, *trace("ada", "s1", "Where is my tent?", 10, 0.25, at=1))
        post(http, *trace("ada", "s1", '100% "sure"_?', 20, 0.5, at=2, error="KettleError: cold"))
        post(http, *trace("bob", "s/2 ü?#", "hello", 30, None, at=3))
        yield http


@contextmanager
def schema_of(request):
    """Memory, or a schema of PostgreSQL that lives as long as the file."""
    if request.param == "memory":
        yield "memory://"
        return
    url, name = request.getfixturevalue("postgres_cluster_url"), f"pages_{uuid()[:8]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
        yield f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{name}"
        connection.execute(f"DROP SCHEMA {name} CASCADE")


def post(http, *runs) -> None:
    answer = http.post("/runs/batch", json={"post": list(runs)})
    assert answer.status_code == 202, answer.text


def trace(user, session, words, tokens, cost, *, at, error=None) -> list[dict]:
    """A root, a model and a tool that may fail."""
    who = {"user_id": user, "session_id": session}
    start, end = f"2026-11-21T10:0{at}:00+00:00", f"2026-11-21T10:0{at}:02+00:00"
    times = {"start_time": start, "end_time": end}
    inputs, outputs = {"messages": [["user", words]]}, {"messages": [["user", words], ["ai", f"Re: {words}"]]}
    root = run(inputs=inputs, outputs=outputs, extra={"metadata": who}, session_name="shop", **times)
    model = child(root, 1, run_type="llm", name="model", extra=spent(tokens, cost, **who), **times)
    tool = child(root, 2, run_type="tool", name="kettle", error=error, extra={"metadata": who}, **times)
    return [root, model, tool]


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page.partition("</style>")[2])).split())


def said(http, **filters) -> list[str]:
    """What the listed traces began with, newest first."""
    page = http.get("/", params=filters)
    assert page.status_code == 200
    found = re.findall(r"class='quiet preview'>(.*?)</div>", page.text)
    return [html.unescape(words) for words in found]


ADA, SURE, BOB = "Where is my tent?", '100% "sure"_?', "hello"


@pytest.mark.parametrize(
    ("filters", "listed"),
    [
        ({}, [BOB, SURE, ADA]),
        ({"user": "ada"}, [SURE, ADA]),
        ({"session": "s/2 ü?#"}, [BOB]),
        ({"project": "shop"}, [BOB, SURE, ADA]),
        ({"project": "other"}, []),
        ({"errors": "1"}, [SURE]),
        ({"text": "MY TENT"}, [ADA]),
        ({"text": '100% "sure"'}, [SURE]),
        ({"text": "1_0"}, []),
        ({"text": "kettleerror"}, [SURE]),
        ({"text": "kettle", "user": "bob"}, [BOB]),
    ],
)
def test_traces_are_listed_newest_first_by_every_filter(shop, filters, listed):
    assert said(shop, **filters) == listed


def test_a_trace_is_listed_with_the_totals_of_its_runs(shop):
    words = text_of(shop.get("/", params={"text": "tent"}).text)
    assert "ada s1 ok 3 10 $0.250 2,000 ms 2026-11-21 10:01:00" in words
    assert "bob s/2 ü?# ok 3 30 - 2,000 ms" in text_of(shop.get("/", params={"user": "bob"}).text)


def test_what_cost_nothing_is_told_from_what_has_no_price(http):
    free, unpriced = (run(run_type="llm", name=name) for name in ("free", "unpriced"))
    free["extra"] = spent(5, 0)
    post(http, *(one | {"session_name": "gratis"} for one in (free, unpriced)))
    costs = re.findall(r"data-name='cost'>([^<]*)<", http.get("/", params={"project": "gratis"}).text)
    assert sorted(costs) == ["$0", "-", "cost"]


@pytest.mark.parametrize(
    ("dollars", "shown"),
    [
        (0.0000165, "$0.0000165"),
        (0.000033, "$0.0000330"),
        (0.00123456, "$0.00123"),
        (0.25, "$0.250"),
        (1.005, "$1.00"),
        (1234.5, "$1,234.50"),
    ],
)
def test_a_cost_is_shown_with_the_digits_that_matter(http, dollars, shown):
    posted = run(run_type="llm", extra=spent(5, dollars))
    post(http, posted)
    assert f"data-name='cost'>{shown}<" in http.get(f"/traces/{posted['id']}").text


def test_the_header_of_a_trace_adds_up_as_the_list_does(http):
    nothing, some = run(session_name="sums"), run(session_name="sums")
    models = [child(some, n, run_type="llm", extra=spent(5, 0.0000165)) for n in (1, 2)]
    post(http, nothing, some, *models, child(nothing, run_type="llm"), child(nothing, 2, run_type="tool"))
    listed = http.get("/", params={"project": "sums"}).text
    assert sorted(re.findall(r"data-name='(?:tokens|cost)'>([^<]*)</td>", listed)) == ["$0.0000330", "-", "-", "10"]
    assert "3 runs · 10 tokens · $0.0000330 ·" in text_of(http.get(f"/traces/{some['id']}").text)
    assert "3 runs · - tokens · - cost ·" in text_of(http.get(f"/traces/{nothing['id']}").text)


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({"llmops_route": "simple", "llmops_cache_level": "miss", "llmops_rung": 0}, "gpt · simple"),
        ({"llmops_route": "simple", "llmops_cache_level": "L1", "llmops_rung": 0}, "gpt · simple · L1 hit"),
        ({"llmops_cache_level": "miss", "llmops_rung": 2}, "gpt · rung 2"),
        ({"llmops_cache_level": "L2", "llmops_rung": 1}, "gpt · rung 1 · L2 hit"),
        ({}, "gpt"),
    ],
)
def test_a_model_run_tells_its_route_rung_and_cache_hit(http, told, shown):
    posted = run(run_type="llm", extra=spent(5, 0, ls_model_name="gpt", **told))
    post(http, posted)
    assert f"root <span class=quiet>{shown}</span>" in http.get(f"/traces/{posted['id']}").text


LONG = "x" * 500
TRACE = 'Traceback (most recent call last):\n  File "a.py", line 1\n\nKettleError: cold\n'


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (f"KettleError('cold'){TRACE}", "KettleError('cold')"),
        (f"\nKettleError('cold')\nand more\n{TRACE}", "KettleError('cold')"),
        (TRACE, "KettleError: cold"),
        (LONG, "x" * 140 + " …"),
    ],
)
def test_a_failed_trace_says_in_one_line_what_went_wrong(http, error, line):
    posted = run(error=error)
    post(http, posted)
    page = http.get(f"/traces/{posted['id']}").text
    assert [html.unescape(found) for found in re.findall("<p class=error>(.*)</p><p class=quiet>trace", page)] == [line]


def test_feedback_is_shown_with_its_score_and_comment(http):
    posted = run()
    post(http, posted)
    given = [{"key": "user_score", "score": 1.0, "comment": 'it\'s "right"'}, {"key": "tone", "value": "warm"}]
    for feedback in [*given, *({"key": f"k{n}", "score": n / 8} for n in range(4))]:
        assert http.post("/feedback", json={"run_id": posted["id"], **feedback}).status_code == 200
    page = http.get(f"/traces/{posted['id']}").text
    assert "· user_score 1 · tone warm · k0 0 · k1 0.125 · k2 0.25 · 6 feedback in all ·" in text_of(page)
    assert "<span title='it&#x27;s &quot;right&quot;'>user_score 1</span>" in page
    assert 'feedback score comment user_score 1 it\'s "right" tone warm - k0 0 - k1 0.125 -' in text_of(page)


def test_threads_have_the_totals_of_all_their_traces(shop):
    words = text_of(shop.get("/threads").text)
    assert words.index("s/2 ü?#") < words.index("s1 ada 2 6 1 30 $0.750")


def test_a_thread_reads_as_a_conversation_in_order(shop):
    words = text_of(shop.get("/threads/s1").text)
    order = [words.index(part) for part in (ADA, f"Re: {ADA}", SURE, f"Re: {SURE}")]
    assert order == sorted(order)
    assert "hello" in text_of(shop.get("/threads/" + quote("s/2 ü?#", safe="")).text)


def test_a_trace_shows_its_runs_as_a_tree_with_figures(shop):
    link = re.search(r"href='(/traces/[^']+)'", shop.get("/", params={"errors": "1"}).text)[1]
    page = shop.get(link).text
    depths = re.findall(r"--depth:(\d)'>(\w+)<", page)
    assert depths == [("0", "root"), ("1", "model"), ("1", "kettle")]
    assert "error ok" not in text_of(page)
    assert "KettleError: cold" in page
    assert "model llm 20 $0.500 2,000 ms" in text_of(page)


def test_pages_go_on_where_they_ended(recorder, http):
    runs = [run(name=f"n{n}", start_time=f"2020-01-01T00:{n % 60:02d}:00Z") for n in range(PAGE_ROWS + 7)]
    post(http, *[one | {"session_name": "paged"} for one in runs])
    names, path = [], "/?project=paged"
    while path:
        page = http.get(path).text
        names += re.findall(r">(n\d+)</a>", page)
        older = re.search(r"href='([^']+)'>older", page)
        path = html.unescape(older[1]) if older else None
    assert sorted(names) == sorted(one["name"] for one in runs)


def test_a_trace_of_which_only_a_child_came_is_listed(http):
    root = run(name="never sent")
    post(http, child(root, session_name="orphans"))
    assert "its root has not come" in http.get("/", params={"project": "orphans"}).text
    assert http.get(f"/traces/{root['id']}").status_code == 200


def test_an_end_without_its_start_is_shown_and_not_an_error(http):
    run_id = uuid()
    assert http.patch(f"/runs/{run_id}", json={"trace_id": run_id, "outputs": {"output": "x"}}).status_code == 202
    assert "its start has not come" in http.get(f"/traces/{run_id}").text
    assert http.get(f"/runs/{run_id}").status_code == 404
    assert http.get("/").status_code == 200


def test_a_huge_input_is_cut_in_the_page_and_whole_in_its_json(http):
    words = "x" * 700_000 + "END"
    posted = run(inputs={"input": words}, name="huge")
    assert http.post("/runs", json=posted).status_code == 202
    page = http.get(f"/traces/{posted['id']}").text
    assert len(page) < 50_000
    assert f"href='/runs/{posted['id']}'" in page
    assert http.get(f"/runs/{posted['id']}").json()["inputs"]["input"] == words


NOT_HERE = {
    f"/traces/{UUID(int=1)}": f"there is no trace {UUID(int=1)} here",
    "/traces/x": "an id must be a UUID",
    "/threads/nobody": "there is no thread with this name here",
    "/threads/%00%FF": "there is no thread with this name here",
    f"/public/{UUID(int=1)}/r": f"there is no run {UUID(int=1)} here",
    "/nothing": "Not Found",
}


@pytest.mark.parametrize(("path", "line"), NOT_HERE.items())
def test_what_is_not_here_is_said_in_a_page_with_a_way_back(shop, path, line):
    answer = shop.get(path, headers={"Accept": "text/html"})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert text_of(answer.text).endswith(f"Not here {line} Back to all traces")
    assert "<a href='/'>Back to all traces</a>" in answer.text


@pytest.mark.parametrize("path", ["/?after=x", "/threads?after=x"])
def test_a_damaged_address_of_a_page_is_said_in_a_page(shop, path):
    answer = shop.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "text/html; charset=utf-8")


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
@pytest.mark.parametrize("path", [f"/runs/{UUID(int=1)}", f"/sessions/{UUID(int=1)}", "/feedback/x"])
def test_the_api_answers_in_json_also_to_a_browser(http, prefix, path):
    answer = http.get(prefix + path, headers={"Accept": "text/html"})
    assert answer.status_code == (422 if path.endswith("x") else 404)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["detail"]


def test_what_a_reader_mistypes_is_no_problem_of_the_senders():
    with running() as recorder, httpx.Client(base_url=recorder.url) as http:
        for path in (*NOT_HERE, "/?after=x", "/runs/x"):
            http.get(path)
        assert recorder.problems == []


ODD = ["words", 3, [1], {"metadata": "words"}, {"metadata": [1]}, {"metadata": {"thread_id": {"a": 1}, "user_id": [1]}}]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_what_is_no_object_where_langsmith_has_one_is_shown_as_it_is(http, odd):
    posted = run(run_type="llm", inputs=odd, outputs=odd, extra=odd, tags=odd, events=odd, name=odd)
    post(http, posted)
    for path in ("/", "/threads", f"/traces/{posted['id']}", f"/runs/{posted['id']}"):
        assert http.get(path).status_code == 200, path


def test_an_empty_recorder_says_how_to_send_to_it():
    with running() as recorder:
        assert f"LANGSMITH_ENDPOINT={recorder.url}" in httpx.get(recorder.url).text


class Tags(HTMLParser):
    """Every tag and attribute of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found |= {tag, *(f"@{name}" for name, _ in attributes)}


def test_nothing_in_a_run_becomes_markup(recorder, http):
    fields = {"name": EVIL, "run_type": EVIL, "error": EVIL, "tags": [EVIL], "session_name": EVIL}
    who = {"user_id": EVIL, "session_id": EVIL, EVIL: EVIL}
    posted = run(
        inputs={"messages": [{"type": EVIL, "content": EVIL}, ["user", EVIL]]}, extra={"metadata": who}, **fields
    )
    assert http.post("/runs", json=posted).status_code == 202
    http.post("/feedback", json={"run_id": posted["id"], "key": EVIL, "score": 1, "comment": EVIL})
    paths = ["/", "/threads", f"/traces/{posted['id']}", "/threads/" + quote(EVIL, safe="")]
    for path in [*paths, "/?text=" + quote(EVIL), "/?user=" + quote(EVIL)]:
        answer = http.get(path)
        assert answer.status_code == 200, path
        assert not {"script", "img", "@onerror", "@src"} & Tags(answer.text).found, path
        assert "default-src 'none'" in answer.headers["content-security-policy"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(EVIL),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.sampled_from(
        ["messages", "content", "type", "role", "kwargs", "generations", "message", "tool_calls", "text", "input"]),
        inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(json_values)
def test_any_json_can_be_read_for_words(value):
    for role, words in lines_of(value):
        assert isinstance(role, str)
        assert isinstance(words, str)
    last_words(value, spoken_by_user=True)


def message(kind: str, content, **kwargs) -> dict:
    return {"lc": 1, "type": "constructor", "id": ["x"], "kwargs": {"type": kind, "content": content, **kwargs}}


CALL = {"name": "look", "args": {"id": 1}, "id": "c", "type": "tool_call"}
SHAPES = {
    "a graph's input": ({"messages": [["user", "hi"]]}, [("user", "hi")]),
    "a message": ({"messages": [{"role": "user", "content": "hi"}]}, [("user", "hi")]),
    "a chat model's input": ({"messages": [[message("human", "hi")]]}, [("user", "hi")]),
    "an answer": ({"generations": [[{"message": message("ai", "yo"), "text": "yo"}]]}, [("assistant", "yo")]),
    "a tool call": ({"messages": [message("ai", "", tool_calls=[CALL])]}, [("assistant", '→ look({"id": 1})')]),
    "blocks": ({"output": message("ai", [{"type": "text", "text": "a"}, {"type": "tool_use"}])}, [("assistant", "a")]),
    "a command": ({"output": {"update": {"messages": [message("tool", "ok")]}}}, [("tool", "ok")]),
    "text": ({"input": "hi"}, [("", "hi")]),
    "neither": ({"x": 1}, []),
}


@pytest.mark.parametrize(("value", "lines"), SHAPES.values(), ids=SHAPES)
def test_messages_are_read_in_the_shapes_langchain_sends(value, lines):
    assert lines_of(value) == lines


def test_runs_without_dotted_order_stand_below_their_parents():
    rows = [
        {"id": "c", "parent_run_id": "b", "dotted_order": None, "started_us": 3},
        {"id": "b", "parent_run_id": "a", "dotted_order": None, "started_us": 2},
        {"id": "d", "parent_run_id": "a", "dotted_order": None, "started_us": 4},
        {"id": "a", "parent_run_id": None, "dotted_order": "20261121T100000000000Za", "started_us": 1},
        {"id": "l", "parent_run_id": "m", "dotted_order": None, "started_us": 5},
        {"id": "m", "parent_run_id": "l", "dotted_order": None, "started_us": 6},
    ]
    shown = [(depth, run["id"]) for depth, run in in_order(rows) if run["id"] in "abcd"]
    assert shown == [(0, "a"), (1, "b"), (2, "c"), (1, "d")]
