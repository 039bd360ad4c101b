"""The simulator: paths, keys, faults and delays around a behaviour."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Final

from langchain_llmops.simulator.behaviours import Behaviour, Echo
from langchain_llmops.simulator.draws import Occasion, Occasions, key_of
from langchain_llmops.simulator.embeddings import embeddings_body
from langchain_llmops.simulator.faults import REFUSAL, FaultPlan, fault_error
from langchain_llmops.simulator.http1 import ConnectionCut, Handler, HttpRequest, HttpResponse, HttpServer
from langchain_llmops.simulator.latency import Latency
from langchain_llmops.simulator.stats import Counters, Stats
from langchain_llmops.simulator.tokens import default_count, limited, usage_of
from langchain_llmops.simulator.types import DEFAULT_MODELS, ApiError, Reply, Request
from langchain_llmops.simulator.validate import parse_chat, parse_embeddings, parse_json
from langchain_llmops.simulator.wire import Answer, chat_body, chat_frames, fresh_id, to_json

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence

    from langchain_llmops.simulator.types import EmbeddingRequest

__all__ = ["ServerSettings", "SimulatorServer"]

COUNTED_TEXTS: Final = 8192
CREATED: Final = 1_715_367_049
_JSON: Final = ("content-type", "application/json")
_SSE: Final = (("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache"))
_MODELS: Final = "/v1/models"
_UNCOUNTED: Final = ("/healthz", "/__stats")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How a server answers. `models` None accepts any name; `api_keys` empty asks for none; `speed` 0 waits never."""

    count_tokens: Callable[[str], int] = default_count
    faults: FaultPlan = field(default_factory=FaultPlan)
    latency: Latency = field(default_factory=Latency)
    speed: float = 0.0
    seed: int = 0
    models: Sequence[str] | None = DEFAULT_MODELS
    api_keys: frozenset[str] = frozenset()


