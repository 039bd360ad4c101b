"""Values as sealed bytes, each bound to the place it was sealed for."""

from __future__ import annotations

import copy
import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langchain_llmops.checkpoint.names import Place, named, stored_name, text
from langchain_llmops.checkpoint.nodes import HASH_BYTES
from langchain_llmops.core.errors import EnvelopeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langchain_llmops.checkpoint.schema import Step
    from langchain_llmops.core.envelope import Envelope

__all__ = ["Codec", "readable"]


@contextmanager
def readable() -> Iterator[None]:
    """What is stored in another shape than ours is an `EnvelopeError`."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, NotImplementedError, RecursionError) as error:
        raise EnvelopeError(
            f"a stored value cannot be read back: it is damaged, forged or of a newer library ({type(error).__name__})"
        ) from error


class Codec:
    """Seals what is stored; encrypted bytes open only at the place they were sealed for.

    All but channel values is packed with LangGraph's strict serializer, whatever the user's own one is.

    Args:
        secret: the key that encrypts, where one does; it makes the names of chunks unguessable.
        user_key: id and bytes of a user's own key, which then seals all of their threads.
    """

    def __init__(
        self,
        envelope: Envelope,
        tenant: str,
        secret: bytes = b"",
        user_key: Callable[[bytes], tuple[str, bytes]] | None = None,
    ) -> None:
        self._envelope = envelope
        self._user_key = user_key
        self._encrypts = bool(secret)
        self._strict = JsonPlusSerializer(allowed_msgpack_modules=None)
        self.hash_key = _hash_key(secret, text(tenant))

    def of(self, owner: bytes | None) -> Codec:
        """The codec that seals a user's threads; every codec opens them.

        With keys of users it may wait for the database, unless the key was made ready before.
        """
        if owner is None or self._user_key is None:
            return self
        key_id, key = self._user_key(owner)
        made = copy.copy(self)
        made._envelope = self._envelope.sealing_with(key_id, key)  # noqa: SLF001 - a copy of this one
        made.hash_key = _hash_key(key, owner)
        return made

    def pack(self, value: Any) -> bytes:
        """Plain values as msgpack."""
        kind, data = self._strict.dumps_typed(value)
        return data if kind == "msgpack" else kind.encode()

    def unpack(self, data: bytes) -> Any:
        """What `pack` packed; raises `EnvelopeError` on anything else."""
        with readable():
            return self._strict.loads_typed(("msgpack", data))

    def plain(self, value: Any) -> Any:
        """The value as it would come back, with lists for tuples."""
        return self._strict.loads_typed(self._strict.dumps_typed(value))

    def name_of(self, chunk: bytes) -> bytes:
        """The name of a chunk: its keyed hash."""
        return hashlib.blake2b(chunk, digest_size=HASH_BYTES, key=self.hash_key).digest()

    # one kind of stored bytes each; the words are part of what an encrypted value is bound to

    def seal_label(self, thread: bytes, label: Any) -> bytes:
        """A thread's names: its tenant's digest and its id."""
        tenant, thread_id = label
        return self._envelope.seal(self.pack([tenant, stored_name(thread_id)]), b"label" + thread)

    def open_label(self, thread: bytes, stored: bytes) -> Any:
        """What `seal_label` sealed."""
        tenant, thread_id = self.unpack(self._envelope.open(stored, b"label" + thread))
        return [tenant, named(thread_id)]

    def place_of(self, thread: bytes, label: bytes) -> Place:
        """Where rows come from, at the root namespace; a thread's id is in its label."""
        _, thread_id = self.open_label(thread, label)
        return Place(thread_id, thread, "", b"")

    def seal_chunk(self, thread: bytes, name: bytes, chunk: bytes) -> bytes:
        """A chunk of a thread."""
        return self._envelope.seal(chunk, b"chunk" + thread + name)

    def open_chunk(self, thread: bytes, name: bytes, stored: bytes) -> bytes:
        """The chunk of that name; raises `EnvelopeError` on any other."""
        chunk = self._envelope.open(stored, b"chunk" + thread + name)
        if not self._encrypts and self.name_of(chunk) != name:  # else the name is authenticated with the bytes
            raise EnvelopeError("stored bytes are not those of their name (damaged, forged or moved)")
        return chunk

    def seal_step(self, thread: bytes, step: Step) -> Step:
        """A checkpoint whose metadata and manifest are open; they are bound to its parent, too."""
        metadata = self._envelope.seal(step.metadata, _step(b"metadata", thread, step))
        return step._replace(metadata=metadata, body=self.seal_body(thread, step))

    def seal_body(self, thread: bytes, step: Step) -> bytes:
        """A checkpoint's manifest alone."""
        return self._envelope.seal(step.body, _step(b"body", thread, step))

    def open_step(self, thread: bytes, step: Step) -> Step:
        """What `seal_step` sealed."""
        return step._replace(metadata=self.open_metadata(thread, step), body=self.open_body(thread, step))

    def open_metadata(self, thread: bytes, step: Step) -> bytes:
        """A checkpoint's metadata alone."""
        return self._envelope.open(step.metadata, _step(b"metadata", thread, step))

    def told(self, thread: bytes, step: Step) -> tuple[str, dict[str, Any]]:
        """A checkpoint's namespace and metadata."""
        namespace, metadata = self.unpack(self.open_metadata(thread, step))
        return named(namespace), metadata

    def open_body(self, thread: bytes, step: Step) -> bytes:
        """A checkpoint's manifest alone."""
        return self._envelope.open(step.body, _step(b"body", thread, step))

    def seal_write(self, place: Place, checkpoint_id: bytes, task: bytes, idx: int, body: Any) -> bytes:
        """A task's pending write."""
        return self._envelope.seal(self.pack(body), _write(place.thread, place.ns, checkpoint_id, task, idx))

    def open_write(self, thread: bytes, ns: bytes, checkpoint_id: bytes, task: bytes, idx: int, stored: bytes) -> Any:
        """What `seal_write` sealed."""
        return self.unpack(self._envelope.open(stored, _write(thread, ns, checkpoint_id, task, idx)))

    def seal_object(self, context: bytes, data: bytes, *, level: int | None = None) -> bytes:
        """An archive's object, or a hot copy's record; `level` is of compression."""
        return self._envelope.seal(data, b"object" + context, level=level)

    def open_object(self, context: bytes, stored: bytes) -> bytes:
        """What `seal_object` sealed."""
        return self._envelope.open(stored, b"object" + context)


def _hash_key(secret: bytes, scope: bytes) -> bytes:
    return hashlib.blake2b(scope, key=secret[:64], digest_size=32, person=b"llmops chunk").digest()


def _step(kind: bytes, thread: bytes, step: Step) -> bytes:
    parent = b"" if step.parent is None else b"\1" + step.parent
    sizes = bytes((len(step.ns),)) + len(step.id).to_bytes(2)
    return b"step" + kind + sizes + thread + step.ns + step.id + parent


def _write(thread: bytes, ns: bytes, checkpoint_id: bytes, task: bytes, idx: int) -> bytes:
    return b"write" + thread + bytes((len(ns),)) + ns + task + idx.to_bytes(8, signed=True) + checkpoint_id
