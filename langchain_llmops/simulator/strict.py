"""What `strict: true` demands of a JSON schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_llmops.simulator.types import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["check_strict"]


def check_strict(schema: Mapping[str, Any], owner: str, param: str) -> None:
    """Refuse what strict mode refuses: the root is an object, each object is closed and requires all it has."""
    if schema.get("type") != "object":
        kind = schema.get("type")
        reason = f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'."
        raise _refused(owner, reason, param)
    for here, node in _objects(schema, ()):
        if node.get("additionalProperties") is not False:
            reason = "'additionalProperties' is required to be supplied and to be false."
            raise _refused(owner, f"In context={here}, {reason}", param)
        left_out = [name for name in node.get("properties") or () if name not in (node.get("required") or ())]
        if left_out:
            reason = "'required' is required to be supplied and to be an array including every key in properties."
            raise _refused(owner, f"In context={here}, {reason} Missing '{left_out[0]}'.", param)


def _objects(node: object, here: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every object schema below a node, with its place."""
    if isinstance(node, list):
        for i, item in enumerate(node):
            yield from _objects(item, (*here, str(i)))
    if not isinstance(node, dict):
        return
    if node.get("type") == "object":
        yield here, node
    for group in ("properties", "$defs", "definitions"):
        members = node.get(group)
        for name, child in members.items() if isinstance(members, dict) else ():
            yield from _objects(child, (*here, group, name))
    for keyword in ("items", "anyOf", "allOf", "oneOf"):
        yield from _objects(node.get(keyword), (*here, keyword))


def _refused(owner: str, reason: str, param: str) -> ApiError:
    return ApiError(400, f"Invalid schema for {owner}: {reason}", param=param)
