"""An environment that traces to a LangSmith of the test's own, and a suite that is opened in it."""

from __future__ import annotations

from contextlib import contextmanager

import langsmith
import pytest
from langchain_core.tracers.langchain import wait_for_all_tracers
from langsmith import utils

from langchain_llmops import LLMOps, Settings

__all__ = ["environment", "opened", "traced_to", "variables"]


def environment(url, project=None) -> dict[str, str]:
    """What tells a program to trace to `url`."""
    told = {"LANGSMITH_TRACING": "true", "LANGSMITH_ENDPOINT": url, "LANGSMITH_API_KEY": "lsv2_pt_test"}
    return told if project is None else {**told, "LANGSMITH_PROJECT": project}


@contextmanager
def variables(told: dict[str, str]):
    """Sets variables, of which LangSmith's client otherwise keeps the first values that it read."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        _forget()
        yield
    _forget()


def _forget() -> None:
    utils.get_env_var.cache_clear()
    utils.get_tracer_project.cache_clear()


@contextmanager
def traced_to(url, project=None):
    with variables(environment(url, project)):
        langsmith.configure(client=None)  # LangChain's own tracer keeps the first client of the process
        yield
        wait_for_all_tracers()
        langsmith.configure(client=None)


@contextmanager
def opened(folder, **settings):
    with LLMOps(Settings(state_dir=folder, log_calls="off", **settings)) as ops:
        client = ops.callbacks[1].client
        yield ops
    client.cleanup()
    wait_for_all_tracers()