class SimulatorServer:
    """Serves one behaviour over the OpenAI wire; start and stop it on an event loop of your own, or use `running`."""

    def __init__(
        self,
        behaviour: Behaviour | None = None,
        settings: ServerSettings | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._behaviour = behaviour or Echo()
        self._settings = settings or ServerSettings()
        # A conversation repeats its texts in every turn, so their counts are kept.
        self._count = lru_cache(COUNTED_TEXTS)(self._settings.count_tokens)
        self._occasions = Occasions()
        self._counters = Counters()
        self._stopping = asyncio.Event()
        self._http = HttpServer(self._handle, host, port)
        self._routes: dict[str, tuple[str, Handler]] = {
            "/v1/chat/completions": ("POST", self._chat),
            "/v1/embeddings": ("POST", self._embed),
            _MODELS: ("GET", self._list_models),
            "/healthz": ("GET", self._health),
            "/__stats": ("GET", self._show_stats),
        }

    @property
    def url(self) -> str:
        """`http://host:port`."""
        return self._http.url

    @property
    def stats(self) -> Stats:
        """Counts so far; safe from any thread."""
        return self._counters.snapshot(len(self._http.tasks))

    async def start(self) -> None:
        """Listen."""
        await self._http.start()

    async def stop(self, grace_s: float = 0.5) -> None:
        """Release what hangs, let running answers end within `grace_s`, close every connection."""
        self._stopping.set()
        await self._http.stop(grace_s)

    async def _handle(self, http: HttpRequest) -> HttpResponse:
        """One request, counted."""
        if http.path in _UNCOUNTED:
            return await self._answered(http)
        self._counters.came(http.path if http.path in self._routes else "other")
        response = await self._answered(http)
        self._counters.answered(response.status)
        return response

    async def _answered(self, http: HttpRequest) -> HttpResponse:
        request_id = ("x-request-id", fresh_id("req_"))
        try:
            response = await self._route(http)(http)
        except ApiError as error:
            self._counters.failed(error.code)
            response = HttpResponse.of_error(error)
        except ConnectionCut:
            raise
        except Exception as error:  # a behaviour is a user's code: its defect is an answer the user can read, and a log
            logger.exception("no answer")
            text = f"{type(error).__name__} while answering: {error}"
            response = HttpResponse.of_error(ApiError(500, text, kind="server_error", code="behaviour_failed"))
        return replace(response, headers=(*response.headers, request_id))

    def _route(self, http: HttpRequest) -> Handler:
        one_model = http.path.startswith(f"{_MODELS}/")
        method, handler = self._routes.get(http.path, ("GET", self._one_model) if one_model else (None, None))
        if handler is None:
            raise ApiError(404, f"Invalid URL ({http.method} {http.path})")
        if http.method != method:
            text = f"Not allowed to {http.method} on {http.path}. (HINT: Perhaps you meant to make a {method} request?)"
            raise ApiError(405, text, code="method_not_supported", headers=(("allow", str(method)),))
        if http.path.startswith("/v1/"):
            self._check_key(http.headers.get("authorization", ""))
        return handler

    def _check_key(self, authorization: str) -> None:
        if not self._settings.api_keys:
            return
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise ApiError(401, "You didn't provide an API key. You need to provide it in an Authorization header.")
        if key.strip() not in self._settings.api_keys:
            raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")

    async def _list_models(self, http: HttpRequest) -> HttpResponse:  # noqa: ARG002 - every route takes the request
        return _json({"object": "list", "data": [_model(name) for name in self._models]})

    async def _one_model(self, http: HttpRequest) -> HttpResponse:
        name = http.path.removeprefix(f"{_MODELS}/")
        if name not in self._models:
            raise ApiError(404, f"The model '{name}' does not exist", param="model", code="model_not_found")
        return _json(_model(name))

    @property
    def _models(self) -> Sequence[str]:
        return DEFAULT_MODELS if self._settings.models is None else self._settings.models

    async def _health(self, http: HttpRequest) -> HttpResponse:  # noqa: ARG002 - every route takes the request
        return _json({"status": "ok"})

    async def _show_stats(self, http: HttpRequest) -> HttpResponse:  # noqa: ARG002 - every route takes the request
        return _json(self.stats.as_dict())

    async def _embed(self, http: HttpRequest) -> HttpResponse:
        request = parse_embeddings(parse_json(http.body), self._settings.models)
        occasion = self._occasion(request)
        fault = self._fault(http, occasion)
        if fault in ("refusal", "context_overflow"):
            fault = None
        await self._before_answer(fault, request.model)
        await _sleep(next(self._delays(occasion)))
        return self._shaped(embeddings_body(request, self._count), fault)

    async def _chat(self, http: HttpRequest) -> HttpResponse:
        conversation_id = http.headers.get("x-replay-conversation")
        request = parse_chat(parse_json(http.body), self._settings.models, conversation_id)
        occasion = self._occasion(request)
        fault = self._fault(http, occasion)
        await self._before_answer(fault, request.model)
        reply = limited(self._reply(request, fault), request.max_tokens, self._count)
        answer = Answer(request, reply, usage_of(request, reply, self._count))
        delays = self._delays(occasion)
        if request.stream:
            return HttpResponse(200, self._stream(answer, fault, delays), _SSE)
        if self._settings.speed:
            await _sleep(sum(islice(delays, max(1, answer.usage.completion))))
        return self._shaped(chat_body(answer), fault)

    def _occasion(self, request: Request | EmbeddingRequest) -> Occasion:
        self._counters.asked(request.model)
        return self._occasions.next(key_of(request))

    def _fault(self, http: HttpRequest, occasion: Occasion) -> str | None:
        return self._settings.faults.pick(occasion, http.headers.get("x-simulate-fault"))

    def _delays(self, occasion: Occasion) -> Iterator[float]:
        return self._settings.latency.delays(self._settings.seed, occasion, self._settings.speed)

    def _reply(self, request: Request, fault: str | None) -> Reply:
        if fault != "refusal":
            return self._behaviour.answer(request)
        self._counters.injected(fault)
        return REFUSAL

    async def _before_answer(self, fault: str | None, model: str) -> None:
        """Faults that come instead of an answer, or before it."""
        if fault is None:
            return
        error = fault_error(fault, model, self._settings.faults)
        if error is not None:
            self._counters.injected(fault)
            raise error
        if fault == "slow":
            self._counters.injected(fault)
            await asyncio.sleep(self._settings.faults.slow_s)
        elif fault == "hang":
            self._counters.injected(fault)
            await self._hang()

    async def _hang(self) -> None:
        """Give no answer until the client leaves (which cancels this), the server stops or the bound is reached."""
        try:
            await asyncio.wait_for(self._stopping.wait(), self._settings.faults.hang_s)
        except TimeoutError:
            logger.debug("a hanging request reached its bound")
        raise ConnectionCut

    def _shaped(self, body: bytes, fault: str | None) -> HttpResponse:
        """A whole answer, damaged where the fault says so."""
        half = len(body) // 2
        if fault == "cut":
            self._counters.injected(fault)
            return HttpResponse(200, body, (_JSON,), cut_at=half)
        if fault == "malformed":
            self._counters.injected(fault)
            body = body[:half]
        return HttpResponse(200, body, (_JSON,))

    async def _stream(self, answer: Answer, fault: str | None, delays: Iterable[float]) -> AsyncGenerator[bytes, None]:
        """The frames with a delay before each, ending half-way where the fault says so."""
        frames, tail = chat_frames(answer)
        if fault in ("cut", "malformed"):
            self._counters.injected(fault)
            frames = frames[: max(1, len(frames) // 2)]
        for frame, delay in zip(frames, delays, strict=False):
            await _sleep(delay)
            yield frame
        if fault == "cut":
            raise ConnectionCut
        if fault == "malformed":
            yield b'data: {"id": "chatcmpl-\n\n'
        yield tail


async def _sleep(delay_s: float) -> None:
    if delay_s:
        await asyncio.sleep(delay_s)


def _json(value: object) -> HttpResponse:
    return HttpResponse(200, to_json(value), (_JSON,))


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "simulator"}
