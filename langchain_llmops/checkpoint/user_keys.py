"""A key for each user, so that to destroy it is to erase what it sealed wherever a copy of that is.

Keys are random, and stored sealed by the tenant's key: in the warm tier, or in a database of their own, so that a
backup of the warm tier does not hold them. A process holds a key for up to `CACHED_S` after it was read; an erased user
may start anew only later than that, so nothing is sealed with a destroyed key.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from langchain_llmops.checkpoint.apply import ERASED
from langchain_llmops.checkpoint.schema import USER_KEYS
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.envelope import Envelope
from langchain_llmops.core.errors import CheckpointError, UserErased
from langchain_llmops.stores.base import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_llmops.checkpoint.options import Options
    from langchain_llmops.checkpoint.warm import Warm
    from langchain_llmops.stores.base import Sql, Store

__all__ = ["CACHED_S", "UserKeys", "destroy", "key_ids", "user_keys_of"]

CACHED_S: Final = 300.0
USED_S: Final = 60.0  # how long what is ready may be used, so that nobody asks for a key within a transaction
MAX_CACHED: Final = 10_000
KEY_BYTES: Final = 32
BODY_BYTES: Final = 96  # about those of a sealed key
ID_BYTES: Final = 9
OF_USERS: Final = "~"  # in front of their ids, which go into every sealed value, so they are short


class _Key(NamedTuple):
    owner: bytes
    id: str
    key: bytes
    until: float


class UserKeys:
    """`ready` before values are sealed; `of` and `find` may be called from any thread that may wait.

    Args:
        master: seals the keys.
        store: a database for them alone; the warm tier otherwise.
        clock: monotonic seconds.
    """

    def __init__(
        self, warm: Warm, master: Envelope, store: Store | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._warm = warm
        self._master = master
        self._own = store.sql if store is not None else None
        self._clock = clock
        self._migrated = False
        self._by_owner: OrderedDict[bytes, _Key] = OrderedDict()
        self._by_id: dict[str, _Key] = {}
        self._lock = threading.Lock()

    # sealing

    def is_ready(self, owner: bytes) -> bool:
        """Whether `of` answers at once."""
        return self._cached(self._by_owner.get(owner)) is not None

    async def ready(self, owner: bytes) -> None:
        """Have a user's key at hand, made now if there is none; raises `UserErased` while the user is being erased."""
        if self.is_ready(owner):
            return
        key = await self._stored("owner", owner)
        while key is None:
            await self._make(owner)
            key = await self._stored("owner", owner)
        self._keep(key)

    async def ready_for(self, thread: bytes, owner: bytes | None) -> bytes | None:
        """The owner of a thread, the known one or its row's, with their key ready; None for a thread of nobody."""
        if owner is None:
            row = await self._warm.thread(thread)
            owner = row.owner if row is not None else None
        if owner is not None:
            await self.ready(owner)
        return owner

    def of(self, owner: bytes) -> tuple[str, bytes]:
        """Id and bytes of a user's key."""
        found = self._by_owner.get(owner)
        if found is None or self._clock() > found.until + USED_S:
            drive(self.ready(owner))
            found = self._by_owner.get(owner)
        if found is None:
            raise CheckpointError("a user's key was destroyed while it was to be used")
        return found.id, found.key

    # opening

    def find(self, key_id: str) -> bytes | None:
        """A key by its id; None where there is none (any more)."""
        if not key_id.startswith(OF_USERS):
            return None
        found = self._cached(self._by_id.get(key_id)) or drive(self._stored("id", key_id))
        if found is None:
            return None
        self._keep(found)
        return found.key

    def forget(self, owner: bytes) -> None:
        """Hold a user's key no longer."""
        with self._lock:
            gone = self._by_owner.pop(owner, None)
            if gone is not None:
                self._by_id.pop(gone.id, None)

    def clear(self) -> None:
        """Hold no key."""
        with self._lock:
            self._by_owner.clear()
            self._by_id.clear()

    def _cached(self, key: _Key | None) -> _Key | None:
        return key if key is not None and self._clock() < key.until else None

    def _keep(self, key: _Key) -> None:
        with self._lock:
            old = self._by_owner.pop(key.owner, None)
            if old is not None:
                self._by_id.pop(old.id, None)
            self._by_owner[key.owner] = self._by_id[key.id] = key
            while len(self._by_owner) > MAX_CACHED:
                _, gone = self._by_owner.popitem(last=False)
                self._by_id.pop(gone.id, None)

    async def _make(self, owner: bytes) -> None:
        """Store a new key, unless there is one; it goes again if the user is being erased by now."""
        key_id = OF_USERS + secrets.token_urlsafe(ID_BYTES)
        body = self._master.seal(secrets.token_bytes(KEY_BYTES), _context(owner, key_id))
        sql = await self.sql()
        await sql.execute(
            "INSERT INTO llmops_ck_user_key (owner, id, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (owner, key_id, body),
        )
        if await (await self._warm.sql()).fetch(ERASED, (owner, self._warm.clock())):
            await sql.execute("DELETE FROM llmops_ck_user_key WHERE id = ?", (key_id,))
            raise UserErased("the user is erased; nothing is stored for them until erase_grace_s after that")

    async def _stored(self, column: str, value: bytes | str) -> _Key | None:
        asked = self._clock()
        rows = await (await self.sql()).fetch(
            f"SELECT owner, id, body FROM llmops_ck_user_key WHERE {column} = ?", (value,)
        )
        if not rows:
            return None
        owner, key_id, body = bytes(rows[0][0]), str(rows[0][1]), bytes(rows[0][2])
        return _Key(owner, key_id, self._master.open(body, _context(owner, key_id)), asked + CACHED_S)

    async def sql(self) -> Sql:
        """The database with the keys."""
        if self._own is None:
            return await self._warm.sql()
        if not self._migrated:
            await self._own.migrate("user_keys", (USER_KEYS,))
            self._migrated = True
        return self._own


def user_keys_of(warm: Warm, options: Options, stores: list[Store]) -> UserKeys | None:
    """As the options say; a store of their own is one of `stores` from now on."""
    if not options.user_keys:
        return None
    store = options.key_store
    if isinstance(store, str):
        store = open_store(store, setting="key_store", blocking=True)
    if store is not None and store not in stores:
        stores.append(store)
    keys = UserKeys(warm, Envelope(keys=options.keys, key_id=options.key_id), store)
    warm.before_change = keys.ready
    return keys


async def key_ids(sql: Sql, owner: bytes) -> list[str]:
    """The ids of a user's keys in a database."""
    return [str(key_id) for (key_id,) in await sql.fetch("SELECT id FROM llmops_ck_user_key WHERE owner = ?", (owner,))]


async def destroy(sql: Sql, owner: bytes) -> None:
    """Delete a user's key for good, overwritten first where the database writes in place."""
    async with sql.transaction() as transaction:
        await transaction.execute("UPDATE llmops_ck_user_key SET body = ? WHERE owner = ?", (bytes(BODY_BYTES), owner))
        await transaction.execute("DELETE FROM llmops_ck_user_key WHERE owner = ?", (owner,))


def _context(owner: bytes, key_id: str) -> bytes:
    return b"user key" + owner + key_id.encode()
