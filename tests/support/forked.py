"""Client processes by fork: one process imports everything once, and every client is a child of it.

Usage of the process: `python -m tests.support.forked MODULE:FUNCTION`, then lines of JSON on its input: an object is a
plan for a new child that calls the function with it, a number is a child to wait for. Each is answered by one line.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Child", "Forge", "forge"]

ROOT = Path(__file__).resolve().parents[2]
FAILED = 70


class Child:
    """One client process."""

    def __init__(self, made_by: Forge, pid: int) -> None:
        self._made_by = made_by
        self.pid = pid
        self.code: int | None = None

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> int:
        self.send(signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        """Its exit code, negative for the signal that ended it."""
        if self.code is None:
            self.code = self._made_by.ask(self.pid)
        return self.code

    def stacks(self) -> str:
        """What each of its threads does, for one that should have ended."""
        before = len(self._made_by.said())
        self.send(signal.SIGUSR1)
        with contextlib.suppress(RuntimeError):
            wait_until(lambda: len(self._made_by.said()) > before, "the stacks", 5.0)
        return self._made_by.said()

    @property
    def state(self) -> str:
        """As in /proc: T is stopped, Z has ended; empty when there is none."""
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return ""


class Forge:
    """Starts clients; what they say on their error stream goes to `errors`."""

    def __init__(self, process: subprocess.Popen, errors: Path) -> None:
        self._process = process
        self._errors = errors
        self._lock = threading.Lock()
        self._children: list[Child] = []

    def start(self, **plan: Any) -> Child:
        child = Child(self, self.ask(plan))
        self._children.append(child)
        return child

    def run(self, **plan: Any) -> int:
        """A client from its begin to its end; its exit code."""
        return self.start(**plan).wait()

    def ask(self, question: Any) -> int:
        with self._lock:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the forge of clients has ended: {self.said()}")
        return int(answer)

    def said(self) -> str:
        return self._errors.read_text()[-20_000:]

    def end(self) -> None:
        for child in self._children:
            if child.code is None:
                child.send(signal.SIGCONT)
                child.kill()
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@contextlib.contextmanager
def forge(function: str, folder: Path) -> Iterator[Forge]:
    """A process that has imported what `MODULE:FUNCTION` needs, and makes clients of it."""
    errors = folder / "clients.err"
    with errors.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forked", function],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
        )
    made = Forge(process, errors)
    try:
        yield made
    finally:
        made.end()


def main(function: str) -> None:
    module, _, name = function.partition(":")
    call = getattr(import_module(module), name)
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        answer = _child(call, asked) if isinstance(asked, dict) else _ended(asked)
        sys.stdout.buffer.write(f"{answer}\n".encode())
        sys.stdout.buffer.flush()


def _child(call: Callable[..., None], plan: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = FAILED
    try:
        for descriptor in (0, 1):
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        call(**plan)
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(code)


def _ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main(sys.argv[1])
