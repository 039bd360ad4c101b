"""Names from outside, made fit for labels."""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_NAME", "MAX_NAMES", "OTHER", "BoundedNames", "storable"]

MAX_NAMES: Final = 200
MAX_NAME: Final = 128
OTHER: Final = "other"


class BoundedNames:
    """The first 200 names met stay what they are, long ones cut to 128 characters; later ones become `other`.

    A model name is text from outside: without a bound, series without end.
    """

    def __init__(self) -> None:
        self._met: set[str] = set()

    def __call__(self, name: str) -> str:
        """The name to use as a label."""
        name = storable(name[:MAX_NAME])
        if name in self._met:
            return name
        if len(self._met) >= MAX_NAMES:
            return OTHER
        self._met.add(name)
        return name


def storable(text: str) -> str:
    """Text that UTF-8 can hold: one lone surrogate would make a whole page or batch unreadable."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
