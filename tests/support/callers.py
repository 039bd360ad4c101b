"""A store of one colour and what runs its coroutines."""

from __future__ import annotations

import asyncio
import threading

from langchain_llmops.core.concurrency import drive
from langchain_llmops.stores.base import open_store


class Caller:
    """Opens a store; closes it with the block."""

    def __init__(self, url: str, *, blocking: bool, timeout_s: float = 5.0) -> None:
        self.store = open_store(url, setting="LLMOPS_TEST_URL", blocking=blocking, timeout_s=timeout_s)
        self._runner = None if blocking else asyncio.Runner()

    def run(self, coroutine):
        return drive(coroutine) if self._runner is None else self._runner.run(coroutine)

    def let_see(self) -> None:
        """A loop that was not running has not seen yet that its sockets were closed."""
        if self._runner is not None:
            for _ in range(5):
                self._runner.run(asyncio.sleep(0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.run(self.store.aclose())
        if self._runner is not None:
            self._runner.close()


def at_last(call, deadline_s: float = 60.0):
    """The result of a call that might hang, or its error."""
    ended = []

    def work() -> None:
        try:
            ended.append((call(), None))
        except BaseException as error:
            ended.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(deadline_s)
    assert ended, f"hung for {deadline_s} s"
    (result, error), *_ = ended
    if error is not None:
        raise error
    return result
