"""Whole objects on disk, S3, Google Cloud Storage, Azure or in memory, by obstore."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore
from obstore.store import MemoryStore as RawMemoryStore

from langchain_llmops.core.errors import ConfigurationError, StoreAuthError, StoreError, StoreUnavailableError
from langchain_llmops.core.redaction import redact, redact_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from langchain_llmops.stores.base import KeyValue, Objects, Sql

__all__ = ["ObjectStore", "memory_objects", "open_objects"]

SAFE: Final = "!'()*-._~=+,@$&;: "
# a status as a word of its own: a port may hold the same digits
AUTH_WORDS: Final = re.compile(r"\b40[13]\b|Forbidden|SignatureDoesNotMatch|InvalidAccessKeyId|AccessDenied")
ABSENT_BUCKET: Final = "NoSuchBucket"


class ObjectStore:
    """The `Objects` of one bucket (and prefix) or folder."""

    def __init__(self, url: str, objects: _Objects) -> None:
        self.url = url
        self._objects = objects

    def __repr__(self) -> str:
        return f"ObjectStore({self.url!r})"

    @property
    def objects(self) -> Objects:
        """The bucket."""
        return self._objects

    @property
    def kv(self) -> KeyValue:
        """Not here."""
        raise ConfigurationError(f"{_scheme(self.url)}:// keeps objects only; use redis://, sqlite:// or postgresql://")

    @property
    def sql(self) -> Sql:
        """Not here."""
        raise ConfigurationError(f"{_scheme(self.url)}:// keeps objects only; use sqlite:// or postgresql://")

    async def ping(self) -> float:
        """Write and delete a small object; seconds."""
        began = time.perf_counter()
        await self._objects.put("llmops-ping", b"ping")
        await self._objects.delete("llmops-ping")
        return time.perf_counter() - began

    async def aclose(self) -> None:
        """Connections close by themselves when idle."""


class _Objects:
    """Paths are `/`-separated segments of any text; what a store could mangle is percent-encoded in it."""

    def __init__(self, raw: Any, *, setting: str, blocking: bool) -> None:
        self._raw = raw
        self._setting = setting
        self._blocking = blocking

    async def put(self, path: str, data: bytes) -> None:
        """Write a whole object."""
        with self._typed():
            if self._blocking:
                obstore.put(self._raw, _encoded(path), data)
            else:
                await obstore.put_async(self._raw, _encoded(path), data)

    async def get(self, path: str) -> bytes | None:
        """Read a whole object; None when there is none."""
        try:
            with self._typed():
                if self._blocking:
                    return bytes(obstore.get(self._raw, _encoded(path)).bytes())
                return bytes(await (await obstore.get_async(self._raw, _encoded(path))).bytes_async())
        except FileNotFoundError:
            return None

    async def delete(self, *paths: str) -> None:
        """Remove objects, present or not."""
        for path in paths:
            try:
                with self._typed():
                    if self._blocking:
                        obstore.delete(self._raw, _encoded(path))
                    else:
                        await obstore.delete_async(self._raw, _encoded(path))
            except FileNotFoundError:
                continue

    async def list(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        """Paths and sizes below a prefix of whole segments; the empty prefix lists everything."""
        pages = obstore.list(self._raw, _encoded(prefix) if prefix else None, chunk_size=1000)
        while True:
            with self._typed():
                page: Any = _next(pages) if self._blocking else await _anext(pages)
            if page is None:
                return
            for entry in page:
                yield unquote(entry["path"]), int(entry["size"])

    @contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if ABSENT_BUCKET in str(error):
                self._no_bucket()
            raise
        except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
            raise StoreAuthError(
                f"{self._setting}: the object store refused access; check the keys and the bucket"
            ) from _safe(error)
        except (BaseError, OSError) as error:
            self._raise(error)

    def _raise(self, error: Exception) -> NoReturn:
        text = str(error)
        if ABSENT_BUCKET in text:
            self._no_bucket()
        if AUTH_WORDS.search(text):
            raise StoreAuthError(
                f"{self._setting}: the object store refused access; check the keys and the bucket"
            ) from _safe(error)
        first = redact(" ".join(text.split())[:200])
        raise StoreUnavailableError(f"{self._setting}: the object store failed: {first}") from _safe(error)

    def _no_bucket(self) -> NoReturn:
        raise ConfigurationError(f"{self._setting}: the bucket does not exist; create it or name another")


def open_objects(url: str, *, setting: str, blocking: bool, timeout_s: float) -> ObjectStore:
    """A store for `file:///folder`, `s3://bucket/prefix?endpoint=…`, `gs://…` or `az://…`.

    Query parameters go to obstore's configuration (`endpoint`, `region`, `access_key_id`, `secret_access_key`,
    `allow_http`, …); what is not given comes from the provider's usual environment variables.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return ObjectStore(url, _Objects(_folder(unquote(parts.path), setting), setting=setting, blocking=blocking))
    if not parts.netloc:
        raise ConfigurationError(f"{setting}: {parts.scheme}:// needs a bucket, as in {parts.scheme}://bucket/prefix")
    raw = _cloud(url, setting, timeout_s)
    return ObjectStore(redact_url(url), _Objects(raw, setting=setting, blocking=blocking))


def memory_objects(*, blocking: bool) -> Objects:
    """Objects in memory."""
    return _Objects(RawMemoryStore(), setting="url", blocking=blocking)


def _cloud(url: str, setting: str, timeout_s: float) -> Any:
    parts = urlsplit(url)
    config: Any = dict(parse_qsl(parts.query, keep_blank_values=True))
    client: Any = {"timeout": f"{timeout_s}s", "connect_timeout": f"{timeout_s}s"}
    if config.pop("allow_http", "").lower() in ("1", "true", "yes") or config.get("endpoint", "").startswith("http://"):
        client["allow_http"] = True
    retry: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=timeout_s)}
    try:
        return obstore.store.from_url(
            f"{parts.scheme}://{parts.netloc}{parts.path}",
            config=config or None,
            client_options=client,
            retry_config=retry,
        )
    except (BaseError, ValueError, TypeError) as error:
        first = redact(" ".join(str(error).split())[:200])
        raise ConfigurationError(f"{setting}: cannot use {redact_url(url)}: {first}") from _safe(error)


def _folder(path: str, setting: str) -> LocalStore:
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        return LocalStore(path, automatic_cleanup=False)
    except (OSError, BaseError) as error:
        raise ConfigurationError(
            f"{setting}: cannot use folder {path} ({getattr(error, 'strerror', None) or error}); name one you can write"
        ) from error


def _encoded(path: str) -> str:
    segments = path.split("/")
    if not path or any(segment in ("", ".", "..") for segment in segments):
        raise StoreError(f"an object's path must be segments without empty, '.' or '..' ones, not {path[:80]!r}")
    return "/".join(quote(segment, safe=SAFE) for segment in segments)


def _next(pages: Any) -> Any:
    return next(iter(pages), None)


async def _anext(pages: Any) -> Any:
    return await anext(aiter(pages), None)


def _safe(error: Exception) -> Exception | None:
    """The driver's error as a cause, unless its text could carry a secret."""
    return error if redact(str(error)) == str(error) else None


def _scheme(url: str) -> str:
    return urlsplit(url).scheme
