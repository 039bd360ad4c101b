"""What tells the vectors of one embeddings object from those of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypedDict

from langchain_llmops.cache.fingerprint import Uncacheable
from langchain_llmops.cache.sharing import canonical
from langchain_llmops.core.errors import ConfigurationError

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

__all__ = ["Traits", "is_symmetric", "model_of", "traits_of", "variant_of"]

# fields of LangChain's embeddings classes, besides the model, that change the vectors
VARIANTS: Final = (
    "dimensions",
    "output_dimensionality",
    "model_kwargs",
    "encode_kwargs",
    "query_encode_kwargs",
    "query_instruction",
    "embed_instruction",
    "task_type",
    "input_type",
    "truncate",
    "normalize",
    "deployment",
    "azure_endpoint",
    "openai_api_base",
    "base_url",
    "endpoint_url",
)
METHODS: Final = ("embed_query", "aembed_query", "embed_documents", "aembed_documents")


class Traits(TypedDict):
    """What `CachedEmbeddings` must know of the embeddings that it, or a wrapper between, wraps."""

    model: str
    variant: str
    symmetric: bool


def traits_of(embeddings: Embeddings) -> Traits:
    """The traits that the object itself shows; a wrapper shows none of those of what is in it."""
    return {
        "model": model_of(embeddings) or type(embeddings).__name__,
        "variant": variant_of(embeddings),
        "symmetric": is_symmetric(embeddings),
    }


def model_of(embeddings: Embeddings) -> str | None:
    """The name of the model, where the object has one."""
    named = (getattr(embeddings, name, None) for name in ("model", "model_name", "model_id", "deployment"))
    return next((name for name in named if isinstance(name, str) and name), None)


def variant_of(embeddings: Embeddings) -> str:
    """What changes the vectors of that model, in one spelling."""
    found = {name: value for name in VARIANTS if (value := getattr(embeddings, name, None)) is not None}
    try:
        return canonical(found)
    except Uncacheable as error:
        raise ConfigurationError(f"say variant=…: what changes the vectors cannot be read off ({error})") from error


def is_symmetric(embeddings: Embeddings) -> bool:
    """Whether queries and documents have the same vectors, as those of OpenAI's."""
    makers = [next(maker for maker in type(embeddings).__mro__ if name in vars(maker)) for name in METHODS]
    return all(maker.__module__.partition(".")[0] == "langchain_openai" for maker in makers)
