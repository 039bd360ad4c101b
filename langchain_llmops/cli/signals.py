"""How commands end: servers when they are told to, everything else with what it has buffered written."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

__all__ = ["end_on_sigterm", "until_signalled"]

LOOK_EVERY_S: Final = 0.25
TERMINATED: Final = 143


def end_on_sigterm() -> None:
    """SIGTERM leaves by way of every `with`, so that ledgers are flushed and files are whole."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _leave)


def until_signalled(say: Callable[[], object]) -> None:
    """`say` that we listen, once a signal would be heeded, and wait for SIGINT or SIGTERM."""
    with _signals() as stop:
        say()
        while not stop.wait(LOOK_EVERY_S):  # a bounded wait: an endless one would not see Ctrl-C on Windows
            pass


@contextmanager
def _signals() -> Iterator[threading.Event]:
    stop = threading.Event()
    before = {name: signal.signal(name, lambda *_: stop.set()) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _leave(*_: object) -> NoReturn:
    sys.exit(TERMINATED)
