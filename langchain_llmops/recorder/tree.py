"""Runs of a trace in the order of its tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["in_order"]


def in_order(runs: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """`(depth, run)` as LangSmith's `dotted_order` has them; by parent and start for runs that carry none."""
    by_id = {run["id"]: run for run in runs}
    places = {run["id"]: _place(run, by_id) for run in runs}
    top = min((len(place) for place in places.values()), default=0)
    return [(len(places[run["id"]]) - top, run) for run in sorted(runs, key=lambda run: places[run["id"]])]


def _place(run: Mapping[str, Any], by_id: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    if run["dotted_order"]:
        return tuple(run["dotted_order"].split("."))
    path, seen = list[str](), set[str]()
    at: Mapping[str, Any] | None = run
    while at is not None and at["id"] not in seen:
        seen.add(at["id"])
        if at["dotted_order"]:
            return (*at["dotted_order"].split("."), *reversed(path))
        path.append(f"{at['started_us'] or 0:020d}{at['id']}")
        at = by_id.get(at["parent_run_id"])
    return tuple(reversed(path))
