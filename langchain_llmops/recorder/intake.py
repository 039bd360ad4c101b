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

__all__ = ["Intake", "from_batch", "from_parts"]

BESIDE: Final = frozenset((*LARGE, "error"))


@dataclass
class Intake:
    """Rows that are whole, and why others are not among them."""

    runs: list[RunRow] = field(default_factory=list)
    feedback: list[tuple[Any, ...]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def add_run(self, kind: str, fields: Any, attachments: Mapping[str, Any] | None = None) -> None:
        """Take one run, or say why not."""
        try:
            self.runs.append(run_row(kind, _object(fields, f"a {kind}ed run"), attachments))
        except RefusedRequestError as error:
            self.refused.append(str(error))
        except RecursionError:
            self.refused.append(f"a {kind}ed run is nested too deeply to be kept")

    def add_feedback(self, fields: Any, now_us: int) -> None:
        """Take one feedback, or say why not."""
        try:
            self.feedback.append(feedback_row(_object(fields, "a feedback"), now_us))
        except RefusedRequestError as error:
            self.refused.append(str(error))


@dataclass
class _Pieces:
    fields: dict[str, Any] = field(default_factory=dict)
    attachments: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None


def from_batch(body: Any) -> Intake:
    """`{"post": [run, …], "patch": [run, …]}`."""
    intake = Intake()
    for kind in ("post", "patch"):
        runs = _object(body, "a batch").get(kind) or []
        if not isinstance(runs, list):
            raise RefusedRequestError(422, f"{kind!r} of a batch must be a list of runs")
        for run in runs:
            intake.add_run(kind, run)
    return intake


def from_parts(parts: Iterable[Part], now_us: int) -> Intake:
    """`post.<id>`, `patch.<id>`, their `.inputs` and the like, `attachment.<id>.<name>` and `feedback.<id>`."""
    intake, pieces = Intake(), defaultdict[tuple[str, str], _Pieces](_Pieces)
    attachments = defaultdict[str, dict[str, Any]](dict)
    for part in parts:
        kind, _, rest = part.name.partition(".")
        run_id, _, name = rest.partition(".")
        if kind == "attachment":
            attachments[run_id][name] = {"mime_type": part.content_type, "bytes": len(part.data)}
        elif kind == "feedback":
            _feedback(intake, part, now_us)
        elif kind in ("post", "patch") and (not name or name in BESIDE):
            _piece(pieces[kind, run_id], part, name)
        else:
            intake.refused.append(f"part {part.name[:80]!r} is not known")
    for (kind, run_id), run in pieces.items():
        if run.fault is None:
            intake.add_run(kind, {"id": run_id, **run.fields}, attachments.pop(run_id, None))
        else:
            intake.refused.append(run.fault)
    return intake


def _piece(run: _Pieces, part: Part, name: str) -> None:
    try:
        value = json_of(part.data, f"part {part.name[:80]!r}")
        run.fields |= {name: value} if name else _object(value, f"part {part.name[:80]!r}")
    except RefusedRequestError as error:
        run.fault = run.fault or str(error)


def _feedback(intake: Intake, part: Part, now_us: int) -> None:
    try:
        fields = json_of(part.data, f"part {part.name[:80]!r}")
    except RefusedRequestError as error:
        intake.refused.append(str(error))
    else:
        intake.add_feedback(fields, now_us)


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RefusedRequestError(422, f"{what} must be a JSON object")
    return value
