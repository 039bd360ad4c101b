"""The house rules of DESIGN section 3, held by reading the source. Each rule is also shown a house that breaks it."""

from __future__ import annotations

import ast
import sys
from itertools import pairwise
from statistics import median

import pytest

from tests.support.source import (
    NAME,
    PACKAGE,
    TESTS,
    Source,
    body_lines,
    environment_name,
    only_names,
    prefixes,
    read_house,
)

MAX_FILE_LINES = 400
MAX_MEDIAN_BODY, MAX_P95_BODY, MAX_BODY = 9, 40, 100

THINKING = {"telemetry", "router", "tokens", "batching", "alerts"}
REMEMBERING = {"ledger", "cache", "resilience", "limits", "checkpoint", "experiments", "evaluation"}
JOINING = {
    "stack",
    "models",
    "parts",
    "sending",
    "tracing",
    "observing",
    "reporting",
    "caching",
    "middleware",
    "recorder",
}
BELOW_JOINING = {"core", "stores"} | THINKING | REMEMBERING
# Who may import which room ("core") or single module ("stores.base"); a room always reads its own modules.
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "stores": {"core"},
    **dict.fromkeys(THINKING, {"core"}),
    **dict.fromkeys(REMEMBERING, {"core", "stores.base"}),
    "models": {"core"},
    "parts": BELOW_JOINING,
    "sending": set(),
    "tracing": BELOW_JOINING | {"sending"},
    "observing": BELOW_JOINING | {"parts", "tracing"},
    "reporting": BELOW_JOINING | {"observing"},
    "caching": BELOW_JOINING | {"observing", "parts"},
    "middleware": BELOW_JOINING,
    "recorder": BELOW_JOINING,
    "stack": BELOW_JOINING
    | {"models", "parts", "tracing", "observing", "reporting", "caching", "middleware", "recorder"},
    "serve": {"stack", "core", "ledger.queries", "ledger.report", "experiments.report"},
    "demo": BELOW_JOINING | JOINING | {"simulator"},
    "cli": BELOW_JOINING | JOINING | {"serve", "demo", "simulator"},
    "simulator": set(),
    "__main__": {"cli"},
    "_face": set(),
    "_version": set(),
}
# Which files may import a third-party package; a key with a dot is that part of a package. `""` means everywhere.
THIRD_PARTY: dict[str, tuple[str, ...]] = {
    "cryptography": ("core/envelope.py",),
    "genai_prices": ("core/catalogue.py",),
    "h11": ("simulator/",),
    "hiredis": ("stores/wire.py",),
    "httpx": ("models.py", "simulator/"),
    "langchain.agents": ("middleware/", "demo/"),
    "langchain.chat_models": ("models.py",),
    "langchain.tools": ("demo/",),
    "langchain_core": ("",),
    "langgraph": ("checkpoint/", "demo/", "middleware/"),
    "langsmith": ("sending.py", "tracing.py", "telemetry/runs.py", "telemetry/tracer.py"),
    "numpy": ("cache/nearest.py",),
    "obstore": ("stores/objects.py", "stores/memory.py"),
    "opentelemetry": ("telemetry/otel.py",),
    "ormsgpack": ("checkpoint/nodes.py",),
    "orjson": ("cache/codec.py",),
    "platformdirs": ("core/settings.py",),
    "prometheus_client": ("telemetry/prometheus.py", "telemetry/conversations.py", "stack.py"),
    "psycopg": ("stores/postgres.py", "stores/postgres_arrays.py", "stores/postgres_connections.py"),
    "psycopg_pool": ("stores/postgres.py",),
    "pydantic": (
        "cache/asked.py",
        "core/settings.py",
        "core/delegate.py",
        "router/branch.py",
        "router/model.py",
        "resilience/fallback.py",
    ),
    "pydantic_settings": ("core/settings.py",),
    "redis": (
        "stores/redis.py",
        "stores/redis_cluster.py",
        "stores/redis_push.py",
        "stores/wire.py",
        "stores/wire_blocking.py",
        "stores/wire_loop.py",
    ),
    "requests": ("sending.py",),
    "rich": ("cli/", "ledger/report.py"),
    "sqlite3": ("stores/sqlite.py", "stores/memory.py"),
    "starlette": ("recorder/api.py",),
    "structlog": ("telemetry/logs.py",),
    "tiktoken": ("core/tokens.py",),
    "typer": ("cli/",),
    "urllib3": ("sending.py",),
    "uvicorn": ("recorder/running.py",),
    "yaml": ("simulator/",),
    "zstandard": ("core/envelope.py", "recorder/wire.py"),
}
FORBIDDEN = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "langchain_core.load"}
# Deliberate lazy steps back: `open_store` is the face of the room and loads drivers when asked.
LAZY_STEPS = {("stores.base", "stores.open")}
ENVIRONMENT: dict[str, set[str] | None] = {
    "core/settings.py": None,
    "core/tokens.py": {"TIKTOKEN_CACHE_DIR"},
    "cli/tables.py": {"COLUMNS"},
    "demo/run.py": {"OPENAI_API_KEY"},
}


