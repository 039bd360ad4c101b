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

from langchain_llmops.core.errors import StoreError
from langchain_llmops.core.redaction import redact
from langchain_llmops.recorder import pages
from langchain_llmops.recorder.intake import Intake, from_batch, from_parts, object_of
from langchain_llmops.recorder.listing import FILTERS, Listing
from langchain_llmops.recorder.runs import run_uuid, text
from langchain_llmops.recorder.storage import among
from langchain_llmops.recorder.wire import RefusedRequestError, json_of, parts_of, plain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

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
NOT_FOUND: Final = 404
SERVER_FAULT: Final = 500
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
        handlers: dict[Any, Callable[..., Any]] = {
            RefusedRequestError: self._fault,
            StoreError: self._fault,
            HTTPException: self._fault,
            ClientDisconnect: _gone,
        }
        self._pages: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/": self._traces_page,
            "/traces/{id}": self._trace_page,
            "/threads": self._threads_page,
            "/threads/{id:path}": self._thread_page,
            "/public/{id}/r": self._shared,
        }
        routes: list[Mount | Route] = [Mount(prefix, routes=self._api()) for prefix in PREFIXES]
        routes += [*self._api(), *(Route(path, page) for path, page in self._pages.items())]
        app = Starlette(routes=routes, exception_handlers=handlers)
        self.asgi = _guarded(app, hosts)

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

    async def _multipart(self, request: Request) -> Response:
        body, now_us = await self._body(request), self._store.now_us()
        kind = request.headers.get("content-type", "")
        return await self._take(await asyncio.to_thread(lambda: from_parts(parts_of(body, kind), now_us)))

    async def _batch(self, request: Request) -> Response:
        body = await self._body(request)
        return await self._take(await asyncio.to_thread(lambda: from_batch(json_of(body, "the batch"))))

    async def _post(self, request: Request) -> Response:
        return await self._take(from_batch({"post": [await self._json(request)]}))

    async def _patch(self, request: Request) -> Response:
        return await self._take(from_batch({"patch": [{**await self._json(request), "id": request.path_params["id"]}]}))

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
        return object_of(await asyncio.to_thread(json_of, await self._body(request), "the body"), "the body")

    async def _query(self, request: Request) -> Response:
        return _json(await self._store.query(await self._json(request)))

    async def _run(self, request: Request) -> dict[str, Any]:
        return _first((await self._store.query({"id": _id(request)}))["runs"], f"run {_id(request)}")

    async def _read(self, request: Request) -> Response:
        return _json(await self._run(request))

    async def _share(self, request: Request) -> Response:
        """Who can ask here can read everything: a run's link is its own id."""
        return _json({"run_id": _id(request), "share_token": _id(request)})

    async def _add_feedback(self, request: Request) -> Response:
        return _json(await self._store.add_feedback(await self._json(request)))

    async def _list_feedback(self, request: Request) -> Response:
        where, values = ["1 = 1"], list[str]()
        for name, column in (("run", "run_id"), ("key", "key")):
            if wanted := request.query_params.getlist(name):
                where.append(among(column, wanted))
                values += wanted
        page = (_whole(request, "limit", 100), _whole(request, "offset", 0))
        return _json(await self._store.feedback(" AND ".join(where), values, page))

    async def _one_feedback(self, request: Request) -> Response:
        found = _first(await self._store.feedback("id = ?", (_id(request),)), "feedback")
        if request.method == "DELETE":
            await self._store.drop_feedback(_id(request))
        if request.method == "PATCH":
            found = await self._store.add_feedback({**found, **await self._json(request), "id": _id(request)})
        return _json(found)

    async def _add_session(self, request: Request) -> Response:
        return _json(await self._store.add_project(await self._json(request)))

    async def _list_sessions(self, request: Request) -> Response:
        name, first = request.query_params.get("name"), _whole(request, "offset", 0)
        found = await self._store.projects(**({"name": name} if name else {}))
        return _json(found[first : first + _whole(request, "limit", 100)])

    async def _one_session(self, request: Request) -> Response:
        return _json(_first(await self._store.projects(id=_id(request)), "project"))

    async def _traces_page(self, request: Request) -> Response:
        filters = {name: text(request.query_params.get(name)) or "" for name in FILTERS}
        page = await self._listing.traces(filters, request.query_params.get("after"))
        return _page(pages.traces_page(page, filters, self.problems, str(request.base_url).rstrip("/")))

    async def _trace_page(self, request: Request) -> Response:
        trace_id = _id(request)
        runs = await self._listing.runs(trace_id)
        _first(runs, f"trace {trace_id}")
        ours = "run_id IN (SELECT id FROM llmops_recorder_runs WHERE trace_id = ?)"
        return _page(pages.trace_page(runs, await self._store.feedback(ours, (trace_id,), (1000, 0))))

    async def _threads_page(self, request: Request) -> Response:
        return _page(pages.threads_page(await self._listing.threads(request.query_params.get("after"))))

    async def _thread_page(self, request: Request) -> Response:
        thread = text(request.path_params["id"]) or ""
        turns = await self._listing.turns(thread)
        _first(turns, "thread with this name")
        return _page(pages.thread_page(thread, turns))

    async def _shared(self, request: Request) -> Response:
        return RedirectResponse((await self._run(request))["app_path"])

    async def _fault(self, request: Request, error: Exception) -> Response:
        """What could not be done, in one line: a page to whoever looks at pages, JSON to clients."""
        status, line = _told(error)
        if request.method != "GET" or status >= SERVER_FAULT:
            self.problems.append(f"{request.method} {request.url.path}: {line}")
        asked = request.scope.get("endpoint")
        if asked in self._pages.values() or (asked is None and "text/html" in request.headers.get("accept", "")):
            nowhere = "id" in request.path_params and status < SERVER_FAULT
            return _page(pages.missing_page(line), NOT_FOUND if nowhere else status)
        return _json({"detail": line}, status)


