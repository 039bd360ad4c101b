"""An agent before and after: run it with no key and no server.

python examples/quickstart.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from langchain.agents import create_agent
from langchain_core.tools import tool

from langchain_llmops import LLMOps, Settings
from langchain_llmops.simulator import Scripted, running

# What the simulated provider answers; with a key of your own, leave out base_url and api_key below.
SCRIPT = [
    {"when": {"last_role": "tool"}, "reply": {"content": "Order 10231 has been shipped."}},
    {
        "when": {"contains": "order"},
        "reply": {"tool_calls": [{"name": "lookup_order", "arguments": {"order_id": "10231"}}]},
    },
    {"default": {"content": "Items can be returned within 60 days."}},
]


@tool
def lookup_order(order_id: str) -> str:
    """Look up an order."""
    return f"{order_id}: shipped"


def main() -> None:
    """Four questions of two users, then the report."""
    with (
        tempfile.TemporaryDirectory() as state,
        running(Scripted(SCRIPT)) as provider,
        LLMOps(Settings(state_dir=Path(state))) as ops,
    ):
        agent = create_agent(
            ops.router(
                simple="openai:gpt-4o-mini",
                complex="openai:gpt-4o",
                base_url=provider.base_url,
                api_key="simulated",
            ),
            tools=[lookup_order],
            middleware=ops.middleware(),
            checkpointer=ops.checkpointer,
        )
        for user, question in (
            ("ada", "What is your returns policy?"),
            ("bob", "What is your returns policy?"),
            ("ada", "Where is my order?"),
            ("bob", "Please compare your two tents, step by step."),
        ):
            config = ops.config(user_id=user, session_id=f"{user}-1")
            answer = agent.invoke({"messages": [("user", question)]}, config)
            print(f"{user}: {question}\n  -> {answer['messages'][-1].text}")
        print()
        print(ops.report())


if __name__ == "__main__":
    main()
