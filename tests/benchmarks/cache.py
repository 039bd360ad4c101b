"""The LLM cache beside raw Redis and the peers: hits, writes, bytes, identical calls at once, other wordings, eviction.

`python tests/benchmarks/cache.py [--quick] [--json FILE]`. Over a real redis-server on this machine, without modules.

"wall" is the median time of single operations in a round ("whole": all of them until they are in Redis, a share each);
"CPU" is what this process computed for an operation: the server's work and the neighbours' load are not in it. Targets
stand at wall time; where the machine is busy, look at CPU. `ours` and `peer` are medians over rounds; `ratio` is the
median over rounds of the paired ratios. Raw GET and SET move the bytes that LangChain makes of the answer (2.1 times
its text), under a hash of the request, and build no message.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

sys.path.insert(0, str(Path(__file__).parents[2]))
for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
    os.environ.pop(name, None)
logging.disable(logging.ERROR)

from tests.benchmarks import cache_calls, cache_policy, cache_semantic
from tests.benchmarks.cache_hits import hits, rate
from tests.benchmarks.cache_rounds import KB, Bench
from tests.benchmarks.cache_subjects import NotMeasuredError
from tests.benchmarks.cache_writes import stored_bytes, writes
from tests.benchmarks.harness import arguments, show
from tests.support import servers


def measured(bench: Bench, *, quick: bool) -> list[str]:
    """Everything; what could not be measured, with the reasons."""
    works: list[Callable[[], None]] = []
    for work in (partial(hits, l1=False), partial(hits, l1=True), rate, writes):
        works += [partial(work, bench, KB), partial(work, bench, 20 * KB)]
    works.append(partial(stored_bytes, bench, 20 * KB))
    works.append(partial(cache_calls.identical, bench, repeats=1 if quick else 3))
    failed = []
    for work in works:
        try:
            work()
        except NotMeasuredError as error:
            failed.append(f"not measured: {error}")
    return failed


def main() -> None:
    options = arguments(__doc__ or "")
    warnings.simplefilter("ignore")  # the peers' own, which come with every hit
    rounds, operations = (3, 40) if options.quick else (9, 64)
    with servers.redis_server() as server:
        bench = Bench(server.url, rounds, operations)
        failed = measured(bench, quick=options.quick)
    show("The LLM cache", bench.rows, None)
    show("The peers (in the column of ours) over the same floors", bench.peers, None)
    for note in bench.notes:
        print(note)
    cache_semantic.show(cache_semantic.measured(quick=options.quick), None)
    show(cache_policy.TITLE, cache_policy.measured(quick=options.quick), None)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in bench.rows + bench.peers], indent=1))
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
