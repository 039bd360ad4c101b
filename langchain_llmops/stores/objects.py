"""Whole objects in a folder, on S3, Google Cloud Storage, Azure or in memory, by obstore."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import quote, unquote

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore
from obstore.store import MemoryStore as RawMemoryStore

from langchain_llmops.core.errors import ConfigurationError, StoreAuthError, StoreError, StoreUnavailableError
from langchain_llmops.stores.clients import settled
from langchain_llmops.stores.opened import OpenedStore
from langchain_llmops.stores.place import Place, StoreUrl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractContextManager

    from langchain_llmops.stores.base import Objects

__all__ = ["ObjectStore", "memory_objects", "open_objects"]

NAMES: Final = {"s3": "S3", "gs": "Google Cloud Storage", "az": "Azure Blob Storage"}
EXAMPLES: Final = {
    "file": "file:///absolute/folder",
    "s3": "s3://bucket/prefix?region=us-east-1",
    "gs": "gs://bucket/prefix",
    "az": "az://container/prefix?account_name=name",
}
SAFE: Final = "!'()*-._~=+,@$&; "  # survive every store as they are; the rest is percent-encoded
PROBE: Final = "llmops-ping"
PAGE_OBJECTS: Final = 1000
MAX_RETRIES: Final = 2
TRANSFER_S: Final = 60.0  # of one request with its body
# the last: nobody gave keys, so the driver asked the machine's own metadata service for some
AUTH_WORDS: Final = (" 401 ", " 403 ", "AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId", "169.254.169.254")
ABSENT_WORDS: Final = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
TRUE: Final = ("1", "true", "yes", "on")


class ObjectStore(OpenedStore):
    """The `Objects` of one bucket (and prefix) or folder."""

    def __init__(self, url: str, place: Place, objects: _Objects) -> None:
        super().__init__(url, place.setting, reach=objects.reach, close=objects.aclose, objects=objects)


class _Objects:
    """Paths are `/`-separated segments of any text, percent-encoded where a store could mangle them.

    Args:
        connect: makes obstore's store; called on first use.
        folder: where the objects are files; what is put is then flushed to the disk.
    """

    # obstore's threads do not survive a fork, and a call that needs them would wait for ever
    process: ClassVar[int | None] = None

    def __init__(self, connect: Callable[[], Any], place: Place, *, blocking: bool, folder: Path | None = None) -> None:
        self._connect = connect
        self._place = place
        self._blocking = blocking
        self._folder = folder
        self._raw: Any = None

    async def put(self, path: str, data: bytes) -> None:
        """Write a whole object; a reader sees all of it or none."""
        name = _encoded(path)
        with self._typed():
            await self._call("put", name, data)
            if self._folder is not None:
                await self._flush(self._folder / name)

    async def get(self, path: str) -> bytes | None:
        """Read a whole object; None when there is none."""
        name = _encoded(path)
        with self._typed():
            try:
                found = await self._call("get", name)
            except FileNotFoundError as error:
                if _mentions(error, ABSENT_WORDS):
                    raise
                return None
            return bytes(await settled(found.bytes() if self._blocking else found.bytes_async()))

    async def delete(self, *paths: str) -> None:
        """Remove objects, present or not."""
        names = [_encoded(path) for path in paths]
        with self._typed():
            try:
                if names:
                    await self._call("delete", names)
            except FileNotFoundError:
                for name in names:
                    await self._delete_one(name)

    async def list(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        """Paths and sizes below a prefix of whole segments, which is no object itself; the empty prefix lists all."""
        name = _encoded(prefix) if prefix else None
        with self._typed():
            pages = obstore.list(self._opened(), name, chunk_size=PAGE_OBJECTS)
        while True:
            with self._typed():
                page: Any = next(pages, None) if self._blocking else await anext(pages, None)
            if page is None:
                return
            for entry in page:
                yield unquote(entry["path"], errors="surrogateescape"), int(entry["size"])

    async def reach(self) -> None:
        """Write and delete a small object."""
        await self.put(PROBE, b"")
        await self.delete(PROBE)

    async def aclose(self) -> None:
        """Connections close by themselves when idle."""

    async def _delete_one(self, name: str) -> None:
        try:
            await self._call("delete", name)
        except FileNotFoundError as error:
            if _mentions(error, ABSENT_WORDS):
                raise

    async def _call(self, verb: str, *parts: Any) -> Any:
        function = getattr(obstore, verb if self._blocking else f"{verb}_async")
        return await settled(function(self._opened(), *parts))

    def _opened(self) -> Any:
        if _Objects.process not in (None, os.getpid()):
            text = "an object store cannot be used on both sides of a fork; use it in the children only, or spawn them"
            raise self._place.fault(StoreError, text)
        _Objects.process = os.getpid()
        if self._raw is None:
            self._raw = self._connect()
        return self._raw

    async def _flush(self, file: Path) -> None:
        if self._blocking:
            _to_disk(file)
        else:
            await asyncio.to_thread(_to_disk, file)

    def _typed(self) -> AbstractContextManager[None]:
        return self._place.typed((BaseError, OSError, ValueError), self._translated)

    def _translated(self, error: Exception) -> Exception:
        place = self._place
        if self._folder is not None:
            reason = getattr(error, "strerror", None) or _os_words(str(error)) or place.reason(error)
            text = f"cannot use the folder {place.where} ({reason}); name one you can write"
            return place.fault(ConfigurationError, text, error)
        if _mentions(error, ABSENT_WORDS):
            text = f"{place.what} at {place.where}: the bucket does not exist; create it or name another"
            return place.fault(ConfigurationError, text, error)
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or _mentions(error, AUTH_WORDS):
            text = f"{place.what} at {place.where} refused access; check the keys and what they may do"
            return place.fault(StoreAuthError, text, error)
        reason = _short(place.reason(error))
        text = f"{place.what} at {place.where} cannot be reached ({reason}); start it or correct the URL"
        return place.fault(StoreUnavailableError, text, error)


def open_objects(url: str, *, setting: str = "url", blocking: bool = False, timeout_s: float = 5.0) -> ObjectStore:
    """A store for `file:///folder`, `s3://bucket/prefix?endpoint=…`, `gs://…` or `az://…`.

    Query parameters go to obstore's configuration (`endpoint`, `region`, `access_key_id`, `secret_access_key`,
    `allow_http`, …); what is not given comes from the provider's usual environment variables.
    """
    scheme = url.partition("://")[0].lower()
    parsed = StoreUrl.parse(url, setting, EXAMPLES[scheme]) if scheme != "file" else None
    if parsed is None:
        folder = Path(unquote(url.partition("://")[2]))
        place = Place(setting, "file", str(folder))
        if not folder.is_absolute():
            raise place.fault(ConfigurationError, f"{url} names no folder; it must look like {EXAMPLES['file']}")
        objects = _Objects(lambda: _local(folder), place, blocking=blocking, folder=folder)
        return ObjectStore(url, place, objects)
    place = Place(setting, NAMES[scheme], f"{scheme}://{parsed.authority}", parsed.secrets)
    raw = _cloud(parsed, place, timeout_s)
    return ObjectStore(parsed.shown, place, _Objects(lambda: raw, place, blocking=blocking))


def memory_objects(*, setting: str = "url", blocking: bool = False) -> Objects:
    """Objects in memory."""
    raw = RawMemoryStore()
    return _Objects(lambda: raw, Place(setting, "memory", "memory"), blocking=blocking)


def _cloud(url: StoreUrl, place: Place, timeout_s: float) -> Any:
    example = EXAMPLES[url.scheme]
    if not url.authority or url.user or url.password is not None:
        text = f"{url.scheme}:// needs a bucket, as in {example}; keys are options or come from the environment"
        raise place.fault(ConfigurationError, text)
    config: Any = dict(url.options)
    client: Any = {"timeout": _duration(max(timeout_s, TRANSFER_S)), "connect_timeout": _duration(timeout_s)}
    if config.pop("allow_http", "").lower() in TRUE or config.get("endpoint", "").startswith("http://"):
        client["allow_http"] = True
    retry: Any = {"max_retries": MAX_RETRIES, "retry_timeout": _duration(timeout_s)}
    bucket = f"{url.scheme}://{url.authority}{quote(url.path)}"
    try:
        return obstore.store.from_url(bucket, config=config, client_options=client, retry_config=retry)
    except (BaseError, ValueError, TypeError) as error:  # obstore raises all three for options it cannot use
        text = f"cannot use the {url.scheme}:// URL: {_short(place.reason(error))}; as in {example}"
        fault = place.fault(ConfigurationError, text, error)
    raise fault


def _duration(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def _local(folder: Path) -> LocalStore:
    return LocalStore(folder, mkdir=True)


def _to_disk(file: Path) -> None:
    """The file and its entry in the folder: a rename alone may be lost in a power cut."""
    for path in (file, file.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _encoded(path: str) -> str:
    segments = path.split("/")
    if any(segment in ("", ".", "..") for segment in segments):
        raise StoreError(f"an object's path must be segments without empty, '.' or '..' ones, not {path[:80]!r}")
    return "/".join(quote(segment, safe=SAFE, errors="surrogatepass") for segment in segments)


def _mentions(error: Exception, words: tuple[str, ...]) -> bool:
    text = str(error)
    return any(word in text for word in words)


def _os_words(text: str) -> str:
    """From a driver's text, what the system said: "… (os error 13)"."""
    head, found, _ = text.partition(" (os error ")
    return head.rpartition(": ")[2] if found else ""


def _short(reason: str) -> str:
    """Without the structures that obstore prints after its words."""
    return reason.partition(" Debug source")[0]
