"""How often the first level of the cache hits, and what that saves, beside LRU and a cache that knows the future.

`python tests/benchmarks/cache_policy.py [--quick] [--json FILE]`. The traffic: requests arrive when those of an hour of
Azure's production chat service did (19,366 of them). Which question each one asks is drawn by Zipf's law over the
10,003 customer questions of banking77, shuffled by the seed. A question has the prompt's and the answer's tokens of
the row in which it first arrived: 4 bytes of answer a token, dollars as `gpt-4o-mini` costs. Every line is the median
over seeds. Where the popular questions change, half of the 400 most popular ones give way to others every eighth of the
hour.

Capacities are shares of the bytes that all questions asked would take, counted alike for everyone: an answer, its key
and what Python needs around them. Nothing ends within the hour unless a line names a time to live. The clairvoyant
drops what is asked for again last (Belady), or what has the largest product of that distance and its bytes, newcomers
included: the optimum where answers have one size, and near it elsewhere. Unlimited has room for all.
"""

from __future__ import annotations

import csv
import itertools
import random
import sys
import time
from bisect import bisect
from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from langchain_llmops.cache.memory import ENTRY_BYTES, Memory
from langchain_llmops.core.pricing import PriceBook
from langchain_llmops.core.types import Money, Usage
from tests.benchmarks.harness import Figure, arguments, interleaved, paired_ratio, show
from tests.support.data import SHARED

MODEL = "gpt-4o-mini"
BYTES_PER_TOKEN = 4
HOUR_S = 3_600.0
SHARES = (0.01, 0.05, 0.10)
NEVER = float("inf")


@dataclass(frozen=True)
class Row:
    """One arrival of the trace."""

    at_s: float
    usage: Usage
    dollars: float


@dataclass(frozen=True)
class Traffic:
    """`asked`: when and which key. By key: the answer, its bytes in a cache, and its dollars."""

    asked: list[tuple[float, str]]
    answers: dict[str, bytes]
    sizes: dict[str, int]
    dollars: dict[str, float]

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())


@dataclass(frozen=True)
class Saved:
    """Share of the requests that hit, in percent, and the dollars saved by a million requests."""

    hits: float
    dollars: float


TITLE = "Who stays in the first level: ours beside others"


def read_trace() -> list[Row]:
    book, rows = PriceBook(), []
    with (SHARED / "traces/azure_conv_2023.csv").open() as file:
        for line in csv.DictReader(file):
            usage = Usage(input_tokens=int(line["ContextTokens"]), output_tokens=int(line["GeneratedTokens"]))
            price = book.price(MODEL, usage, provider="openai")
            assert isinstance(price, Money)
            at = datetime.fromisoformat(line["TIMESTAMP"][:26])
            rows.append(Row(at.timestamp(), usage, float(price.total_usd)))
    return rows


def read_keys() -> list[str]:
    with (SHARED / "support/banking77_train.csv").open() as file:
        texts = dict.fromkeys(line["text"] for line in csv.DictReader(file))
    return [blake2b(text.encode(), digest_size=32).hexdigest() for text in texts]


