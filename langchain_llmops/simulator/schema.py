"""A JSON value that is valid against a JSON schema, always the same one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.simulator.types import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["instance_of"]

Schema = dict[str, Any]

DEEP: Final = 5
"""Below this depth only what is required is generated, which ends recursive schemas."""
TOO_DEEP: Final = 40
ANY: Final[Schema] = {}
_UNSUPPORTED: Final = (
    "pattern", "not", "if", "patternProperties", "propertyNames", "contains", "minProperties", "dependentRequired",
)  # fmt: skip
_FORMATS: Final = {
    "date": "2024-01-31",
    "time": "12:00:00Z",
    "date-time": "2024-01-31T12:00:00Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def instance_of(schema: Mapping[str, Any]) -> Any:
    """A valid instance: every property, one item per array, texts named after their property.

    Raises:
        ApiError: 400 when the schema is malformed or uses a keyword that cannot be generated for (it is named).
    """
    try:
        return _Generator(schema).value(dict(schema), "text", 0)
    except (TypeError, AttributeError, KeyError, IndexError, ValueError) as error:  # a caller's JSON of any shape
        raise _invalid(f"it is malformed ({type(error).__name__}: {error})") from error


class _Generator:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def value(self, schema: Schema, name: str, depth: int) -> Any:
        """One instance; `name` is the property it stands under."""
        if depth > TOO_DEEP:
            raise _invalid("it has no finite instance")
        node = self._plain(schema, depth)
        unsupported = next((keyword for keyword in _UNSUPPORTED if keyword in node), None)
        if unsupported:
            raise _invalid(f"the simulator cannot generate for the keyword '{unsupported}'")
        if "const" in node:
            return node["const"]
        if "enum" in node:
            return node["enum"][0]
        return self._typed(node, name, depth)

    def _plain(self, schema: Schema, depth: int) -> Schema:
        """The schema with references, unions and intersections resolved into it."""
        node = ANY if schema is True else dict(schema)  # type: ignore[comparison-overlap] # true is a schema too
        for _ in range(TOO_DEEP):
            if "$ref" in node:
                node = {**self._resolve(node.pop("$ref")), **node}
            elif "allOf" in node:
                node = _merged([*node.pop("allOf"), node])
            elif "anyOf" in node or "oneOf" in node:
                options = node.pop("anyOf", None) or node.pop("oneOf")
                node = _merged([node, _option(options, deep=depth >= DEEP)])
            else:
                return node
        raise _invalid("its references go in a circle")

    def _resolve(self, pointer: str) -> Schema:
        if not pointer.startswith("#"):
            raise _invalid(f"the simulator resolves only references inside the schema, not '{pointer}'")
        node: Any = self._root
        for step in pointer.split("/")[1:]:
            node = node[step.replace("~1", "/").replace("~0", "~")]
        return dict(node)

    def _typed(self, node: Schema, name: str, depth: int) -> Any:
        match _type_of(node):
            case "object":
                return self._object(node, depth)
            case "array":
                return self._array(node, name, depth)
            case "string":
                return _string(node, name)
            case "integer" | "number" as kind:
                return _number(node, whole=kind == "integer")
            case "boolean":
                return True
            case "null":
                return None
            case other:
                raise _invalid(f"'{other}' is no JSON type")

    def _object(self, node: Schema, depth: int) -> dict[str, Any]:
        properties = node.get("properties", {})
        required = node.get("required", [])
        extra = node.get("additionalProperties") or ANY
        names = [name for name in properties if depth < DEEP or name in required]
        names += [name for name in required if name not in properties]
        return {name: self.value(properties.get(name, extra), name, depth + 1) for name in names}

    def _array(self, node: Schema, name: str, depth: int) -> list[Any]:
        fixed = [self.value(item, name, depth + 1) for item in node.get("prefixItems", ())]
        items = node.get("items", ANY)
        wanted = node.get("minItems", 1 if depth < DEEP and items is not False else 0)
        more = max(0, min(wanted, node.get("maxItems", wanted)) - len(fixed))
        if more > 1 and node.get("uniqueItems"):
            return fixed + self._distinct(items, more)
        return fixed + [self.value(items, name, depth + 1) for _ in range(more)]

    def _distinct(self, items: Schema, count: int) -> list[Any]:
        choices = self._plain(items, 0).get("enum", ())
        if len(choices) < count:
            raise _invalid("the simulator generates several unique items only from an enum")
        return list(choices[:count])


def _type_of(node: Schema) -> str:
    kind = node.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind is None:
        kind = "object" if "properties" in node else "array" if "items" in node else "string"
    return str(kind)


def _option(options: list[Schema], *, deep: bool) -> Schema:
    """The first option; deep down null where it is allowed, to end a recursion."""
    if deep:
        return next((option for option in options if option.get("type") == "null"), options[0])
    return next((option for option in options if "pattern" not in option), options[0])


def _merged(schemas: list[Schema]) -> Schema:
    merged: Schema = {}
    for schema in schemas:
        both = {**merged, **schema}
        if "properties" in merged and "properties" in schema:
            both["properties"] = {**merged["properties"], **schema["properties"]}
        if "required" in merged and "required" in schema:
            both["required"] = [*merged["required"], *schema["required"]]
        merged = both
    return merged


def _string(node: Schema, name: str) -> str:
    text = _FORMATS.get(node.get("format", ""), name)
    return text.ljust(node.get("minLength", 0), "x")[: node.get("maxLength")]


def _number(node: Schema, *, whole: bool) -> float:
    """The number nearest to zero that keeps the bounds and `multipleOf`."""
    step = node.get("multipleOf", 1)
    low, high = node.get("minimum", -math.inf), node.get("maximum", math.inf)
    above, below = node.get("exclusiveMinimum", -math.inf), node.get("exclusiveMaximum", math.inf)

    def fits(number: float) -> bool:
        return low <= number <= high and above < number < below and not (whole and number % 1)

    least, most = max(low, above), min(high, below)
    start = max(least, min(0, most))
    on_grid = [k * step for base in (math.floor(start / step),) for k in range(base - 1, base + 3)]
    candidates = on_grid if "multipleOf" in node else [*on_grid, start, (least + most) / 2]
    found = next((number for number in sorted(candidates, key=abs) if fits(number)), None)
    if found is None:
        raise _invalid("no number keeps its bounds")
    return int(found) if whole else found


def _invalid(reason: str) -> ApiError:
    return ApiError(400, f"Invalid schema for response_format or tool: {reason}.", param="response_format")
