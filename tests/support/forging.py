"""What an attacker who can write to the databases would put there, and every way to read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ormsgpack

from langchain_llmops.core.errors import CheckpointError, EnvelopeError
from tests.support.checkpoints import checkpoint, config

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.checkpoints import Caller

__all__ = ["CELLS", "SHAPES", "commands", "read_all"]

CELLS = (("thread", "label"), ("step", "metadata"), ("step", "body"), ("chunk", "body"), ("write", "body"))
SHAPES = [
    ormsgpack.packb(value)
    for value in (
        None, 7, -1.5, True, "text", b"bytes", [], {}, [1], [1, 2], [[]], {"a": 1}, [1, {}, {}, {}, {"a": b"x" * 16}],
        [1, {}, {}, {}, {"a": [9]}], [1, [], [], [], []], [1, {}, {}, {}, {"a": 5}], [1, 2, 3, 4, 5, 6, 7, 8, 9],
        ["", {}], ["", 1], [1, {}], ["p", "t", "a", [0, b"\xc1"]], ["p", "t", "a", [1, 3]], ["p", "t", "a", "x"],
        [1, {}, {}, {}, {"a": [0, b"\xc1"]}], [1, {"v": "x"}, {}, {}, {}],
    )
] + [b"", b"\xc1", b"\x93\x01", b"\xdd\xff\xff\xff\xff"]  # fmt: skip


def commands(target: Path) -> list[bytes]:
    """Packed values that would run a command, if their extensions were obeyed."""
    call = ("os", "system", f"touch {target}")
    forged = [ormsgpack.Ext(code, ormsgpack.packb(call)) for code in (0, 4, 5)]
    forged.append(ormsgpack.Ext(1, ormsgpack.packb(("os", "system", (f"touch {target}",)))))
    forged.append(ormsgpack.Ext(2, ormsgpack.packb(("os", "system", {"command": f"touch {target}"}))))
    forged.append(ormsgpack.Ext(3, ormsgpack.packb(("pathlib", "Path", str(target), "touch"))))
    shapes = [
        [
            ext,
            ["p", "t", "a", [0, ormsgpack.packb(ext)]],
            [1, {"v": 4}, {"a": "1"}, {}, {"a": [0, ormsgpack.packb(ext)]}],
        ]
        for ext in forged
    ]
    return [ormsgpack.packb(shape) for of_one in shapes for shape in of_one]


async def read_all(caller: Caller, thread: str, found: str) -> list[Any]:
    """Every operation over a thread and its checkpoint; each ends, or is refused with one of our errors."""
    made = checkpoint({"a": 2}, {"a": "2"})
    calls = [
        ("get_tuple", (config(thread),)),
        ("get_tuple", (config(thread, "", found),)),
        ("get_delta_channel_history", ()),
        ("put", (config(thread, "", found), made, {"step": 2}, {"a": "2"})),
        ("put_writes", (config(thread, "", found), [("a", 1)], "late")),
        ("copy_thread", (thread, f"{thread}-copy")),
        ("delete_for_runs", (["run"],)),
        ("prune", ([thread],)),
        *[(name, (thread,)) for name in ("archive", "explain", "verify") if hasattr(caller.saver, name)],
        *[(name, ()) for name in ("stats",) if hasattr(caller.saver, name)],
    ]
    results = []
    for name, args in calls:
        kwargs = {"config": config(thread), "channels": ["a"]} if name == "get_delta_channel_history" else {}
        results.append(await _ended(caller.call(name, *args, **kwargs)))
    for asked in (config(thread), None):
        results.append(await _ended(caller.list(asked)))
        results.append(await _ended(caller.list(asked, filter={"note": "x"})))
    return results


async def _ended(call: Any) -> Any:
    try:
        return await call
    except (EnvelopeError, CheckpointError) as error:
        return error
