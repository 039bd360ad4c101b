"""Runs and requests as a LangSmith client sends them."""

from __future__ import annotations

import gzip
import json
from uuid import uuid4

import zstandard

BOUNDARY = "b0undary"


def uuid() -> str:
    return str(uuid4())


def run(**fields) -> dict:
    """A posted root run, with `fields` changed."""
    run_id = fields.pop("id", None) or uuid()
    base = {
        "id": run_id,
        "trace_id": run_id,
        "dotted_order": f"20261121T100000000000Z{run_id}",
        "session_name": "tests",
        "name": "root",
        "run_type": "chain",
        "start_time": "2026-11-21T10:00:00.000000+00:00",
        "inputs": {"input": "hello"},
        "extra": {"metadata": {}},
    }
    return base | fields


def child(parent: dict, order: int = 1, **fields) -> dict:
    run_id = uuid()
    at = f"20261121T1000{order:02d}000000Z{run_id}"
    base = {
        "id": run_id,
        "trace_id": parent["trace_id"],
        "parent_run_id": parent["id"],
        "dotted_order": f"{parent['dotted_order']}.{at}",
        "start_time": f"2026-11-21T10:00:{order:02d}.000000+00:00",
    }
    return run(**{**base, **fields})


def spent(tokens: int, cost: float | None = None, **metadata) -> dict:
    """The `extra` of a model run."""
    usage = {"input_tokens": tokens - 1, "output_tokens": 1, "total_tokens": tokens}
    return {"metadata": {"usage_metadata": usage | ({} if cost is None else {"total_cost": cost}), **metadata}}


def multipart(*parts: tuple[str, object]) -> bytes:
    """A body of `(name, value)` parts; bytes go as they are, anything else as JSON."""
    body = b""
    for name, value in parts:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\nContent-Type: application/json\r\n'
        body += head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


PACKED = {"identity": bytes, "gzip": gzip.compress, "zstd": zstandard.compress}


def send(http, body: bytes, encoding: str = "identity"):
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Encoding": encoding}
    return http.post("/runs/multipart", content=PACKED[encoding](body), headers=headers)
