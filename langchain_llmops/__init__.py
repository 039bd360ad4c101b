"""Cost, cache, routing, fallbacks, tiered checkpoints and traces for LangChain and LangGraph agents."""

from typing import TYPE_CHECKING

from langchain_llmops._face import load as __getattr__
from langchain_llmops._version import __version__

if TYPE_CHECKING:
    from langchain_llmops.cache.ahead import Prefetching
    from langchain_llmops.cache.embeddings import CachedEmbeddings
    from langchain_llmops.cache.model import cached
    from langchain_llmops.cache.policy import Policy, Ttl
    from langchain_llmops.cache.retriever import CachedRetriever
    from langchain_llmops.cache.tiered import TieredCache
    from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
    from langchain_llmops.core.classify import classify
    from langchain_llmops.core.envelope import Envelope
    from langchain_llmops.core.errors import ConfigurationError, FallbackExhaustedError, LLMOpsError, StoreError
    from langchain_llmops.core.events import Bus
    from langchain_llmops.core.pricing import PriceBook
    from langchain_llmops.core.settings import Settings
    from langchain_llmops.core.types import CallRecord, Identity, Usage
    from langchain_llmops.ledger.report import Report
    from langchain_llmops.ledger.writer import Ledger
    from langchain_llmops.middleware.caching import CacheMiddleware
    from langchain_llmops.middleware.routing import RouterMiddleware
    from langchain_llmops.resilience.fallback import FallbackChain
    from langchain_llmops.resilience.retry import RetryPolicy
    from langchain_llmops.router.model import Decision, ModelRouter
    from langchain_llmops.router.rules import Rules
    from langchain_llmops.stack import LLMOps
    from langchain_llmops.stores.base import open_store
    from langchain_llmops.telemetry.handler import OpsCallbackHandler
    from langchain_llmops.telemetry.prometheus import PrometheusReader
    from langchain_llmops.telemetry.tracer import OpsTracer

__all__ = [
    "Bus",
    "CacheMiddleware",
    "CachedEmbeddings",
    "CachedRetriever",
    "CallRecord",
    "ConfigurationError",
    "Decision",
    "Envelope",
    "FallbackChain",
    "FallbackExhaustedError",
    "Identity",
    "LLMOps",
    "LLMOpsError",
    "Ledger",
    "ModelRouter",
    "OpsCallbackHandler",
    "OpsTracer",
    "Policy",
    "Prefetching",
    "PriceBook",
    "PrometheusReader",
    "Report",
    "RetryPolicy",
    "RouterMiddleware",
    "Rules",
    "Settings",
    "StoreError",
    "TieredCache",
    "TieredCheckpointSaver",
    "Ttl",
    "Usage",
    "__version__",
    "cached",
    "classify",
    "open_store",
]
