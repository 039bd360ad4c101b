"""A recorder that speaks LangSmith's ingest protocol to the real `langsmith.Client`."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import zstandard

INFO = {
    "version": "0.10.0",
    "batch_ingest_config": {
        "use_multipart_endpoint": True,
        "size_limit": 100,
        "size_limit_bytes": 20_971_520,
        "scale_up_qsize_trigger": 1000,
        "scale_up_nthreads_limit": 4,
        "scale_down_nempty_trigger": 4,
    },
    "instance_flags": {"zstd_compression_enabled": True, "dataset_examples_multipart_enabled": True},
}


class Recorder:
    """Runs by id, merged from posts and patches in any order."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.runs: dict[str, dict] = {}
        self.encodings: set[str] = set()
        self.problems: list[str] = []
        self._lock = threading.Lock()

    def of_type(self, run_type: str) -> list[dict]:
        return [run for run in self.runs.values() if run.get("run_type") == run_type]

    def merge(self, run_id: str, fields: dict) -> None:
        with self._lock:
            run = self.runs.setdefault(run_id, {"id": run_id})
            for key, value in fields.items():
                if value is not None:
                    run[key] = value

    def take_part(self, name: str, data: bytes) -> None:
        operation, run_id, *field = name.split(".", 2)
        if operation not in ("post", "patch"):
            self.problems.append(f"unexpected part {name}")
            return
        value = json.loads(data)
        self.merge(run_id, {field[0]: value} if field else value)


def metadata_of(run: dict) -> dict:
    return (run.get("extra") or {}).get("metadata") or {}


@contextmanager
def langsmith_recorder():
    """A recorder on a free port of the loopback, for as long as the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.recorder = Recorder(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.recorder
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(INFO if self.path == "/info" else {})

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/runs/multipart":
            self._multipart(body)
        elif self.path == "/runs/batch":
            batch = json.loads(body)
            for run in [*batch.get("post", []), *batch.get("patch", [])]:
                self.server.recorder.merge(run["id"], run)
        elif self.path == "/runs":
            run = json.loads(body)
            self.server.recorder.merge(run["id"], run)
        else:
            self.server.recorder.problems.append(f"unexpected POST {self.path}")
        self._answer({}, 202)

    def do_PATCH(self) -> None:
        self.server.recorder.merge(self.path.rsplit("/", 1)[-1], json.loads(self._body()))
        self._answer({}, 202)

    def log_message(self, *args) -> None:
        """Tests read their output."""

    def _multipart(self, body: bytes) -> None:
        header = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        for part in message_from_bytes(header + body).get_payload():
            name = part.get_param("name", header="content-disposition")
            self.server.recorder.take_part(name, part.get_payload(decode=True))

    def _body(self) -> bytes:
        body = self._chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self._sized()
        encoding = self.headers.get("Content-Encoding", "identity")
        self.server.recorder.encodings.add(encoding)
        return zstandard.ZstdDecompressor().decompressobj().decompress(body) if encoding == "zstd" else body

    def _sized(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _chunks(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _answer(self, value: dict, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
