"""Many clients on one saver at once, half of them async and half sync, until told to stop."""

from __future__ import annotations

import asyncio
import traceback
from typing import TYPE_CHECKING

from tests.support.checkpoints import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from tests.support.acknowledged import Ledger
    from tests.support.talking import Client

__all__ = ["ALL", "CALM", "Load"]

ALL = {"turn": 60, "child": 8, "read": 10, "history": 2, "early": 5, "archive": 6, "copy": 2, "prune": 3, "delete": 2}
CALM = {"turn": 70, "child": 10, "read": 15, "early": 5}  # content is only added
ERROR_PAUSE_S = 0.02


class Load:
    """Clients that each talk on threads of their own.

    Args:
        client: makes the client of a colour.
        may_raise: errors that a fault may cause; any other is noted as wrong.
        mix: how often a client does what.
    """

    def __init__(
        self,
        client: Callable[[str], Client],
        ledger: Ledger,
        clients: int = 64,
        *,
        prefix: str = "c",
        may_raise: tuple[type[Exception], ...] = (),
        mix: dict[str, int] = ALL,
    ) -> None:
        self._clients = [client("sync" if number % 8 == 7 else "async") for number in range(clients)]
        self._ledger = ledger
        self._prefix = prefix
        self._may_raise = may_raise
        self._mix = mix
        self._going = True
        self._tasks: list[asyncio.Task[None]] = []
        self._copies = 0
        self.errors = 0

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._talk(client, n)) for n, client in enumerate(self._clients)]
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._going = False
        await asyncio.gather(*self._tasks)

    async def passed(self, more: int) -> None:
        """Until so many more operations were acknowledged."""
        goal = self._ledger.acknowledged + more
        await until(lambda: self._ledger.acknowledged >= goal or all(task.done() for task in self._tasks))

    async def failed(self) -> None:
        """Until some operation has raised."""
        goal = self.errors + 1
        await until(lambda: self.errors >= goal)

    async def _talk(self, client: Client, number: int) -> None:
        while self._going:
            thread = f"{self._prefix}{number}-{client.draw.randrange(2)}"
            (what,) = client.draw.choices(list(self._mix), list(self._mix.values()))
            try:
                await self._act(client, thread, what)
            except Exception as error:
                self.errors += 1
                if not isinstance(error, self._may_raise):
                    at = "".join(traceback.format_tb(error.__traceback__)[-2:])
                    self._ledger.wrong(f"{what} on {thread} raised {type(error).__name__}: {error} {at}")
                await asyncio.sleep(ERROR_PAUSE_S)

    async def _act(self, client: Client, thread: str, what: str) -> None:
        match what:
            case "turn":
                await client.turn(thread)
            case "child":
                await client.turn(thread, "child:1")
            case "read":
                await client.read(thread)
            case "history":
                await client.history(thread)
            case "early":
                await client.early(thread)
            case "archive":
                await client.call("archive", thread)
            case "copy":
                self._copies += 1
                await client.copy(thread, f"{thread}-copy{self._copies}")
            case "prune":
                await client.prune(thread)
            case "delete":
                await client.delete(thread)
