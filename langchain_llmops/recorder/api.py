"""LangSmith's ingest API and the pages, as an ASGI application."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from langchain_llmops.core.errors import ConfigurationError, StoreError
from langchain_llmops.core.redaction import redact
from langchain_llmops.recorder import pages
from langchain_llmops.recorder.intake import Intake, from_batch, from_parts
from langchain_llmops.recorder.listing import FILTERS, Listing
from langchain_llmops.recorder.runs import run_uuid
from langchain_llmops.recorder.storage import holes
from langchain_llmops.recorder.wire import RefusedRequestError, json_of, parts_of, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from starlette.types import ASGIApp, Receive, Scope, Send

    from langchain_llmops.recorder.storage import TraceStore

__all__ = ["RecorderApp"]

INFO: Final = {
    "version": "0.10.0",
    "batch_ingest_config": {
        "use_multipart_endpoint": True,
        "size_limit": 100,
        "size_limit_bytes": 20_971_520,
        "scale_up_qsize_trigger": 1000,
        "scale_up_nthreads_limit": 4,
        "scale_down_nempty_trigger": 4,
    },
    "instance_flags": {"zstd_compression_enabled": True, "dataset_examples_multipart_enabled": False},
}
KEPT_PROBLEMS: Final = 100
PREFIXES: Final = ("/api/v1", "/api")
SAFE: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class RecorderApp:
    """The application over one store.

    Args:
        max_body_bytes: of one request, before and after decompression.
        hosts: names that a request may call this server by, against DNS rebinding; None for any.
    """

    def __init__(self, store: TraceStore, *, max_body_bytes: int, hosts: Collection[str] | None) -> None:
        self._store = store
        self._listing = Listing(store.sql)
        self._max = max_body_bytes
        self.encodings: Counter[str] = Counter()
        self.problems: deque[str] = deque(maxlen=KEPT_PROBLEMS)
        routes = [Mount(prefix, routes=self._api()) for prefix in PREFIXES]
        handlers: dict[Any, Callable[..., Any]] = {
            RefusedRequestError: self._refuse,
            StoreError: self._fail,
            HTTPException: self._unknown,
            ConfigurationError: _wrong_address,
            ClientDisconnect: _gone,
        }
        app = Starlette(routes=[*routes, *self._api(), *self._pages()], exception_handlers=handlers)
        self.asgi: ASGIApp = _Guard(app, hosts)

    def _api(self) -> list[Route]:
        return [
            Route("/info", _info),
            Route("/runs/multipart", self._multipart, methods=["POST"]),
            Route("/runs/batch", self._batch, methods=["POST"]),
            Route("/runs/query", self._query, methods=["POST"]),
            Route("/runs", self._post, methods=["POST"]),
            Route("/runs/{id}", self._patch, methods=["PATCH"]),
            Route("/runs/{id}", self._read),
            Route("/runs/{id}/share", self._share, methods=["GET", "PUT"]),
            Route("/v2/runs/{id}/share", self._share, methods=["POST"]),
            Route("/feedback", self._add_feedback, methods=["POST"]),
            Route("/feedback", self._list_feedback),
            Route("/feedback/{id}", self._one_feedback, methods=["GET", "PATCH", "DELETE"]),
            Route("/sessions", self._add_session, methods=["POST"]),
            Route("/sessions", self._list_sessions),
            Route("/sessions/{id}", self._one_session),
        ]

    def _pages(self) -> list[Route]:
        return [
            Route("/", self._traces_page),
            Route("/traces/{id}", self._trace_page),
            Route("/threads", self._threads_page),
            Route("/threads/{id:path}", self._thread_page),
            Route("/public/{id}/r", self._shared),
        ]

    # ingest

    async def _multipart(self, request: Request) -> Response:
        body, now_us = await self._body(request), self._store.now_us()
        kind = request.headers.get("content-type", "")
        return await self._take(await asyncio.to_thread(lambda: from_parts(parts_of(body, kind), now_us)))

    async def _batch(self, request: Request) -> Response:
        body = await self._body(request)
        return await self._take(await asyncio.to_thread(lambda: from_batch(json_of(body, "the batch"))))

    async def _post(self, request: Request) -> Response:
        return await self._take(_single("post", await self._json(request)))

    async def _patch(self, request: Request) -> Response:
        return await self._take(_single("patch", {**await self._json(request), "id": request.path_params["id"]}))

    async def _take(self, intake: Intake) -> Response:
        """Store what is whole; an answer of 202 says that all of it is committed."""
        await self._store.take(intake)
        if intake.refused:
            kept = len(intake.runs) + len(intake.feedback)
            more = f" (and {len(intake.refused) - 1} more)" if len(intake.refused) > 1 else ""
            raise RefusedRequestError(422, f"{intake.refused[0]}{more}; the other {kept} of this request are stored")
        return _json({}, 202)

    async def _body(self, request: Request) -> bytes:
        packed = bytearray()
        async for chunk in request.stream():
            packed += chunk
            if len(packed) > self._max:
                raise RefusedRequestError(413, f"the body is larger than {self._max} bytes; send smaller batches")
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        body = await asyncio.to_thread(plain, bytes(packed), encoding, self._max)
        self.encodings[encoding] += 1
        return body

    async def _json(self, request: Request) -> dict[str, Any]:
        body = await asyncio.to_thread(json_of, await self._body(request), "the body")
        if not isinstance(body, dict):
            raise RefusedRequestError(422, "the body must be a JSON object")
        return body

    # what LangSmith's client reads

    async def _query(self, request: Request) -> Response:
        return _json(await self._store.query(await self._json(request)))

    async def _read(self, request: Request) -> Response:
        run_id = _id(request)
        run = await self._store.run(run_id)
        if run is None:
            raise HTTPException(404, f"run {run_id} is not here")
        return _json(run)

    async def _share(self, request: Request) -> Response:
        """Who can ask here can read everything: a run's link is its own id."""
        return _json({"run_id": _id(request), "share_token": _id(request)})

    async def _shared(self, request: Request) -> Response:
        run = await self._store.run(_id(request))
        if run is None:
            raise HTTPException(404, "this run is not here")
        return RedirectResponse(run["app_path"])

    async def _add_feedback(self, request: Request) -> Response:
        return _json(await self._store.add_feedback(await self._json(request)))

    async def _list_feedback(self, request: Request) -> Response:
        where, values = ["1 = 1"], list[str]()
        for name, column in (("run", "run_id"), ("key", "key")):
            if wanted := request.query_params.getlist(name):
                where.append(f"{column} IN ({holes(wanted)})")
                values += wanted
        page = (_whole(request, "limit", 100), _whole(request, "offset", 0))
        return _json(await self._store.feedback(" AND ".join(where), values, page))

    async def _one_feedback(self, request: Request) -> Response:
        found = await self._store.feedback("id = ?", (_id(request),))
        if not found:
            raise HTTPException(404, "this feedback is not here")
        if request.method == "DELETE":
            await self._store.drop_feedback(_id(request))
        if request.method == "PATCH":
            return _json(await self._store.add_feedback({**found[0], **await self._json(request), "id": _id(request)}))
        return _json(found[0])

    async def _add_session(self, request: Request) -> Response:
        return _json(await self._store.add_project(await self._json(request)))

    async def _list_sessions(self, request: Request) -> Response:
        name = request.query_params.get("name")
        found = await self._store.projects(*(("name = ?", (name,)) if name else ()))
        first = _whole(request, "offset", 0)
        return _json(found[first : first + _whole(request, "limit", 100)])

    async def _one_session(self, request: Request) -> Response:
        found = await self._store.projects("id = ?", (_id(request),))
        if not found:
            raise HTTPException(404, "this project is not here")
        return _json(found[0])

    # pages

    async def _traces_page(self, request: Request) -> Response:
        filters = {name: request.query_params.get(name, "") for name in FILTERS}
        page = await self._listing.traces(filters, request.query_params.get("after"))
        return _page(pages.traces_page(page, filters, self.problems, str(request.base_url).rstrip("/")))

    async def _trace_page(self, request: Request) -> Response:
        trace_id = _id(request)
        runs = await self._listing.runs(trace_id)
        if not runs:
            raise HTTPException(404, f"trace {trace_id} is not here")
        ours = "run_id IN (SELECT id FROM llmops_recorder_runs WHERE trace_id = ?)"
        return _page(pages.trace_page(trace_id, runs, await self._store.feedback(ours, (trace_id,), (1000, 0))))

    async def _threads_page(self, request: Request) -> Response:
        return _page(pages.threads_page(await self._listing.threads(request.query_params.get("after"))))

    async def _thread_page(self, request: Request) -> Response:
        thread = request.path_params["id"]
        turns = await self._listing.turns(thread)
        if not turns:
            raise HTTPException(404, "no trace has named this thread")
        return _page(pages.thread_page(thread, turns))

    # what goes wrong

    async def _refuse(self, request: Request, error: RefusedRequestError) -> Response:
        self.problems.append(f"{request.method} {request.url.path}: {error}")
        return _json({"detail": str(error)}, error.status)

    async def _fail(self, request: Request, error: StoreError) -> Response:
        line = redact(str(error))
        self.problems.append(f"{request.method} {request.url.path}: {line}")
        return _json({"detail": line}, 503 if error.is_retryable else 500)

    async def _unknown(self, request: Request, error: HTTPException) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return _page(pages.missing_page(error.detail), error.status_code)
        if request.method != "GET":
            self.problems.append(f"{request.method} {request.url.path}: {error.detail}")
        return _json({"detail": error.detail}, error.status_code)


