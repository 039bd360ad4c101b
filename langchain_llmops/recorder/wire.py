"""A request of a LangSmith client as JSON or as parts: decompressed within bounds, and refused in one line."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import zstandard

from langchain_llmops.core.errors import LLMOpsError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Part", "RefusedRequestError", "json_of", "parts_of", "plain"]

BOUNDARY: Final = re.compile(r'boundary="?([^";,]+)"?', re.IGNORECASE)
PART_NAME: Final = re.compile(rb'content-disposition:[^\r\n]*[; ]name="([^"\r\n]*)"', re.IGNORECASE)
PART_TYPE: Final = re.compile(rb"content-type:[ \t]*([^\r\n;]*)", re.IGNORECASE)
BROKEN: Final = (zstandard.ZstdError, zlib.error, EOFError, OSError)


class RefusedRequestError(LLMOpsError):
    """A request that cannot be taken; the message is the one line that the client is told."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


class Part(NamedTuple):
    """One part of a multipart body."""

    name: str
    content_type: str
    data: bytes


def plain(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body without its Content-Encoding; never holds more than `max_bytes` + 1 of what it unpacks to."""
    try:
        data = _reader(io.BytesIO(body), encoding)(max_bytes + 1)
    except BROKEN as error:
        raise RefusedRequestError(400, f"the body is no whole {encoding} stream") from error
    if len(data) > max_bytes:
        raise RefusedRequestError(413, f"the body is larger than {max_bytes} bytes when unpacked; send smaller batches")
    return data


def parts_of(body: bytes, content_type: str) -> list[Part]:
    """The parts of a multipart body (RFC 2046); one that does not end is refused as a whole."""
    found = BOUNDARY.search(content_type)
    if found is None:
        raise RefusedRequestError(400, "Content-Type must be multipart/form-data with a boundary")
    mark = b"--" + found[1].strip().encode("latin-1", "replace")
    parts = list[Part]()
    at = 0 if body.startswith(mark) else body.find(b"\r\n" + mark) + 2
    if not body.startswith(mark, at):
        raise RefusedRequestError(400, "the multipart body has no first boundary")
    while not body.startswith(mark + b"--", at):
        start = at + len(mark) + 2
        head, end = body.find(b"\r\n\r\n", start), body.find(b"\r\n" + mark, start)
        if not 0 <= head < end:
            raise RefusedRequestError(400, f"the multipart body ends within part {len(parts) + 1}")
        name, kind = PART_NAME.search(body, start, head), PART_TYPE.search(body, start, head)
        if name is None:
            raise RefusedRequestError(400, f"part {len(parts) + 1} of the multipart body has no name")
        content_type = kind[1].decode("latin-1").strip() if kind else ""
        parts.append(Part(name[1].decode("utf-8", "replace"), content_type, body[head + 4 : end]))
        at = end + 2
    return parts


def json_of(data: bytes, what: str) -> Any:
    """Parsed JSON; `what` names it in the refusal."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RefusedRequestError(422, f"{what} is not JSON that can be read") from error


def _reader(packed: io.BytesIO, encoding: str) -> Callable[[int], bytes]:
    match encoding:
        case "" | "identity":
            return packed.read
        case "zstd":
            return zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True).read
        case "gzip":
            return gzip.GzipFile(fileobj=packed).read
    raise RefusedRequestError(415, f"Content-Encoding {encoding[:40]!r} is not known; use zstd, gzip or none")
