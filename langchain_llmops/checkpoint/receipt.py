"""What an erasure says it did, and where copies may physically outlive it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_llmops.stores.base import Sql

__all__ = ["ErasureReceipt", "Residue", "residues"]

POSTGRES_SETTINGS: Final = ("archive_mode", "autovacuum", "checkpoint_timeout")


@dataclass(frozen=True, slots=True)
class Residue:
    """Bytes that nothing reads any more and that a disk or a copy of one may still hold: where, and until when."""

    where: str
    until: str


@dataclass(frozen=True, slots=True)
class ErasureReceipt:
    """What was erased of a user, in all calls for this erasure together. It names no user and no thread itself.

    Args:
        owner: hex digest of tenant and user id; it is not secret, as who can guess the id can make it.
        state: `done`, or `open` while `left` says what could not be erased yet.
        asked_at, finished_at, until: seconds since 1970; writes of the user are refused before `until`, and until the
            erasure is finished.
        threads, checkpoints, writes, chunks, warm_bytes: rows of the warm tier, and the bytes of their contents.
        objects: bytes by path of the objects deleted from the cold tier.
        hot_keys: threads whose copies were dropped from the hot tier.
        keys: ids of the user's own keys that were destroyed.
        residues: what may physically hold something still.
    """

    owner: str
    state: Literal["open", "done"]
    asked_at: float
    finished_at: float | None
    until: float | None
    threads: int
    checkpoints: int
    writes: int
    chunks: int
    warm_bytes: int
    objects: Mapping[str, int]
    hot_keys: int
    keys: tuple[str, ...]
    left: tuple[str, ...]
    residues: tuple[Residue, ...]

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self) | {
            "objects": dict(self.objects),
            "keys": list(self.keys),
            "left": list(self.left),
            "residues": [asdict(one) for one in self.residues],
        }


async def residues(sql: Sql, *, has_hot: bool, has_cold: bool) -> tuple[Residue, ...]:
    """Where something may be, as far as the databases tell; SQLite's log is emptied on the way."""
    found = await (_in_postgres(sql) if sql.dialect == "postgresql" else _in_sqlite(sql))
    found.append(
        Residue("backups and replicas of the warm tier", "they are overwritten; a restored one needs delete_user again")
    )
    if has_hot:
        found.append(
            Residue(
                "the hot tier: Redis' freed memory, RDB snapshots, AOF files and replicas",
                "the next snapshot, the next rewrite of the AOF (BGREWRITEAOF), and the end of their backups",
            )
        )
    if has_cold:
        found.append(Residue("old versions of objects, if the bucket keeps them", "its lifecycle rule removes them"))
    found.append(
        Residue("memory of running processes, which is never read again", "it is used for others, or they end")
    )
    return tuple(found)


async def _in_postgres(sql: Sql) -> list[Residue]:
    rows = await sql.fetch("SELECT name, setting FROM pg_settings WHERE name IN (?, ?, ?)", POSTGRES_SETTINGS)
    told: dict[str, str] = {str(name): str(setting) for name, setting in rows}
    vacuum = "autovacuum does" if told.get("autovacuum") == "on" else "VACUUM runs (autovacuum is off)"
    archived = told.get("archive_mode", "off") != "off"
    log = "its archive is deleted (archive_mode is on)" if archived else "it is recycled"
    seconds = told.get("checkpoint_timeout", "300")
    return [
        Residue("dead rows in PostgreSQL's tables and indexes (llmops_ck_*)", f"{vacuum}, and pages are used again"),
        Residue("PostgreSQL's write-ahead log", f"{log}, after checkpoints (every {seconds} s or sooner)"),
    ]


async def _in_sqlite(sql: Sql) -> list[Residue]:
    rows = await sql.fetch("PRAGMA wal_checkpoint(TRUNCATE)")
    is_busy = bool(rows and rows[0][0])
    overwrites = await sql.fetch("PRAGMA secure_delete")
    found = []
    if is_busy:
        found.append(Residue("SQLite's -wal file", "the next checkpoint that no reader holds up"))
    if not overwrites or not overwrites[0][0]:
        found.append(Residue("free pages of the SQLite file", "they are used again, or VACUUM runs"))
    return found
