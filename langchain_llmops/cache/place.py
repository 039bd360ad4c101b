"""Where a model's requests go: part of a key, and not always part of what LangChain tells of a model."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from langchain_core.language_models import BaseChatModel, BaseLanguageModel

__all__ = ["PLACES", "is_part", "is_text_model", "place_of"]

MOST_URLS: Final = 256

# fields of models that name it
PLACES: Final = (
    "openai_api_base",
    "base_url",
    "anthropic_api_url",
    "azure_endpoint",
    "endpoint_url",
    "endpoint",
    "api_base",
)


def place_of(model: object) -> str | None:
    """The URL that a model's client or its fields tell, "" for none; None where reading it fails.

    The client knows best: the environment may have told it what no field says. Attributes are read from where they
    lie: those that a pydantic model lacks are dear to ask for.
    """
    kind: Any = type(model)  # mypy thinks that classes cannot be hashed
    if not _kind(kind):
        return ""
    try:
        return _place(model)
    except Exception:  # noqa: BLE001 - the client is a stranger's; None keeps its calls out of the cache
        return None


def _place(model: Any) -> str:
    held = model.__dict__
    client = held.get("root_client") or held.get("root_async_client") or held.get("client")
    place = _url(client or (model.__pydantic_private__ or {}).get("_client"))
    if place is not None:
        return place
    return next((found for name in PLACES if isinstance(found := held.get(name), str) and found), "").rstrip("/")


def is_part(value: str, place: str) -> bool:
    """Whether a field says no more than what is known of the place."""
    return bool(place) and place.startswith(value.rstrip("/"))


def is_text_model(model: object) -> bool:
    """Whether it is asked with a text, and not with messages."""
    kind: Any = type(model)
    return _kind(kind) == "text"


@lru_cache(maxsize=256)
def _kind(of: type) -> str:
    """Of a model's class: "chat" or "text"; "" for that of anything else. Asking pydantic every time is slow."""
    return "chat" if issubclass(of, BaseChatModel) else "text" if issubclass(of, BaseLanguageModel) else ""


# the text of URLs, which never change, by their `id`; building it takes longer than all else here
_TEXTS: dict[int, tuple[object, str]] = {}


def _url(client: Any) -> str | None:
    if client is None:
        return None
    url = getattr(client, "base_url", None) or getattr(getattr(client, "_client", None), "base_url", None)
    if url is None:
        return None
    known = _TEXTS.get(id(url))
    if known is None or known[0] is not url:
        if len(_TEXTS) >= MOST_URLS:
            _TEXTS.clear()
        known = _TEXTS[id(url)] = (url, str(url).rstrip("/"))
    return known[1] if "://" in known[1] else None
