"""Who serves a model, and under which name it is priced."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ModelNames"]

_SEPARATORS: Final = str.maketrans("", "", "-_. ")
_BEDROCK: Final = re.compile(
    r"^((us|eu|apac|global|jp|au|us-gov)\.)?(anthropic|amazon|meta|mistral|cohere|ai21|deepseek|qwen)\."
)


class ModelNames:
    """Reads model and provider names as LangChain, LiteLLM, Bedrock and OpenRouter write them.

    Args:
        providers: the ids that the price list uses. `data/providers.json` adds the names that LangChain's packages put
            into `ls_provider`, the runners of local models, and the families that only their maker can serve.
    """

    def __init__(self, providers: Iterable[str]) -> None:
        known: Any = json.loads(files("langchain_llmops.core").joinpath("data/providers.json").read_text("utf-8"))
        self._providers = {_squeezed(provider): provider for provider in providers} | known["aliases"]
        self._local = frozenset(known["local"])
        self._closed = tuple(known["closed_models"])

    def split(self, model: str, provider: str | None = None) -> tuple[str | None, str]:
        """`(provider, name)` in the words of the price list.

        Understands `provider/name` and `provider:name`, `models/name`, Bedrock ids and ARNs with and without a region,
        and LangChain's `ls_provider` values. A fine-tuned name `ft:base:org::id` becomes `ft:base`.
        """
        name = model.rpartition("/")[2] if model.startswith("arn:") else model.removeprefix("models/")
        for separator in ("/", ":"):
            head, found, rest = name.partition(separator)
            if found and self._is_provider(head):
                provider, name = head, rest.removeprefix("models/")
                break
        if name.startswith("ft:"):
            return "openai", ":".join(name.split(":")[:2])
        if _BEDROCK.match(name):
            return "aws", name
        return self.provider(provider), name

    def provider(self, name: str | None) -> str | None:
        """The price list's id of a provider; a name it does not know comes back in lower case."""
        return self._providers.get(_squeezed(name), name.lower()) if name else None

    def is_local(self, provider: str | None) -> bool:
        """Whether it runs models on the user's own machines, where a vendor's price means nothing."""
        return provider is not None and _squeezed(provider) in self._local

    def is_closed(self, name: str) -> bool:
        """Whether only its maker and the clouds that resell it at list price can serve a model of this name."""
        return name.lower().startswith(self._closed)

    def _is_provider(self, name: str) -> bool:
        squeezed = _squeezed(name)
        return squeezed in self._providers or squeezed in self._local


def _squeezed(name: str) -> str:
    """`LM-Studio`, `lm_studio` and `lmstudio` are one name."""
    return name.lower().translate(_SEPARATORS)
