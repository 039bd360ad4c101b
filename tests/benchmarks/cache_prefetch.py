"""What prefetching brings on traffic with sequences, and what it costs on traffic without any.

`python tests/benchmarks/cache_prefetch.py [--quick] [--json FILE]`. A replay on simulated time: sessions begin when
requests of the Azure trace do (stretched to eight hours), think half a minute between two requests, and share one cache
with a time to live of five minutes. Each request has the tokens of a row of that trace, at gpt-4o's price, and takes
0.5 s and 1/60 s per token of its answer; a second of waiting counts as a tenth of a cent. The peer is the same cache
without prefetching (no LLM cache that we know has it), and for the guesser that never stops one that never stops.

It pays where many sessions go the same way word for word: there much of the waiting goes, for a few per cent more
dollars. It saves no dollars: a prefetch that is used costs what the request would have. On real conversations (what the
users of tau-bench's airline wrote, and here not even their history is part of the request) hardly anything repeats, so
nothing is asked ahead: it neither helps nor hurts. The same goes for questions in random order. Made to guess there at
any chance (`eager`), it loses some cents and stops. When learnt sequences end (`then shuffled`), its counts show it
before much is lost. The faq paths are scripted by us: their precision is that of the script, not of your users.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import itertools
import json
import random
import statistics
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from rich.console import Console
from rich.table import Table

from langchain_llmops.cache.payoff import Verdict
from langchain_llmops.cache.prefetch import Answered, Asked, Prefetcher, Wanted
from langchain_llmops.cache.successors import Successors, name_of
from langchain_llmops.core.pricing import PriceBook
from langchain_llmops.core.types import Usage
from tests.benchmarks.harness import Figure, arguments, show
from tests.support.simulated_time import SimulatedTime

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
MODEL = "gpt-4o-2024-08-06"
TTL_S, THINK_S, BUDGET_USD_PER_HOUR, USD_PER_SECOND = 300.0, 30.0, 5.0, 0.001
Sessions = list[list[str]]  # the texts of each session, in order


@dataclass
class Replay:
    """One run of some traffic over one cache."""

    arrivals: list[float]
    usages: list[Usage]
    options: dict | None
    clock: SimulatedTime = field(default_factory=SimulatedTime)
    answers: dict[str, tuple[float, float]] = field(default_factory=dict)  # key -> when it is there, when it ends
    requests: int = 0
    waited: list[float] = field(default_factory=list)
    spent_usd: float = 0.0

    def __post_init__(self) -> None:
        book = PriceBook()
        self.prices = [float(book.price(MODEL, usage).total_usd) for usage in self.usages]
        self.prefetcher = None
        if self.options is not None:
            self.prefetcher = Prefetcher(
                Successors(),
                self.ask,
                **{"budget_usd_per_hour": BUDGET_USD_PER_HOUR, **self.options},
                usd_per_second=USD_PER_SECOND,
                ttl_s=TTL_S,
                key=lambda wanted: name_of(wanted.text),
                cached=self.cached,
                clock=self.clock,
            )

    @property
    def total_usd(self) -> float:
        """The bill, and what waiting is worth."""
        return self.spent_usd + self.stats.get("spent_usd", 0.0) + USD_PER_SECOND * sum(self.waited)

    def takes(self, key: str) -> tuple[float, float]:
        """Dollars and seconds of one answer: always the same for one request."""
        row = int(key[:8], 16) % len(self.usages)
        return self.prices[row], 0.5 + self.usages[row].output_tokens / 60

    def cached(self, key: str) -> bool:
        return self.answers.get(key, (0.0, 0.0))[1] > self.clock()

    async def ask(self, wanted: Wanted) -> Asked:
        """The model behind the cache: the answer is there when its time is over; others may join before."""
        key = name_of(wanted.text)
        usd, seconds = self.takes(key)
        self.answers[key] = (self.clock() + seconds, self.clock() + seconds + TTL_S)
        await self.clock.sleep(seconds)
        return Asked(usd)

    async def request(self, session: str, text: str) -> None:
        key, began = name_of(text), self.clock()
        usd, seconds = self.takes(key)
        hit = self.cached(key)
        if hit:
            seconds = max(0.0, self.answers[key][0] - began)
        else:
            self.answers[key] = (began + seconds, began + seconds + TTL_S)
            self.spent_usd += usd
        if seconds:
            await self.clock.sleep(seconds)
        self.requests += 1
        self.waited.append(seconds)
        if self.prefetcher is not None:
            self.prefetcher.answered(Answered("shop", text, key, session, hit, self.clock() - began, usd))

    async def session(self, number: int, begins: float, texts: list[str], dice: random.Random) -> None:
        await self.clock.sleep(begins)
        for text in texts:
            await self.request(str(number), text)
            await self.clock.sleep(dice.lognormvariate(0, 0.7) * THINK_S)

    async def play(self, sessions: Sessions) -> None:
        tasks = [
            asyncio.ensure_future(self.session(n, begins, texts, random.Random(n)))
            for n, (begins, texts) in enumerate(zip(itertools.cycle(self.arrivals), sessions))
        ]
        await self.clock.run()
        await asyncio.gather(*tasks)
        self.clock.now += 2 * TTL_S  # what nobody has used by now is waste
        self.stats = self.prefetcher.stats() if self.prefetcher is not None else {}


# traffic


def trace(sessions: int) -> tuple[list[float], list[Usage]]:
    """When sessions begin: every n-th arrival, stretched to eight hours; and the tokens of every row."""
    with (DATA / "traces/azure_conv_2023.csv").open() as file:
        rows = list(csv.DictReader(file))
    times = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows]
    usages = [Usage(int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in rows]
    stretch = 8 * 3_600 / (times[-1] - times[0])
    return [(times[n * len(times) // sessions] - times[0]) * stretch for n in range(sessions)], usages


def questions() -> list[tuple[str, str]]:
    with (DATA / "support/banking77_train.csv").open() as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


def faq_paths(sessions: int, dice: random.Random, *, noise: float) -> Sessions:
    """Twenty guided ways of six steps over real questions, one step in `1/noise` a question of one's own."""
    asked = questions()
    by_intent = list({category: text for text, category in asked}.values())
    ways = [dice.sample(by_intent, 6) for _ in range(20)]
    popular = [1 / (rank + 1) for rank in range(len(ways))]
    return [
        [dice.choice(asked)[0] if dice.random() < noise else step for step in dice.choices(ways, popular)[0]]
        for _ in range(sessions)
    ]