class _Guard:
    """Turns away what a web page of somebody else could make a browser send here."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        host, origin = headers.get(b"host", b"").decode("latin-1"), headers.get(b"origin", b"").decode("latin-1")
        if self._hosts is not None and _hostname(f"//{host}") not in self._hosts:
            refused = "this Host is not served here; use the address that the command printed"
        elif origin and urlsplit(origin).netloc != host:
            refused = "pages of other sites may not ask here"
        else:
            return await self._app(scope, receive, send)
        return await _json({"detail": refused}, 403)(scope, receive, send)


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None  # a Host that is no address is served by nobody


def _single(kind: str, fields: dict[str, Any]) -> Intake:
    intake = Intake()
    intake.add_run(kind, fields)
    return intake


def _id(request: Request) -> str:
    return run_uuid(request.path_params["id"], "an id")


def _whole(request: Request, name: str, default: int) -> int:
    given = request.query_params.get(name, "")
    return min(int(given), 10**6) if given.isascii() and given.isdigit() else default


def _json(value: Any, status: int = 200) -> Response:
    """As `json.dumps` writes it: runs may hold NaN, which LangSmith's client reads too."""
    return Response(json.dumps(value), status, media_type="application/json", headers=SAFE)


def _page(html: str, status: int = 200) -> Response:
    return HTMLResponse(html.encode("utf-8", "replace"), status, headers=SAFE)


async def _info(_: Request) -> Response:
    return _json(INFO)


async def _wrong_address(_: Request, error: ConfigurationError) -> Response:
    return _page(pages.missing_page(str(error)), 400)


async def _gone(_: Request, __: ClientDisconnect) -> Response:
    return Response(status_code=400)
