"""A process to kill: tells a ledger records without end, and notes in a file how many were told and how many wait.

Usage: python -m tests.faults.ledger_writer NOTES URL
"""

from __future__ import annotations

import os
import sys
import time

from langchain_llmops.core.events import CallFinished
from langchain_llmops.core.types import CallRecord
from langchain_llmops.ledger.writer import Ledger
from langchain_llmops.stores.base import open_store


def main(notes: str, url: str) -> None:
    ledger = Ledger(open_store(url))
    told = 0
    with open(notes, "ab", buffering=0) as file:
        while True:
            for _ in range(20):
                ledger(CallFinished(CallRecord("tool", f"{os.getpid()}-{told}", "t", "lookup", float(told), 0.1)))
                told += 1
            file.write(f"{told} {told - ledger.buffered}\n".encode())
            time.sleep(0.001)


if __name__ == "__main__":
    main(*sys.argv[1:])
