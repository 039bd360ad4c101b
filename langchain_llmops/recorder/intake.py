"""What one request brings: whole runs and feedback, and a line for each that cannot be taken."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.recorder.runs import RunRow, feedback_row, run_row
from langchain_llmops.recorder.schema import LARGE
from langchain_llmops.recorder.wire import Part, RefusedRequestError, json_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Intake", "from_batch", "from_parts", "object_of"]

BESIDE: Final = frozenset(("", *LARGE, "error"))


@dataclass
class Intake:
    """Rows that are whole, and why others are not among them."""

    runs: list[RunRow] = field(default_factory=list)
    feedback: list[tuple[Any, ...]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def add_run(self, kind: str, fields: Any, attachments: Mapping[str, Any] | None = None) -> None:
        """Take one run, or say why not."""
        try:
            self.runs.append(run_row(kind, object_of(fields, f"a {kind}ed run"), attachments))
        except RefusedRequestError as error:
            self.refused.append(str(error))


def from_batch(body: Any) -> Intake:
    """`{"post": [run, …], "patch": [run, …]}`."""
    intake = Intake()
    for kind in ("post", "patch"):
        runs = object_of(body, "a batch").get(kind) or []
        if not isinstance(runs, list):
            raise RefusedRequestError(422, f"{kind!r} of a batch must be a list of runs")
        for run in runs:
            intake.add_run(kind, run)
    return intake


def from_parts(parts: Iterable[Part], now_us: int) -> Intake:
    """`post.<id>`, `patch.<id>`, their `.inputs` and the like, `attachment.<id>.<name>` and `feedback.<id>`.

    A run of which one part cannot be read is refused as a whole. LangSmith's client sends attachments with the post or
    patch of their run; those of no run in this request are refused.
    """
    intake, damaged = Intake(), set[tuple[str, str]]()
    runs, attachments = defaultdict[tuple[str, str], dict[str, Any]](dict), defaultdict[str, dict[str, Any]](dict)
    for part in parts:
        kind, _, rest = part.name.partition(".")
        run_id, _, name = rest.partition(".")
        what = f"part {part.name[:80]!r}"
        try:
            if kind == "attachment":
                attachments[run_id][name] = {"mime_type": part.content_type, "bytes": len(part.data)}
            elif kind == "feedback":
                intake.feedback.append(feedback_row(object_of(json_of(part.data, what), what), now_us))
            elif kind in ("post", "patch") and name in BESIDE:
                value = json_of(part.data, what)
                runs[kind, run_id] |= {name: value} if name else object_of(value, what)
            else:
                intake.refused.append(f"{what} is not known")
        except RefusedRequestError as error:
            intake.refused.append(str(error))
            damaged.add((kind, run_id))
    for (kind, run_id), fields in runs.items():
        if (kind, run_id) not in damaged:
            intake.add_run(kind, {"id": run_id, **fields}, attachments.pop(run_id, None))
    named = {run_id for _, run_id in (*runs, *damaged)}
    for run_id, files in attachments.items():
        if run_id not in named:
            intake.refused += [_lonely(f"attachment.{run_id}.{name}") for name in files]
    return intake


def _lonely(name: str) -> str:
    return f"part {name[:80]!r} comes without its run; send it in one request with the run's post or patch"


def object_of(value: Any, what: str) -> dict[str, Any]:
    """The value, when it is a JSON object; `what` names it in the refusal."""
    if not isinstance(value, dict):
        raise RefusedRequestError(422, f"{what} must be a JSON object")
    return value
