from langchain_llmops.simulator.behaviours import Behaviour, Echo
from langchain_llmops.simulator.faults import FaultPlan
from langchain_llmops.simulator.latency import Latency
from langchain_llmops.simulator.record import recording
from langchain_llmops.simulator.replay import Replay
from langchain_llmops.simulator.running import running
from langchain_llmops.simulator.scripted import Scripted
from langchain_llmops.simulator.types import ApiError, Reply, Request, SimulatorError, ToolCall

__all__ = [
    "ApiError",
    "Behaviour",
    "Echo",
    "FaultPlan",
    "Latency",
    "Replay",
    "Reply",
    "Request",
    "Scripted",
    "SimulatorError",
    "ToolCall",
    "recording",
    "running",
]
