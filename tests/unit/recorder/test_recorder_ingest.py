"""What the ingest API takes, what it refuses, and that nothing is half taken."""

from __future__ import annotations

import json
import tracemalloc

import httpx
import pytest
import zstandard

from langchain_llmops.recorder.api import RecorderApp
from langchain_llmops.recorder.running import running
from langchain_llmops.recorder.storage import TraceStore
from langchain_llmops.recorder.wire import RefusedRequestError, plain
from langchain_llmops.stores.base import open_store
from tests.support.traces import BOUNDARY, PACKED, child, multipart, run, send, uuid

LATER = "2026-11-21T10:00:01.500000+00:00"


def read(http, run_id) -> dict:
    answer = http.get(f"/runs/{run_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def parts_of(kind, fields) -> list[tuple[str, object]]:
    """Core and large fields in parts of their own, as the client sends them."""
    beside = {name: fields[name] for name in ("inputs", "outputs", "extra", "error", "events") if name in fields}
    core = {name: value for name, value in fields.items() if name not in beside}
    return [(f"{kind}.{fields['id']}", core)] + [(f"{kind}.{fields['id']}.{name}", beside[name]) for name in beside]


@pytest.mark.parametrize("encoding", PACKED)
@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_a_run_arrives_whole_in_every_encoding_and_prefix(http, recorder, encoding, prefix):
    posted = run(outputs={"output": "grüße \u0000 😀"}, tags=["a", "b"], end_time=LATER)
    body = multipart(*parts_of("post", posted))
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Encoding": encoding}
    answer = http.post(f"{prefix}/runs/multipart", content=PACKED[encoding](body), headers=headers)
    assert answer.status_code == 202
    kept = read(http, posted["id"])
    for name in ("inputs", "outputs", "tags", "name", "run_type", "session_name", "dotted_order", "extra"):
        assert kept[name] == posted[name], name
    assert (kept["start_time"], kept["end_time"]) == ("2026-11-21T10:00:00+00:00", "2026-11-21T10:00:01.500000+00:00")
    assert kept["status"] == "success"
    assert recorder.encodings[encoding] >= 1


def test_batch_and_single_requests_take_the_same_runs(http):
    root = run()
    below = child(root)
    assert http.post("/runs/batch", json={"post": [root], "patch": []}).status_code == 202
    assert http.post("/runs", json=below).status_code == 202
    assert http.patch(f"/runs/{below['id']}", json={"error": "it broke", "end_time": LATER}).status_code == 202
    kept = read(http, below["id"])
    assert (kept["error"], kept["status"], kept["parent_run_id"]) == ("it broke", "error", root["id"])
    assert kept["parent_run_ids"] == [root["id"]]


def test_a_run_of_an_old_client_without_trace_or_order_finds_its_trace(http):
    root = {"id": uuid(), "name": "old", "run_type": "chain", "start_time": 1_795_255_200_000, "inputs": {}}
    below = {**root, "id": uuid(), "parent_run_id": root["id"]}
    lowest = {**root, "id": uuid(), "parent_run_id": below["id"], "name": "lowest"}
    for fields in (root, below, lowest):
        assert http.post("/runs", json=fields).status_code == 202
    assert read(http, lowest["id"])["trace_id"] == root["id"]
    assert read(http, root["id"])["start_time"] == "2026-11-21T10:00:00+00:00"
    assert "lowest" in http.get(f"/traces/{root['id']}").text


def test_attachments_and_feedback_parts_are_taken(http):
    posted, feedback_id = run(), uuid()
    feedback = {"id": feedback_id, "run_id": posted["id"], "trace_id": posted["id"], "key": "good", "score": 1}
    body = multipart(
        *parts_of("post", posted),
        (f"attachment.{posted['id']}.photo", b"\x89PNG\r\n--not-a-boundary\r\n\r\n"),
        (f"feedback.{feedback_id}", feedback),
    )
    assert send(http, body).status_code == 202
    assert read(http, posted["id"])["attachments_received"]["photo"]["bytes"] == 26
    assert http.get("/feedback", params={"run": posted["id"]}).json()[0]["key"] == "good"


def test_an_attachment_without_its_run_is_refused_and_named(http):
    posted, patched, elsewhere = run(), run(), uuid()
    assert send(http, multipart((f"post.{patched['id']}", patched))).status_code == 202
    lonely, beside = f"attachment.{elsewhere}.photo", f"attachment.{patched['id']}.sound"
    assert send(http, multipart((lonely, b"1"))).status_code == 422
    body = multipart(*parts_of("post", posted), (lonely, b"1"), (f"patch.{patched['id']}", {}), (beside, b"12"))
    answer = send(http, body)
    assert answer.status_code == 422
    assert f"part '{lonely}' comes without its run" in answer.json()["detail"]
    assert "the other 2 of this request are stored" in answer.json()["detail"]
    assert read(http, posted["id"])["attachments_received"] == {}
    assert read(http, patched["id"])["attachments_received"]["sound"]["bytes"] == 2


def test_the_attachments_of_a_damaged_run_are_no_second_refusal(http):
    bad = run()
    body = multipart((f"post.{bad['id']}", b'{"cut'), (f"attachment.{bad['id']}.photo", b"1"))
    assert "more" not in send(http, body).json()["detail"]


def test_one_bad_run_does_not_lose_the_others_and_is_not_half_taken(http, recorder):
    good, bad, worse = run(), run(), run()
    bad_parts = [parts_of("post", bad)[0], (f"post.{bad['id']}.inputs", b'{"cut'), *parts_of("post", bad)[2:]]
    body = multipart(*bad_parts, *parts_of("post", good), *parts_of("post", worse | {"start_time": "soon"}))
    answer = send(http, body)
    assert answer.status_code == 422
    assert f"post.{bad['id']}.inputs" in answer.json()["detail"]
    assert "(and 1 more); the other 1 of this request are stored" in answer.json()["detail"]
    assert read(http, good["id"])["name"] == "root"
    assert http.get(f"/runs/{bad['id']}").status_code == 404
    assert http.get(f"/runs/{worse['id']}").status_code == 404
    assert "/runs/multipart" in recorder.problems[-1]


REFUSED = {
    "no JSON": ("/runs/batch", b"{", "is not JSON", 422),
    "a list": ("/runs", b"[]", "must be a JSON object", 422),
    "a batch of nothing": ("/runs/batch", b'{"post": 3}', "must be a list", 422),
    "an id that is none": ("/runs", b'{"id": "../../etc"}', "must be a UUID", 422),
    "a nest": ("/runs", b'{"id": ' + b"[" * 200_000, "is not JSON", 422),
    "digits": ("/runs", b'{"id": ' + b"9" * 5000 + b"}", "is not JSON", 422),
    "feedback without a key": ("/feedback", b"{}", "has no key", 422),
    "a filter": ("/runs/query", b'{"filter": "eq(name, 1)"}', "does not know 'filter'", 422),
    "a cursor": ("/runs/query", b'{"cursor": "x"}', "cursor", 422),
    "too much": ("/runs", b" " * 1_000_001, "larger than 1000000 bytes", 413),
}


@pytest.mark.parametrize(("path", "body", "line", "status"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_taken_is_refused_in_one_line(http, path, body, line, status):
    answer = http.post(path, content=body)
    assert answer.status_code == status
    assert line in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


def test_a_path_nobody_knows_is_told_as_a_problem(http, recorder):
    assert http.post("/datasets", json={}).status_code == 404
    assert recorder.problems[-1] == "POST /datasets: Not Found"


WHOLE = multipart(("post.x", {}))
BROKEN = {
    "cut within a part": WHOLE[:-40],
    "cut before the last boundary": WHOLE[: -len(BOUNDARY) - 6],
    "no boundary": b"hello",
    "a part without a name": WHOLE.replace(b'; name="post.x"', b""),
    "headers that do not end": WHOLE.replace(b"\r\n\r\n", b"\r\n"),
    "nothing": b"",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_a_multipart_body_that_is_not_whole_is_refused_as_a_whole(http, body):
    answer = send(http, body)
    assert answer.status_code == 400
    assert "multipart" in answer.json()["detail"]


@pytest.mark.parametrize("encoding", ["zstd", "gzip"])
def test_a_bomb_is_refused_before_it_unfolds(http, encoding):
    bomb = PACKED[encoding](bytes(50_000_000))
    assert len(bomb) < 60_000
    answer = http.post("/runs/batch", content=bomb, headers={"Content-Encoding": encoding})
    assert answer.status_code == 413


@pytest.mark.parametrize("encoding", ["zstd", "gzip"])
def test_unpacking_holds_no_more_than_it_may(encoding):
    bomb = PACKED[encoding](bytes(50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(RefusedRequestError, match="larger than 1000 bytes"):
            plain(bomb, encoding, 1000)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


async def test_a_body_without_end_is_refused_while_it_comes():
    store, asked, said = open_store("memory://"), 0, []
    app = RecorderApp(TraceStore(store, lambda: 1e9), max_body_bytes=1_000_000, hosts=None)

    async def receive():
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": bytes(65_536), "more_body": asked < 3000}

    async def send(message):
        said.append(message)

    scope = {"type": "http", "method": "POST", "path": "/runs", "headers": [], "query_string": b"", "root_path": ""}
    await app.asgi(scope, receive, send)
    await store.aclose()
    assert said[0]["status"] == 413
    assert asked == 16


@pytest.mark.parametrize("encoding", ["zstd", "gzip", "br"])
def test_bytes_that_are_not_in_their_encoding_are_refused(http, encoding):
    answer = http.post("/runs/batch", content=b"plain", headers={"Content-Encoding": encoding})
    assert answer.status_code == (415 if encoding == "br" else 400)


def test_frames_that_follow_each_other_are_one_body(http):
    posted = run()
    body = json.dumps({"post": [posted]}).encode()
    frames = b"".join(zstandard.ZstdCompressor().compress(part) for part in (body[:50], body[50:]))
    assert http.post("/runs/batch", content=frames, headers={"Content-Encoding": "zstd"}).status_code == 202
    assert read(http, posted["id"])["name"] == "root"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:80"}, 403),
        ({"Host": "["}, 403),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:1984"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[::1"}, 403),
    ],
)
def test_only_our_own_names_and_pages_are_served(http, headers, status):
    assert http.get("/info", headers=headers).status_code == status


def test_a_server_on_all_addresses_answers_to_any_name():
    with running(host="0.0.0.0") as recorder, httpx.Client() as client:  # noqa: S104 - the case tested
        port = recorder.url.rsplit(":", 1)[1]
        answer = client.get(f"http://127.0.0.1:{port}/info", headers={"Host": "workstation.example"})
    assert answer.status_code == 200


@pytest.mark.parametrize("when", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", 1e30, "yesterday"])
def test_a_time_that_cannot_be_shown_is_refused_and_the_pages_go_on(http, when):
    assert http.post("/runs", json=run(start_time=when)).status_code == 422
    assert http.get("/").status_code == 200
    assert http.post("/runs/query", json={}).status_code == 200


@pytest.mark.parametrize("after", ["²", "--1", "-", "1-", "\u0661"])
def test_a_cursor_that_is_no_time_is_refused_wherever_it_is_given(http, after):
    asked = [http.get("/", params={"after": f"{after}.x"}), http.get("/threads", params={"after": f"{after}.x"})]
    asked.append(http.post("/runs/query", json={"cursor": f"{after}.x"}))
    assert [answer.status_code for answer in asked] == [422] * 3


@pytest.mark.parametrize("body", [{"cursor": f"{'9' * 30}.x"}, {"session": 5}, {"session": "no such project"}])
def test_a_query_that_cannot_be_is_refused_or_empty(http, body):
    answer = http.post("/runs/query", json=body)
    assert answer.status_code == 422 or answer.json()["runs"] == []
    assert http.get("/?after=" + "9" * 30 + ".x").status_code in (400, 422)
