"""How a database means to find what a query asks for."""

from __future__ import annotations


class Planned:
    """An `Sql` that keeps the plan of every statement."""

    def __init__(self, sql) -> None:
        self._sql = sql
        self.dialect = sql.dialect
        self.plans: list[str] = []

    async def fetch(self, statement, parameters=()):
        self.plans.append(await self._plan(statement, parameters))
        return await self._sql.fetch(statement, parameters)

    async def _plan(self, statement, parameters) -> str:
        if self.dialect == "sqlite":
            return str(await self._sql.fetch(f"EXPLAIN QUERY PLAN {statement}", parameters))
        async with self._sql.transaction() as transaction:
            await transaction.execute("SET LOCAL enable_seqscan = off")  # a small table is read whole otherwise
            return str(await transaction.fetch(f"EXPLAIN {statement}", parameters))