def airline(sessions: int, dice: random.Random) -> Sessions:
    """What users really wrote, in their order."""
    with gzip.open(DATA / "support/airline_gpt4o_conversations.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    walks = [[turn["content"] for turn in row["messages"] if turn["role"] == "user"] for row in rows]
    dice.shuffle(walks)
    return walks[:sessions]


def shuffled(sessions: int, dice: random.Random) -> Sessions:
    """Every question once, in random order."""
    texts = [text for text, _ in questions()]
    dice.shuffle(texts)
    return [texts[n * 6 : n * 6 + 6] for n in range(min(sessions, len(texts) // 6))]


def shuffled_few(sessions: int, dice: random.Random) -> Sessions:
    """Some questions, each asked again and again, in random order."""
    texts = dice.sample([text for text, _ in questions()], 300)
    return [dice.choices(texts, k=6) for _ in range(sessions)]


def then_shuffled(sessions: int, dice: random.Random) -> Sessions:
    """Guided ways in the first third of the day, the same steps in any order after it."""
    walks = faq_paths(sessions, dice, noise=0.1)
    late = walks[sessions // 3 :]
    steps = [step for walk in late for step in walk]
    dice.shuffle(steps)
    return walks[: sessions // 3] + [steps[n * 6 : n * 6 + 6] for n in range(len(late))]


FEW = "300 questions shuffled"
GUESSING = {"min_probability": 0.0}
UNSTOPPED = {**GUESSING, "verdict": lambda: Verdict(trickle=10**6, pause_s=0.0)}
TRAFFIC = {
    "faq paths, 10 % noise": (lambda n, dice: faq_paths(n, dice, noise=0.1), {}),
    "faq paths, 30 % noise": (lambda n, dice: faq_paths(n, dice, noise=0.3), {}),
    "faq paths, 30 % noise, $0.10/h": (lambda n, dice: faq_paths(n, dice, noise=0.3), {"budget_usd_per_hour": 0.1}),
    "faq paths, then shuffled": (then_shuffled, {}),
    "airline users, as written": (airline, {}),
    "banking77 shuffled": (shuffled, {}),
    FEW: (shuffled_few, {}),
    f"{FEW}, eager": (shuffled_few, GUESSING),
    f"{FEW}, eager, never stops": (shuffled_few, UNSTOPPED),
}


def replay(name: str, sessions: int) -> tuple[Replay, Replay]:
    """The same traffic with prefetching and without."""
    make, options = TRAFFIC[name]
    walks = make(sessions, random.Random(7))
    arrivals, usages = trace(len(walks))
    runs = []
    for chosen in (options, None):
        run = Replay(arrivals, usages, chosen)
        asyncio.run(run.play(walks))
        runs.append(run)
    return runs[0], runs[1]


def table(runs: dict[str, tuple[Replay, Replay]]) -> None:
    """`claimed` is what the prefetcher says it saved, `saved` what the replay without it shows."""
    shown = Table(title="Prefetching, eight simulated hours", title_justify="left")
    columns = [
        "traffic",
        "requests",
        "issued",
        "used",
        "precision (95 %)",
        "spent $",
        "claimed $",
        "saved $",
        "extra $",
        "of bill",
    ]
    for column in [*columns, "saved s", "of waiting", "extra $/s", "stops"]:
        shown.add_column(column, justify="left" if column == "traffic" else "right")
    for name, (ours, without) in runs.items():
        told = ours.stats
        extra_usd = told["spent_usd"] + ours.spent_usd - without.spent_usd
        saved_s = sum(without.waited) - sum(ours.waited)
        precision = "-"
        if told["precision"] is not None:
            precision = f"{told['precision']:.2f} ({told['precision_low']:.2f}-{told['precision_high']:.2f})"
        shown.add_row(
            name, f"{ours.requests:,}", f"{told['issued']:,}", f"{told['used']:,}", precision,
            f"{told['spent_usd']:.3f}", f"{told['saved_usd']:.3f}",
            f"{without.spent_usd - ours.spent_usd:.3f}", f"{extra_usd:.3f}",
            f"{extra_usd / without.spent_usd:+.2%}", f"{saved_s:,.0f}", f"{-saved_s / sum(without.waited):+.1%}",
            f"{extra_usd / saved_s:.5f}" if saved_s > 1 else "-", f"{told['stops']}",
        )  # fmt: skip
    Console(width=190).print(shown)


def microseconds_per_request(sessions: Sessions) -> float:
    """CPU time of telling the prefetcher about a request, when nothing is issued."""
    prefetcher = Prefetcher(Successors(), Replay.ask, budget_usd_per_hour=0.0)
    told = [
        Answered("shop", text, name_of(text), str(n), cost_usd=0.001, took_s=1.0)
        for n, walk in enumerate(sessions)
        for text in walk
    ]
    rounds = []
    for _ in range(5):
        began = time.process_time()
        for request in told:
            prefetcher.answered(request)
        rounds.append((time.process_time() - began) / len(told) * 1e6)
    return statistics.median(rounds)


def main() -> None:
    options = arguments(__doc__ or "")
    sessions = 400 if options.quick else 1_600
    runs = {name: replay(name, sessions) for name in TRAFFIC}
    table(runs)
    figures = []
    for name, (ours, without) in runs.items():
        figures += [
            Figure.at_most(f"seconds waited, {name}", sum(ours.waited), sum(without.waited)),
            Figure.at_most(  # the worth of both together: never a loss, unless it is told to guess
                f"$ + $0.001/s, {name}", ours.total_usd, without.total_usd, None if "eager" in name else 1.0
            ),
        ]
    lost = [runs[f"{FEW}, {how}"][0].total_usd - runs[FEW][1].total_usd for how in ("eager", "eager, never stops")]
    figures.append(Figure.at_most("$ lost by guessing, beside one that never stops", *lost, 0.5))
    per_request = microseconds_per_request(faq_paths(sessions, random.Random(7), noise=0.3))
    figures.append(Figure("CPU us per request told of", per_request, 0.0, 0.0, None, None))
    show("Prefetching beside the same cache without it", figures, options.json)


if __name__ == "__main__":
    main()
