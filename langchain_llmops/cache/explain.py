"""How one cached answer stands in every level, for people: nothing is served, counted or changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.outputs import ChatGeneration

from langchain_llmops.cache.codec import rebuild
from langchain_llmops.cache.engine import PREFIX
from langchain_llmops.core.errors import EnvelopeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.outputs import Generation

    from langchain_llmops.cache.codec import Entry
    from langchain_llmops.cache.engine import Engine
    from langchain_llmops.cache.levels import Level

__all__ = ["Standing", "State", "explain"]

State = Literal["absent", "fresh", "stale", "invalidated", "damaged"]
UNNAMED = "a tag not named here"


@dataclass(frozen=True, slots=True)
class Standing:
    """An answer in one level.

    `left_s` is how long it is fresh yet, below zero once it is stale; `size_bytes` is as it is stored. `changed` names
    what was invalidated since it was kept, as far as this process knows the names. `damaged`: not to be read, being of
    another version, sealed with another key, or no entry at all.
    """

    level: str
    state: State = "absent"
    age_s: float | None = None
    left_s: float | None = None
    size_bytes: int | None = None
    model: str | None = None
    saved_usd: float | None = None
    changed: tuple[str, ...] = ()
    text: str | None = None


async def explain(engine: Engine, key: str, now: float) -> list[Standing]:
    """Memory first, as far as it is this process's. Blocking stores are asked; raises the `StoreError` of one."""
    stored = [(await level.must_read([PREFIX + key]))[0] for level in engine.levels]
    found = [Standing("L1")]
    entry = engine.memory.get(key)
    if entry is not None:
        found[0] = _standing("L1", entry, entry.size, await _changed(engine, engine.levels[:1], entry), now)
    for level, sealed in zip(engine.levels, stored, strict=True):
        found.append(Standing(level.name) if sealed is None else await _below(engine, level, key, sealed, now))
    return found


async def _below(engine: Engine, level: Level, key: str, sealed: bytes, now: float) -> Standing:
    try:
        entry = engine.unsealed(key, sealed)
        return _standing(level.name, entry, len(sealed), await _changed(engine, [level], entry), now)
    except EnvelopeError:
        return Standing(level.name, "damaged", size_bytes=len(sealed))


async def _changed(engine: Engine, levels: Sequence[Level], entry: Entry) -> list[str | None]:
    """Names of the tags whose generations are others in the level; in this process, where there is none."""
    held = entry.generations
    if not levels:
        return engine.tags.names(name for name in held if not engine.tags.hold({name: held[name]}))
    there = await levels[0].must_read(list(held))
    return engine.tags.names(name for name, now in zip(held, there, strict=True) if now != b"%d" % held[name])


def _standing(level: str, entry: Entry, size_bytes: int, changed: Sequence[str | None], now: float) -> Standing:
    answers = rebuild(entry, {})
    told = _told(answers)
    age_s = max(0.0, now - entry.created)
    return Standing(
        level,
        "invalidated" if changed else "fresh" if age_s < entry.ttl_s else "stale",
        age_s,
        entry.ttl_s - age_s,
        size_bytes,
        told.get("model_name") or told.get("model"),
        told.get("llmops_cache", {}).get("saved_usd"),
        tuple(UNNAMED if name is None else name for name in changed),
        "\n".join(answer.text for answer in answers),
    )


def _told(answers: Sequence[Generation]) -> Mapping[str, Any]:
    first = answers[0] if answers else None
    return first.message.response_metadata if isinstance(first, ChatGeneration) else {}
