"""Hours of load with one component harmed every few seconds: `python tests/faults/checkpoint_soak.py --minutes 60`.

Two client processes talk, one of which is killed now and then; others watch and move. After each round everything
that was acknowledged in it is read back. Exits with 1 when anything was lost or seen that must never be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.faults.checkpoint_clients import CLIENT
from tests.faults.checkpoint_harms import harm
from tests.support.faulty import Run, Servers
from tests.support.forked import Child, Forge, forge
from tests.support.readback import Checked
from tests.support.servers import wait_until

if TYPE_CHECKING:
    from tests.support.acknowledged import Operation

TIERS = {"warm": "postgres", "hot": "redis", "cold": "rclone"}
BY_ID = 200


class Soak:
    """The components and what was counted; `mortal` is the client that may be killed."""

    def __init__(self, servers: Servers, folder: Path, made: Forge, options: argparse.Namespace) -> None:
        self.servers = servers
        self.draw = Random(options.seed)
        self.harms: Counter[str] = Counter()
        self.checked = Checked()
        self.sizes: list[tuple[int, int, int]] = []
        self._folder = folder
        self._forge = made
        self._options = options
        self._orders = folder / "orders"
        self._place = Run(servers, folder, made, options.seed, "rclone", tuple(TIERS))
        self._order(0, going=False)
        self.elder = self.talker("elder")
        self.mortal = self.talker("mortal")

    def talker(self, who: str) -> Child:
        return self._forge.start(
            role="rounds",
            urls=self._place.urls,
            orders=str(self._orders),
            who=who,
            seed=self.draw.randrange(2**31),
            clients=self._options.clients // 2,
            timeout_s=2.0,
        )

    async def pause(self, seconds: float | None = None) -> None:
        """As long as a harm lasts."""
        await asyncio.sleep(self.draw.uniform(0.2, 2.0) if seconds is None else seconds)

    async def round(self, number: int) -> None:
        """Load with harms, then a check of all that was acknowledged."""
        ledger = self._order(number, going=True)
        ledger.touch()
        ended = self._folder / f"ended-{number}"
        plan = {"urls": self._place.urls, "ledger": str(ledger), "until": str(ended), "may_fail": True}
        others = [self._forge.start(role=role, seed=number, timeout_s=2.0, **plan) for role in ("watch", "move")]
        end = time.monotonic() + self._options.round
        while time.monotonic() < end:
            await asyncio.sleep(self.draw.uniform(0.5, self._options.every))
            self.harms[await harm(self.draw, self)] += 1
        self._order(number, going=False)
        ended.touch()
        for who, client in (("elder", self.elder), ("mortal", self.mortal)):
            self._ended(client, Path(f"{ledger}.{who}"))
        codes = [child.wait() for child in others]
        if any(codes):
            raise AssertionError(f"the watcher or the mover failed: {self._forge.said()}")
        await self._check(ledger)
        self._remove(ledger)
        self.sizes.append(size_of(self.elder.pid))

    def _ended(self, client: Child, sign: Path) -> None:
        try:
            wait_until(lambda: sign.exists() or client.state in ("Z", ""), str(sign))
        except RuntimeError as error:
            raise AssertionError(f"{error}: {client.stacks()}") from error
        if not sign.exists():
            raise AssertionError(f"a client ended by itself: {self._forge.said()}")

    async def _check(self, ledger: Path) -> None:
        run = Run(self.servers, self._folder, self._forge, 0)
        run.ledger_path, run.__dict__["direct"] = ledger, self._place.direct
        self.checked += await run.check(last=BY_ID)
        async with run.saver(run.direct) as saver:
            for thread in sorted(threads_of(ledger)):
                await saver.adelete_thread(thread)

    def _remove(self, ledger: Path) -> None:
        for path in self._folder.glob(f"{ledger.name}*"):
            path.unlink()

    def _order(self, number: int | None, *, going: bool) -> Path:
        ledger = self._folder / f"soak-{number}"
        written = self._orders.with_suffix(".new")
        written.write_text(json.dumps({"round": number, "ledger": str(ledger), "going": going}))
        written.rename(self._orders)
        return ledger

    def end(self) -> None:
        self._order(None, going=False)
        codes = [self.elder.wait(), self.mortal.wait()]
        if any(codes):
            raise AssertionError(f"clients ended with {codes}: {self._forge.said()}")


def threads_of(ledger: Path) -> set[str]:
    from tests.support.acknowledged import operations

    found: list[Operation] = operations(ledger)[0]
    return {op.facts.get("target") or op.facts["thread"] for op in found if "thread" in op.facts}


def size_of(pid: int) -> tuple[int, int, int]:
    """Kilobytes of memory, descriptors and threads of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return int(status["VmRSS"].split()[0]), descriptors, int(status["Threads"])


def say(soak: Soak, number: int, began: float) -> None:
    done, (memory, descriptors, threads) = soak.checked, soak.sizes[-1]
    print(
        f"{time.monotonic() - began:7.0f} s  round {number}: {done.acknowledged} acknowledged, {done.checked} checked,"
        f" {len(done.lost)} lost, {len(done.wrong)} wrong; {sum(soak.harms.values())} harms;"
        f" the elder client: {memory / 1024:.0f} MB, {descriptors} descriptors, {threads} threads",
        flush=True,
    )
    for text in done.bad[:10]:
        print(f"    {text[:300]}", flush=True)


async def main(options: argparse.Namespace) -> int:
    began = time.monotonic()
    with Servers() as servers, tempfile.TemporaryDirectory() as name, forge(CLIENT, Path(name)) as made:
        soak, number = Soak(servers, Path(name), made, options), 0
        while time.monotonic() - began < options.minutes * 60 and not soak.checked.bad:
            number += 1
            await soak.round(number)
            say(soak, number, began)
        soak.end()
    print("harms:", ", ".join(f"{count} {what}" for what, count in soak.harms.most_common()))
    print("errors that clients were told:", soak.checked.failures)
    (before, *_), (after, *_) = soak.sizes[0], soak.sizes[-1]
    descriptors = [one[1] for one in soak.sizes]
    print(f"memory from the first round to the last: {after / before:.2f} times; descriptors: {descriptors}")
    return 1 if soak.checked.bad else 0


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long")
    parser.add_argument("--seed", type=int, default=0, help="of what is harmed when")
    parser.add_argument("--clients", type=int, default=64, help="how many clients talk at once")
    parser.add_argument("--round", type=float, default=60.0, help="seconds of load between two checks")
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two harms, at most")
    return parser.parse_args()


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # the hot tier's failures are the point
    sys.exit(asyncio.run(main(options())))
