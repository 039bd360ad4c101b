"""Files of recorded conversations: JSON lines `{conversation_id, messages: [OpenAI messages], …}`, `.gz` or plain."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from langchain_llmops.simulator.messages import check_message
from langchain_llmops.simulator.types import ApiError, Message, SimulatorError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

__all__ = ["Recording", "read_recordings", "write_recordings"]


@dataclass(frozen=True, slots=True)
class Recording:
    """One conversation, whole."""

    conversation_id: str
    messages: tuple[Message, ...]


def read_recordings(path: str | Path) -> list[Recording]:
    """Every conversation of the file.

    Raises:
        SimulatorError: unreadable, malformed, empty, or an id that stands twice; names the file and the line.
    """
    recordings: dict[str, Recording] = {}
    number = 0
    try:
        with _open(Path(path), "rb") as lines:
            for number, line in enumerate(lines, start=1):  # noqa: B007 - the error below names the line
                if line.strip():
                    recording = _parse(line, recordings)
                    recordings[recording.conversation_id] = recording
    except _LineError as error:
        raise SimulatorError(f"{path}, line {number}: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise SimulatorError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not recordings:
        raise SimulatorError(f"{path}: holds no conversation")
    return list(recordings.values())


def write_recordings(path: str | Path, recordings: Iterable[Recording]) -> None:
    """Write the file whole or not at all: to a temporary neighbour first, then renamed over it.

    Raises:
        SimulatorError: the folder cannot be written.
    """
    target = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix)
        try:
            with os.fdopen(handle, "wb") as file:
                _write_lines(file, target, recordings)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(target)
        except BaseException:  # interrupted, too: no temporary file stays
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SimulatorError(f"{path}: cannot be written: {error.strerror or error}") from error


class _LineError(Exception):
    """What is wrong with one line."""


def _open(path: Path, mode: str) -> IO[bytes]:
    return gzip.open(path, mode) if path.suffix == ".gz" else path.open(mode)  # type: ignore[return-value] # binary modes only


def _parse(line: bytes, others: Container[str]) -> Recording:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _LineError(f"is not JSON: {error}") from error
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list) or not value["messages"]:
        raise _LineError("needs an object with `conversation_id` and a list `messages`")
    if not isinstance(value.get("conversation_id"), str) or not value["conversation_id"]:
        raise _LineError("needs a `conversation_id` that is text")
    if value["conversation_id"] in others:
        raise _LineError(f"conversation_id {value['conversation_id']!r} stands twice")
    try:
        messages = tuple(check_message(m, f"messages[{i}]") for i, m in enumerate(value["messages"]))
    except ApiError as error:
        raise _LineError(str(error)) from error
    return Recording(value["conversation_id"], messages)


def _write_lines(file: IO[bytes], target: Path, recordings: Iterable[Recording]) -> None:
    lines = (
        json.dumps({"conversation_id": one.conversation_id, "messages": one.messages}).encode() + b"\n"
        for one in recordings
    )
    if target.suffix == ".gz":
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
            packed.writelines(lines)
    else:
        file.writelines(lines)