def traffic(rows: list[Row], keys: list[str], exponent: float, seed: int, *, one_size: bool, changing: bool) -> Traffic:
    chooser = random.Random(seed)
    ranked = list(keys)
    chooser.shuffle(ranked)
    weights = list(itertools.accumulate((rank + 1) ** -exponent for rank in range(len(ranked))))
    found = Traffic([], {}, {}, {})
    for number, row in enumerate(rows):
        if changing and number and number % (len(rows) // 8) == 0:
            for old in chooser.sample(range(400), 200):
                new = chooser.randrange(400, len(ranked))
                ranked[old], ranked[new] = ranked[new], ranked[old]
        key = ranked[bisect(weights, chooser.random() * weights[-1])]
        found.asked.append((row.at_s, key))
        if key not in found.answers:
            found.answers[key] = bytes(BYTES_PER_TOKEN * (200 if one_size else row.usage.output_tokens))
            found.sizes[key] = ENTRY_BYTES + sys.getsizeof(key) + sys.getsizeof(found.answers[key])
            found.dollars[key] = row.dollars
    return found


class LeastRecentlyUsed:
    """The usual first level: what was asked for longest ago leaves."""

    def __init__(self, max_bytes: int, clock: Any, sizes: dict[str, int]) -> None:
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._max_bytes, self._clock, self._sizes, self._bytes = max_bytes, clock, sizes, 0

    def get(self, key: str) -> bytes | None:
        found = self._entries.get(key)
        if found is None:
            return None
        if found[1] <= self._clock():
            self._bytes -= self._sizes[key]
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return found[0]

    def put(self, key: str, data: bytes, left_s: float) -> None:
        self._entries[key] = (data, self._clock() + left_s)
        self._bytes += self._sizes[key]
        while self._bytes > self._max_bytes:
            gone, _ = self._entries.popitem(last=False)
            self._bytes -= self._sizes[gone]


def replay(cache: Any, hour: Traffic, now: list[float], ttl_s: float) -> Saved:
    hits, dollars = 0, 0.0
    for at_s, key in hour.asked:
        now[0] = at_s
        if cache.get(key) is None:
            cache.put(key, hour.answers[key], ttl_s)
        else:
            hits += 1
            dollars += hour.dollars[key]
    return Saved(100 * hits / len(hour.asked), 1e6 * dollars / len(hour.asked))


def clairvoyant(hour: Traffic, max_bytes: float) -> Saved:
    """No time to live: nothing ends within the hour."""
    coming: list[float] = [NEVER] * len(hour.asked)
    last: dict[str, int] = {}
    for number in range(len(hour.asked) - 1, -1, -1):
        key = hour.asked[number][1]
        coming[number] = last.get(key, NEVER)
        last[key] = number
    held: dict[str, float] = {}
    filled, hits, dollars = 0, 0, 0.0
    for number, (_, key) in enumerate(hour.asked):
        if key in held:
            hits += 1
            dollars += hour.dollars[key]
        else:
            filled += hour.sizes[key]
        held[key] = coming[number]
        if held[key] == NEVER:
            del held[key]
            filled -= hour.sizes[key]
        while filled > max_bytes:
            gone = max(held, key=lambda key: (held[key] - number) * hour.sizes[key])
            filled -= hour.sizes[gone]
            del held[gone]
    return Saved(100 * hits / len(hour.asked), 1e6 * dollars / len(hour.asked))


def lines(what: str, hours: list[Traffic], share: float, *, ttl_s: float = HOUR_S, bounds: bool = True) -> list[Figure]:
    """Ours beside each of the others at one capacity, medians over the seeds."""
    found: dict[str, list[Saved]] = {"ours": [], "LRU": [], "clairvoyant": [], "unlimited": []}
    for hour in hours:
        room, now = int(share * hour.bytes), [0.0]
        clock = lambda now=now: now[0]  # noqa: E731 # one clock for both
        found["ours"].append(replay(Memory(room, clock=clock, steady=clock), hour, now, ttl_s))
        found["LRU"].append(replay(LeastRecentlyUsed(room, clock, hour.sizes), hour, now, ttl_s))
        if bounds:
            found["clairvoyant"].append(clairvoyant(hour, room))
            found["unlimited"].append(clairvoyant(hour, NEVER))
    hits = {name: [saved.hits for saved in several] for name, several in found.items() if several}
    dollars = {name: [saved.dollars for saved in several] for name, several in found.items() if several}
    title = f"{what}, {share:.0%}"
    return [
        *(
            _line(f"{title}: hit %, {peer}", hits, peer, 1.0 if peer == "LRU" else None)
            for peer in hits
            if peer != "ours"
        ),
        *(_line(f"{title}: $ saved by 1M requests, {peer}", dollars, peer, None) for peer in dollars if peer != "ours"),
    ]


def _line(title: str, values: dict[str, list[float]], peer: str, target: float | None) -> Figure:
    ours, others = values["ours"], values[peer]
    ratio = paired_ratio(ours, others)
    return Figure(title, median(ours), median(others), ratio, target, None if target is None else ratio >= target)


def cost_of_a_hit(keys: list[str], rounds: int) -> Figure:
    """CPU microseconds of a hit among 1,000 entries, beside the LRU above under a lock, as threads need it."""
    from threading import Lock

    asked, data = keys[:1_000], bytes(1_000)
    sizes = dict.fromkeys(asked, len(data))
    lock, ours, lru = Lock(), Memory(1 << 24), LeastRecentlyUsed(1 << 24, time.time, sizes)
    for key in asked:
        ours.put(key, data, HOUR_S)
        lru.put(key, data, HOUR_S)

    def locked(key: str) -> bytes | None:
        with lock:
            return lru.get(key)

    def work(get: Any) -> int:
        for _ in range(50):
            for key in asked:
                get(key)
        return 50 * len(asked)

    spent = interleaved({"ours": lambda: nullcontext(ours.get), "LRU": lambda: nullcontext(locked)}, work, rounds)
    return Figure(
        "µs of a hit, OrderedDict LRU with a lock",
        median(spent["ours"]),
        median(spent["LRU"]),
        paired_ratio(spent["ours"], spent["LRU"]),
        1.0,
        paired_ratio(spent["ours"], spent["LRU"]) <= 1.0,
    )


def measured(*, quick: bool) -> list[Figure]:
    """All figures."""
    seeds = range(2 if quick else 7)
    rows, keys = read_trace(), read_keys()

    def hours(exponent: float, *, one_size: bool = False, changing: bool = False) -> list[Traffic]:
        return [traffic(rows, keys, exponent, seed, one_size=one_size, changing=changing) for seed in seeds]

    figures: list[Figure] = []
    for exponent in (1.0, 1.1, 1.2):
        zipf = hours(exponent)
        for share in SHARES:
            figures += lines(f"Zipf {exponent}", zipf, share)
    zipf, alike, changing = hours(1.1), hours(1.1, one_size=True), hours(1.1, changing=True)
    for share in SHARES:
        figures += lines("Zipf 1.1, one size", alike, share)
        figures += lines("Zipf 1.1, changing", changing, share)
        figures += lines("Zipf 1.1, 30 s to live", zipf, share, ttl_s=30.0, bounds=False)
    figures.append(cost_of_a_hit(keys, 5 if quick else 21))
    return figures


def main() -> None:
    options = arguments(__doc__ or "")
    show(TITLE, measured(quick=options.quick), options.json)


if __name__ == "__main__":
    main()