def _guarded(app: ASGIApp, hosts: Collection[str] | None) -> ASGIApp:
    """Turns away what a web page of somebody else could make a browser send here."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin", "")
        if hosts is not None and _of_url("hostname", f"//{host}") not in hosts:
            refused = "this Host is not served here; use the address that the command printed"
        elif origin and _of_url("netloc", origin) != host:
            refused = "pages of other sites may not ask here"
        else:
            return await app(scope, receive, send)
        return await _json({"detail": refused}, 403)(scope, receive, send)

    return guarded


def _of_url(part: str, url: str) -> str | None:
    try:
        found: str | None = getattr(urlsplit(url), part)
    except ValueError:
        return None  # a Host or Origin that is no address is served by nobody
    return found


def _id(request: Request) -> str:
    return run_uuid(request.path_params["id"], "an id")


def _first(found: list[dict[str, Any]], what: str) -> dict[str, Any]:
    if not found:
        raise RefusedRequestError(NOT_FOUND, f"there is no {what} here")
    return found[0]


def _whole(request: Request, name: str, default: int) -> int:
    given = request.query_params.get(name, "")
    return min(int(given), 10**6) if given.isascii() and given.isdigit() else default


def _told(error: Exception) -> tuple[int, str]:
    match error:
        case RefusedRequestError():
            return error.status, str(error)
        case HTTPException():
            return error.status_code, error.detail
    return 503 if getattr(error, "is_retryable", False) else 500, redact(str(error))


def _json(value: Any, status: int = 200) -> Response:
    """As `json.dumps` writes it: runs may hold NaN, which LangSmith's client reads too."""
    return Response(json.dumps(value), status, media_type="application/json", headers=SAFE)


def _page(html: str, status: int = 200) -> Response:
    return HTMLResponse(html.encode("utf-8", "replace"), status, headers=SAFE)


async def _info(_: Request) -> Response:
    return _json(INFO)


async def _gone(_: Request, __: ClientDisconnect) -> Response:
    return Response(status_code=400)
