"""Stores that end the process, or fail, at any one of their operations."""

from __future__ import annotations

from typing import Any

__all__ = ["BreakingStore", "Crash", "Steps"]


class Crash(BaseException):
    """The process ends here."""


class Steps:
    """Counts operations of stores; the one of that number, from 1, is the last: it is done or not."""

    def __init__(self, last: int = 0, *, is_done: bool = False) -> None:
        self.taken = 0
        self.last = last
        self.is_done = is_done

    def before(self) -> None:
        self.taken += 1
        if self.taken == self.last and not self.is_done:
            raise Crash

    def after(self) -> None:
        if self.taken == self.last:
            raise Crash


class BreakingStore:
    """`failing` is what every operation raises, until it is None again."""

    def __init__(self, inner: Any, steps: Steps | None = None) -> None:
        self._inner = inner
        self.steps = steps or Steps()
        self.url = inner.url
        self.failing: Exception | None = None

    @property
    def sql(self) -> Any:
        return _Sql(self, self._inner.sql)

    @property
    def maps(self) -> Any:
        return _Operations(self, self._inner.maps)

    @property
    def objects(self) -> Any:
        return _Objects(self, self._inner.objects)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Operations:
    def __init__(self, store: BreakingStore, inner: Any) -> None:
        self._store = store
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        act = getattr(self._inner, name)

        async def operation(*args: Any, **kwargs: Any) -> Any:
            self._before()
            found = await act(*args, **kwargs)
            self._store.steps.after()
            return found

        return operation

    def _before(self) -> None:
        self._store.steps.before()
        if self._store.failing is not None:
            raise self._store.failing


class _Objects(_Operations):
    async def list(self, prefix: str) -> Any:
        self._before()
        async for found in self._inner.list(prefix):
            yield found


class _Sql(_Operations):
    @property
    def dialect(self) -> str:
        return self._inner.dialect

    def transaction(self) -> _Transaction:
        return _Transaction(self._store, self._inner.transaction())


class _Transaction:
    """A crash after its last statement is one before the commit; one after the commit is the next step's."""

    def __init__(self, store: BreakingStore, inner: Any) -> None:
        self._store = store
        self._inner = inner

    async def __aenter__(self) -> Any:
        return _Operations(self._store, await self._inner.__aenter__())

    async def __aexit__(self, *error: object) -> Any:
        return await self._inner.__aexit__(*error)
