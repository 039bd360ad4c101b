"""Where each public name of the package lives; a name is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

__all__ = ["EXPORTS", "load"]

EXPORTS: Final = {
    "Bus": "core.events",
    "CacheMiddleware": "middleware.caching",
    "CachedEmbeddings": "cache.embeddings",
    "CachedRetriever": "cache.retriever",
    "CallRecord": "core.types",
    "ConfigurationError": "core.errors",
    "Decision": "router.model",
    "Envelope": "core.envelope",
    "FallbackChain": "resilience.fallback",
    "FallbackExhaustedError": "core.errors",
    "Identity": "core.types",
    "LLMOps": "stack",
    "LLMOpsError": "core.errors",
    "Ledger": "ledger.writer",
    "ModelRouter": "router.model",
    "OpsCallbackHandler": "telemetry.handler",
    "OpsTracer": "telemetry.tracer",
    "Policy": "cache.policy",
    "Prefetching": "cache.ahead",
    "PriceBook": "core.pricing",
    "PrometheusReader": "telemetry.prometheus",
    "Report": "ledger.report",
    "RetryPolicy": "resilience.retry",
    "RouterMiddleware": "middleware.routing",
    "Rules": "router.rules",
    "Settings": "core.settings",
    "StoreError": "core.errors",
    "TieredCache": "cache.tiered",
    "TieredCheckpointSaver": "checkpoint.saver",
    "Ttl": "cache.policy",
    "Usage": "core.types",
    "cached": "cache.model",
    "classify": "core.classify",
    "open_store": "stores.base",
}


def load(name: str) -> Any:
    """Import a public name; the `__getattr__` of the package (PEP 562)."""
    module = EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'langchain_llmops' has no attribute {name!r}")
    return getattr(import_module(f"langchain_llmops.{module}"), name)