HOUSE = read_house(PACKAGE)


# the rules: each takes the files and returns what is wrong, one line each


def imports_go_down_only(house: list[Source]) -> list[str]:
    wrong = []
    modules = {source.module for source in house}
    for source in house:
        if source.module and source.room not in MAY_IMPORT:
            wrong.append(f"{source.path}: room {source.room!r} is not in the house")
            continue
        for found, target in source.ours:
            if target in modules and not _may(source, target):
                wrong.append(f"{source.path}:{found.line}: {source.room or 'the face'} may not import {target}")
    return wrong


def _may(source: Source, target: str) -> bool:
    room = target.partition(".")[0]
    if source.module == "":
        return True
    if target == "":
        return False
    return room in (source.room, "_version") or room in MAY_IMPORT[source.room] or target in MAY_IMPORT[source.room]


def no_import_circles(house: list[Source]) -> list[str]:
    modules = {source.module for source in house}
    graph = {
        source.module: {
            target
            for found, target in source.ours
            if not found.typing and target in modules - {source.module} and (source.module, target) not in LAZY_STEPS
        }
        for source in house
        if source.module
    }
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> list[str]:
        if module in path:
            return [" -> ".join((*path[path.index(module) :], module))]
        if module in done:
            return []
        circles = [circle for target in graph.get(module, ()) for circle in walk(target, (*path, module))]
        done.add(module)
        return circles

    return [circle for module in graph for circle in walk(module, ())]


def packages_stay_in_their_files(house: list[Source]) -> list[str]:
    wrong = []
    for source in house:
        for found in source.imports:
            package = found.module.split(".")[0]
            if found.typing or package == NAME or (package in sys.stdlib_module_names and package != "sqlite3"):
                continue
            places = [THIRD_PARTY[key] for key in prefixes(found.module) if key in THIRD_PARTY]
            if not places and found.module in {"langchain"}:
                continue
            if not any(source.path.startswith(place) for allowed in places for place in allowed):
                wrong.append(f"{source.path}:{found.line}: {found.module} is not allowed here")
    return wrong


def stored_bytes_never_run(house: list[Source]) -> list[str]:
    return [
        f"{source.path}:{found.line}: {found.module} can run code from bytes"
        for source in house
        for found in source.imports
        if FORBIDDEN & set(prefixes(found.module))
    ]


def files_are_short(house: list[Source]) -> list[str]:
    lengths = {source.path: source.text.count("\n") for source in house}
    return [f"{path}: {lines} lines" for path, lines in lengths.items() if lines > MAX_FILE_LINES]


