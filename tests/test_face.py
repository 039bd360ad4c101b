"""The face of the package: what it offers, and that reading it starts nothing."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

import langchain_llmops
from langchain_llmops._face import EXPORTS
from tests.support.source import NAME, PACKAGE, read_house


def test_the_face_offers_what_it_exports() -> None:
    assert set(langchain_llmops.__all__) == {*EXPORTS, "__version__"}
    assert langchain_llmops.__all__ == sorted(langchain_llmops.__all__)
    for name in langchain_llmops.__all__:
        assert getattr(langchain_llmops, name) is not None, name


def test_type_checkers_see_the_same_face() -> None:
    face = next(source for source in read_house(PACKAGE) if source.module == "")
    seen = {
        alias.name: node.module.removeprefix(f"{NAME}.")
        for node in ast.walk(face.tree)
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
    }
    assert {name: seen.get(name) for name in EXPORTS} == EXPORTS


def test_a_name_the_face_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = langchain_llmops.Nonsense


DRIVERS = ("redis", "psycopg", "psycopg_pool", "obstore", "tiktoken", "cryptography", "h11", "typer", "yaml")


def _loaded(code: str) -> dict[str, str]:
    """Run code in a fresh interpreter: `{threads, drivers, out, err}`."""
    probe = (
        f"{code}\nimport sys as _s, threading as _t\n"
        f"print('\\n@', _t.active_count(), ','.join(d for d in {DRIVERS!r} if d in _s.modules), sep='|')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", probe],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=PACKAGE.parent,
    )
    assert done.returncode == 0, done.stderr
    out, _, facts = done.stdout.rpartition("\n@|")
    threads, _, drivers = facts.strip().partition("|")
    return {"threads": threads, "drivers": drivers, "out": out.strip(), "err": done.stderr}


QUIET = {"threads": "1", "drivers": "", "out": "", "err": ""}


def test_importing_the_package_starts_nothing_prints_nothing_and_loads_no_driver() -> None:
    assert _loaded(f"import {NAME}") == QUIET


def test_every_name_of_the_face_starts_nothing_prints_nothing_and_loads_no_driver() -> None:
    assert _loaded(f"import {NAME}\nfor name in {NAME}.__all__: getattr({NAME}, name)") == QUIET
