"""The files of the package or of its tests, read: what they import, bind, offer and ask of the environment."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import langchain_llmops

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(langchain_llmops.__file__).parent
TESTS = Path(__file__).parent.parent
NAME = "langchain_llmops"
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Import:
    """One imported module, by full name; `typing` is whether only type checkers see it."""

    module: str
    line: int
    typing: bool


@dataclass(frozen=True)
class Source:
    """One file of the house: path below its folder, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def module(self) -> str:
        """`core.types` for `core/types.py`, `core` for its face, the empty string for the package's face."""
        return self.path.removesuffix(".py").removesuffix("__init__").strip("/").replace("/", ".")

    @property
    def room(self) -> str:
        return self.module.partition(".")[0]

    @property
    def is_face(self) -> bool:
        return self.path.endswith("__init__.py")

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        return tuple(_imports(self.tree, typing=False))

    @property
    def ours(self) -> list[tuple[Import, str]]:
        """Imports of our own modules, with their names below the package."""
        return [
            (found, found.module.removeprefix(NAME).strip("."))
            for found in self.imports
            if found.module.split(".")[0] == NAME
        ]

    @property
    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]

    @property
    def offered(self) -> set[str] | None:
        """What `__all__` names."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
                return set(ast.literal_eval(node.value))
        return None

    @property
    def bound(self) -> set[str]:
        """Every name at the top of the file."""
        names: set[str] = set()
        scopes = [line for line in self.tree.body if isinstance(line, SCOPES)]
        for node in ast.walk(ast.Module([line for line in self.tree.body if line not in scopes], [])):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.alias):
                names.add(node.asname or node.name)
        return names | {scope.name for scope in scopes}


def _imports(tree: ast.AST, *, typing: bool) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from _imports(ast.Module(node.body, []), typing=True)
            yield from _imports(ast.Module(node.orelse, []), typing=typing)
        elif isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            assert node.module is not None
            yield Import(node.module, node.lineno, typing)
            yield from (Import(f"{node.module}.{alias.name}", node.lineno, typing) for alias in node.names)
        else:
            yield from _imports(node, typing=typing)


def read_house(folder: Path) -> list[Source]:
    return [
        Source(path.relative_to(folder).as_posix(), path.read_text("utf-8")) for path in sorted(folder.rglob("*.py"))
    ]


def prefixes(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: size + 1]) for size in range(len(parts))]


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines below the signature and the docstring; 0 for a stub, which is no code."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    if not body or all(isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) for line in body):
        return 0
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


def only_names(node: ast.stmt) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom():
            return True
        case ast.Expr(value=ast.Constant(value=str())):
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")], value=ast.List()):
            return True
        case ast.If():
            return ast.unparse(node.test) == "TYPE_CHECKING" and all(map(only_names, node.body))
    return False


def environment_name(node: ast.AST) -> str | None:
    """The variable that an expression reads; "" when it touches the environment in any other way."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="environ"), attr="get"), args=[ast.Constant(v), *_]):
            return str(v)
        case ast.Call(func=ast.Attribute(attr="getenv"), args=[ast.Constant(v), *_]):
            return str(v)
        case ast.Attribute(value=ast.Attribute(attr="environ"), attr=attribute) if attribute != "get":
            return ""
        case (
            ast.Subscript(value=ast.Attribute(attr="environ"))
            | ast.Compare(comparators=[ast.Attribute(attr="environ")])
        ):
            return ""
        case ast.ImportFrom(module="os", names=names) if {"environ", "getenv"} & {alias.name for alias in names}:
            return ""
    return None
