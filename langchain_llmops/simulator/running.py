"""The simulator on a thread of its own, for sync and async code alike."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from langchain_llmops.simulator.faults import FaultPlan
from langchain_llmops.simulator.latency import Latency
from langchain_llmops.simulator.server import ServerSettings, SimulatorServer
from langchain_llmops.simulator.tokens import default_count
from langchain_llmops.simulator.types import DEFAULT_MODELS, SimulatorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from langchain_llmops.simulator.behaviours import Behaviour
    from langchain_llmops.simulator.stats import Stats

__all__ = ["RunningSimulator", "Service", "on_thread", "running"]


class Service(Protocol):
    """Something that runs on an event loop between `start` and `stop`."""

    async def start(self) -> None:
        """Begin to serve."""
        ...

    async def stop(self) -> None:
        """End, leaving nothing behind."""
        ...


@dataclass(frozen=True, slots=True)
class RunningSimulator:
    """A simulator that listens."""

    server: SimulatorServer

    @property
    def url(self) -> str:
        """`http://host:port`."""
        return self.server.url

    @property
    def base_url(self) -> str:
        """What clients take as `base_url`: `http://host:port/v1`."""
        return f"{self.server.url}/v1"

    @property
    def stats(self) -> Stats:
        """Counts so far; still there after the end."""
        return self.server.stats


@contextmanager
def running(
    behaviour: Behaviour | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    count_tokens: Callable[[str], int] = default_count,
    faults: FaultPlan | None = None,
    latency: Latency | None = None,
    speed: float | None = None,
    seed: int = 0,
    models: Sequence[str] | None = DEFAULT_MODELS,
    api_keys: Iterable[str] = (),
) -> Iterator[RunningSimulator]:
    """Run a simulator for the length of a `with` block; `behaviour` None echoes.

    `speed` multiplies the delays of `latency`; it is 1 when a latency is given and 0 (no delays) otherwise.
    `models` None accepts any model name, `api_keys` empty accepts any key.

    Raises:
        SimulatorError: the address cannot be listened on, or `speed` is negative.
    """
    pace = (0.0 if latency is None else 1.0) if speed is None else speed
    if not pace >= 0:
        raise SimulatorError(f"speed must be at least 0, not {speed}")
    settings = ServerSettings(
        count_tokens=count_tokens,
        faults=faults or FaultPlan(),
        latency=latency or Latency(),
        speed=pace,
        seed=seed,
        models=models,
        api_keys=frozenset(api_keys),
    )
    server = SimulatorServer(behaviour, settings, host=host, port=port)
    with on_thread(server, "simulator"):
        yield RunningSimulator(server)


_Stop = tuple[asyncio.AbstractEventLoop, asyncio.Event]


@contextmanager
def on_thread(service: Service, name: str) -> Iterator[None]:
    """Run a service on a daemon thread with its own loop; errors of its start and its stop are raised here."""
    started: Future[_Stop] = Future()
    ended: Future[None] = Future()
    thread = threading.Thread(target=_run, args=(service, started, ended), name=name, daemon=True)
    thread.start()
    loop, stop = started.result()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        ended.result()


def _run(service: Service, started: Future[_Stop], ended: Future[None]) -> None:
    try:
        asyncio.run(_serve(service, started))
    except BaseException as error:  # noqa: BLE001 - handed to the thread that waits, which raises it
        (ended if started.done() else started).set_exception(error)
    else:
        ended.set_result(None)


async def _serve(service: Service, started: Future[_Stop]) -> None:
    await service.start()
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    started.set_result((loop, stop))
    await stop.wait()
    await service.stop()
