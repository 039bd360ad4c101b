"""Three tiers under two savers, each as a process of its own would have them, for walks."""

from __future__ import annotations

import asyncio
import copy
import itertools
import shutil
import uuid
from typing import TYPE_CHECKING, Any

from langchain_llmops.checkpoint.names import place_of
from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.stores.base import open_store
from tests.support.cache import Clock
from tests.support.checkpoint_walk import Process

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["Embedded", "Servers"]


class _Tiers:
    """Two savers: one is called as sync code does, the other as async code does."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._runner = asyncio.Runner()
        savers = [self._saver() for _ in range(2)]
        self.processes = [
            Process(saver, colour, self._runner) for saver, colour in zip(savers, ("sync", "async"), strict=True)
        ]

    def _saver(self) -> TieredCheckpointSaver:
        raise NotImplementedError

    def fill_hot(self, threads: Iterable[str]) -> None:
        """Make the copies that savers make some time after a write."""
        for process in self.processes:
            process.saver._engine.hot.fill([place_of("default", thread).thread for thread in threads])

    def pass_s(self, seconds: float) -> None:
        self.clock.pass_s(seconds)

    def close(self) -> None:
        for process in self.processes:
            process.call("close") if process.colour == "sync" else self._runner.run(process.saver.aclose())
        self._runner.close()


class Embedded(_Tiers):
    """SQLite, a hot tier in memory that both share, and a folder."""

    _numbers = itertools.count()

    def __init__(self, folder: Path) -> None:
        self._folder = folder / str(next(self._numbers))
        self._hot = open_store("memory://", blocking=True)
        super().__init__()

    def _saver(self) -> TieredCheckpointSaver:
        warm = open_store(f"sqlite:///{self._folder}/ck.db?synchronous=off", blocking=True)
        cold = open_store(f"file://{self._folder}/cold", blocking=True)
        return TieredCheckpointSaver(warm, self._hot, cold, clock=self.clock)

    def lose_hot(self) -> None:
        self.bring_back_hot({name: type(held)() for name, held in self._held().items()})

    def remember_hot(self) -> dict[str, Any]:
        return copy.deepcopy(self._held())

    def bring_back_hot(self, remembered: dict[str, Any]) -> None:
        vars(self._hot.maps).update(copy.deepcopy(remembered))

    def _held(self) -> dict[str, Any]:
        return {name: held for name, held in vars(self._hot.maps).items() if isinstance(held, dict | list)}

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._folder, ignore_errors=True)


class Servers(_Tiers):
    """PostgreSQL (a schema of its own), a Redis database (emptied), and a prefix in a bucket."""

    def __init__(self, postgres_url: str, redis_url: str, s3_url: str) -> None:
        import psycopg
        import redis

        self._redis = redis.Redis.from_url(redis_url)
        self._redis.flushdb()
        self._postgres = psycopg.connect(postgres_url, autocommit=True)
        self._schema = f"llmops_{uuid.uuid4().hex[:12]}"
        self._postgres.execute(f"CREATE SCHEMA {self._schema}")
        head, _, query = s3_url.partition("?")
        joint = "&" if "?" in postgres_url else "?"
        self._urls = {
            "warm": f"{postgres_url}{joint}options=-csearch_path%3D{self._schema}",
            "hot": redis_url,
            "cold": f"{head}/{self._schema}?{query}",
        }
        super().__init__()

    def _saver(self) -> TieredCheckpointSaver:
        return TieredCheckpointSaver.from_urls(**self._urls, clock=self.clock)

    def lose_hot(self) -> None:
        self._redis.flushdb()

    def remember_hot(self) -> dict[bytes, tuple[bytes, int]]:
        dumped = {key: (self._redis.dump(key), max(self._redis.pttl(key), 0)) for key in self._redis.scan_iter()}
        return {key: (value, left_ms) for key, (value, left_ms) in dumped.items() if value is not None}

    def bring_back_hot(self, remembered: dict[bytes, tuple[bytes, int]]) -> None:
        self._redis.flushdb()
        for key, (value, left_ms) in remembered.items():
            self._redis.restore(key, left_ms, value)

    def close(self) -> None:
        super().close()
        self._postgres.execute(f"DROP SCHEMA {self._schema} CASCADE")
        self._postgres.close()
        self._redis.close()
