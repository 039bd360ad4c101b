"""A process to kill: writes checkpoints, and notes each acknowledged one in a file that it syncs before it goes on.

Usage: python -m tests.faults.checkpoint_writer LEDGER SEED JSON_OF_URLS
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from tests.support.checkpoints import checkpoint, config

WORKERS = 6
THREADS_PER_WORKER = 2


def main(ledger: str, seed: str, urls: str) -> None:
    with open(ledger, "ab", buffering=0) as file:
        asyncio.run(_run(file, int(seed), TieredCheckpointSaver.from_urls(**json.loads(urls))))


async def _run(file, seed, saver) -> None:
    def acknowledged(**fact) -> None:
        file.write(json.dumps(fact).encode() + b"\n")
        os.fsync(file.fileno())

    await asyncio.gather(
        *(_work(saver, random.Random(f"{seed} {number}"), number, acknowledged) for number in range(WORKERS))
    )


async def _work(saver, draw, number, acknowledged) -> None:
    """Half of the workers call the async methods, half the sync ones from a thread."""

    async def call(name, *args):
        if number % 2:
            return await asyncio.to_thread(getattr(saver, name), *args)
        return await getattr(saver, f"a{name}")(*args)

    heads: dict[str, str] = {}
    step = 0
    while True:
        step += 1
        thread = f"w{number}t{draw.randrange(THREADS_PER_WORKER)}"
        text = draw.randbytes(draw.randrange(2000)).hex()
        version = saver.get_next_version(None, None)
        made = checkpoint({"log": text, "step": step}, {"log": version, "step": version})
        await call("put", config(thread, "", heads.get(thread)), made, {"step": step}, made["channel_versions"])
        acknowledged(op="put", thread=thread, id=made["id"], step=step, log=text)
        heads[thread] = made["id"]
        for task in range(draw.randrange(3)):
            await call(
                "put_writes",
                config(thread, "", made["id"]),
                [("log", text[:50]), ("step", step)],
                f"task{task}",
                f"~{task}",
            )
            acknowledged(op="writes", thread=thread, id=made["id"], step=step, task=task, log=text[:50])
        if draw.random() < 0.1:
            await call("archive", thread)
        if draw.random() < 0.3:
            found = await call("get_tuple", config(thread))
            assert found.checkpoint["id"] == made["id"]


if __name__ == "__main__":
    main(*sys.argv[1:])
