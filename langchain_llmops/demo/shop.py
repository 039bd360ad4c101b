"""Larkspur Outfitters: the small shop that the demo's support agent works for."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from langchain_core.tools import BaseTool, tool

__all__ = ["SYSTEM_PROMPT", "load_data", "shop_tools"]

SYSTEM_PROMPT = (
    "You are the support agent of Larkspur Outfitters, a shop for outdoor gear. Use the tools for orders, refunds and"
    " shop policies; never invent an order's state. Answer in at most three sentences."
)
REFUNDABLE = ("delivered", "delayed")


def load_data(name: str) -> Any:
    """A JSON file of the demo."""
    return json.loads(files("langchain_llmops.demo").joinpath(f"data/{name}").read_text("utf-8"))


def shop_tools() -> list[BaseTool]:
    """The agent's tools over the shop's data."""
    shop = load_data("shop.json")
    orders, articles = shop["orders"], shop["articles"]

    @tool
    def lookup_order(order_id: str) -> str:
        """Look up one order by its five-digit number."""
        order = orders.get(order_id)
        return json.dumps({"order_id": order_id, **order} if order else {"error": f"no order {order_id}"})

    @tool
    def refund_order(order_id: str, reason: str) -> str:
        """Refund a delivered or delayed order."""
        order = orders.get(order_id)
        if order is None:
            return json.dumps({"error": f"no order {order_id}"})
        if order["status"] not in REFUNDABLE:
            return json.dumps({"refused": f"order {order_id} is {order['status']} and cannot be refunded yet"})
        return json.dumps({"refunded": order_id, "amount_usd": order["total_usd"], "reason": reason})

    @tool
    def search_help(query: str) -> str:
        """Search the shop's policies and advice."""
        words = query.lower()
        found = {title: text for title, text in articles.items() if title.split()[0].rstrip("s") in words}
        return json.dumps(found or {"error": "nothing found"})

    return [lookup_order, refund_order, search_help]
