"""What tests of pushed invalidation do with caches, and see of them."""

from __future__ import annotations

import threading

from tests.support.models import eventually

__all__ = ["asked", "listeners", "looks", "news", "until_heard_of", "warm"]


def level_of(found) -> str | None:
    return None if found is None else found[0].message.response_metadata["llmops_cache"]["level"]


def looks(cache, *prompts) -> list[str | None]:
    """The levels that the answers came from."""
    return [level_of(cache.lookup(prompt, "m")) for prompt in prompts]


def warm(cache, *prompts):
    """All in memory, and heard of without asking."""
    for prompt in prompts:
        assert cache.lookup(prompt, "m") is not None
    cache._tags.distrust()
    assert looks(cache, *prompts) == ["L1"] * len(prompts)
    until_heard_of(cache)
    return cache


def until_heard_of(cache) -> None:
    """Until its listener has asked for the epoch, which it trusts for longer than a caller."""

    def heard_of() -> bool:
        cache._push.wake()
        return cache._tags._trusted_until - cache._engine.clock() > 0.15

    eventually(heard_of)


def news(cache, monkeypatch) -> threading.Semaphore:
    """Released after each message that it has heard."""
    heard, told = threading.Semaphore(0), cache._tags.heard
    monkeypatch.setattr(cache._tags, "heard", lambda changed: (told(changed), heard.release()))
    return heard


def asked(admin) -> int:
    """How often callers asked."""
    return admin.info("commandstats")["cmdstat_mget"]["calls"]


def listeners(admin) -> list[dict]:
    return admin.client_list(_type="pubsub")