def functions_are_short(house: list[Source]) -> list[str]:
    bodies = {
        f"{source.path}:{node.lineno} {node.name}": body_lines(node) for source in house for node in source.functions
    }
    lengths = sorted(lines for lines in bodies.values() if lines)
    wrong = [f"{name}: {lines} lines" for name, lines in bodies.items() if lines > MAX_BODY]
    if lengths and median(lengths) > MAX_MEDIAN_BODY:
        wrong.append(f"the median function has {median(lengths)} lines")
    if lengths and (p95 := lengths[-(-95 * len(lengths) // 100) - 1]) > MAX_P95_BODY:
        wrong.append(f"the 95th percentile of functions is {p95} lines")
    return wrong


def modules_say_what_they_offer(house: list[Source]) -> list[str]:
    wrong = []
    for source in house:
        if source.is_face or source.path.endswith("_version.py"):
            continue
        offered = source.offered
        if offered is None:
            wrong.append(f"{source.path}: no __all__")
            continue
        wrong += [f"{source.path}: __all__ names {name}, which is not there" for name in offered - source.bound]
    return wrong


def faces_define_nothing(house: list[Source]) -> list[str]:
    return [
        f"{source.path}:{node.lineno}: a face only names things"
        for source in house
        if source.is_face
        for node in source.tree.body
        if not only_names(node)
    ]


def settings_alone_read_the_environment(house: list[Source]) -> list[str]:
    wrong = []
    for source in house:
        allowed = ENVIRONMENT.get(source.path, set())
        for node in ast.walk(source.tree):
            name = environment_name(node)
            if name is not None and allowed is not None and name not in allowed:
                wrong.append(f"{source.path}: reads {name or 'the environment'}")
    return wrong


RULES = (
    imports_go_down_only,
    no_import_circles,
    packages_stay_in_their_files,
    stored_bytes_never_run,
    files_are_short,
    functions_are_short,
    modules_say_what_they_offer,
    faces_define_nothing,
    settings_alone_read_the_environment,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule) -> None:
    assert rule(HOUSE) == []


def test_files_of_tests_are_short_too() -> None:
    tests = read_house(TESTS)
    assert {"test_architecture.py", "support/source.py"} <= {source.path for source in tests}
    assert files_are_short(tests) == []


def _files(**files: str) -> list[Source]:
    return [Source(name.replace("__", "/") + ".py", text) for name, text in files.items()]


LONG_BODY = "\n".join(["def f():", *["    x = 1"] * 101])
WORDY = "\n".join(f"def f{n}():\n" + "    x = 1\n" * 10 for n in range(3))
SLOW_TAIL = "def a():\n    x = 1\n" * 3 + "def b():\n" + "    x = 1\n" * 41
BROKEN = {
    "core imports a store": (
        imports_go_down_only,
        _files(core__a="import langchain_llmops.stores.base", stores__base=""),
    ),
    "a store imports a sister": (
        imports_go_down_only,
        _files(stores__a="from langchain_llmops.cache import b", cache__b=""),
    ),
    "a sister imports a sister": (
        imports_go_down_only,
        _files(router__a="from langchain_llmops.telemetry.handler import H", telemetry__handler=""),
    ),
    "a thinking sister imports a store": (
        imports_go_down_only,
        _files(router__a="from langchain_llmops.stores.base import S", stores__base=""),
    ),
    "a remembering sister imports a driver": (
        imports_go_down_only,
        _files(cache__a="def f():\n    from langchain_llmops.stores.redis import R", stores__redis=""),
    ),
    "a sister imports a sister for its types": (
        imports_go_down_only,
        _files(cache__a="if TYPE_CHECKING:\n    from langchain_llmops.ledger.b import B", ledger__b=""),
    ),
    "the simulator imports core": (
        imports_go_down_only,
        _files(simulator__a="from langchain_llmops.core.types import Usage", core__types=""),
    ),
    "middleware imports the stack": (
        imports_go_down_only,
        _files(middleware__a="import langchain_llmops.stack", stack=""),
    ),
    "serve imports the cache": (
        imports_go_down_only,
        _files(serve__a="from langchain_llmops.cache.tiered import T", cache__tiered=""),
    ),
    "a room imports the face": (imports_go_down_only, [Source("__init__.py", ""), *_files(cli__a=f"import {NAME}")]),
    "a room nobody planned": (imports_go_down_only, _files(helpers__a="")),
    "two modules import each other": (
        no_import_circles,
        _files(core__a="import langchain_llmops.core.b", core__b="def f():\n    import langchain_llmops.core.a"),
    ),
    "redis outside its store": (packages_stay_in_their_files, _files(cache__a="import redis.asyncio")),
    "sqlite3 in the ledger": (packages_stay_in_their_files, _files(ledger__a="from sqlite3 import connect")),
    "agents outside middleware": (
        packages_stay_in_their_files,
        _files(stack="from langchain.agents import create_agent"),
    ),
    "langchain as a whole": (packages_stay_in_their_files, _files(stack="from langchain import agents")),
    "a package nobody named": (packages_stay_in_their_files, _files(core__a="def f():\n    import uvicorn")),
    "pickle": (stored_bytes_never_run, _files(cache__a="from pickle import loads")),
    "langchain's loader": (stored_bytes_never_run, _files(cache__a="from langchain_core import load")),
    "a long file": (files_are_short, _files(core__a="\n" * 401)),
    "a function over 100 lines": (functions_are_short, _files(core__a=LONG_BODY)),
    "wordy functions": (functions_are_short, _files(core__a=WORDY)),
    "a long tail": (functions_are_short, _files(core__a=SLOW_TAIL)),
    "no __all__": (modules_say_what_they_offer, _files(core__a="x = 1")),
    "an __all__ of ghosts": (modules_say_what_they_offer, _files(core__a="__all__ = ['x']")),
    "a face with code": (faces_define_nothing, [Source("core/__init__.py", "x = 1")]),
    "a face with a function": (faces_define_nothing, [Source("__init__.py", "def f(): ...")]),
    "environ in the stack": (settings_alone_read_the_environment, _files(stack="import os\nos.environ['X']")),
    "getenv in the cache": (settings_alone_read_the_environment, _files(cache__a="import os\nos.getenv('X')")),
    "another variable in tokens": (settings_alone_read_the_environment, _files(core__tokens="os.environ.get('HOME')")),
    "environ by name": (settings_alone_read_the_environment, _files(core__tokens="from os import environ")),
    "environ written": (settings_alone_read_the_environment, _files(stack="os.environ.update(a=1)")),
}


@pytest.mark.parametrize(("rule", "house"), BROKEN.values(), ids=BROKEN)
def test_a_house_that_breaks_the_rule_is_found_out(rule, house) -> None:
    assert len(rule(house)) >= 1


def test_every_rule_has_been_seen_to_fail() -> None:
    assert {rule for rule, _ in BROKEN.values()} == set(RULES)


def test_the_modules_of_the_package_are_where_the_rules_look() -> None:
    """A rule over an empty list would hold for ever."""
    assert {"core", "stores", "telemetry", "router", "ledger", "cache", "resilience"} <= {s.room for s in HOUSE}
    for one, other in pairwise(HOUSE):
        assert one.path < other.path
