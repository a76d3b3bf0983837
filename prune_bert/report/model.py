"""``PruningReport``: everything that one run found, and ``report.json``, its mirror on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from prune_bert.display import Displayed, Shown, interval, number, points
from prune_bert.report.records import (
    CompensatedSite,
    LoadedForm,
    ModelInfo,
    PlanInfo,
    RecoveryInfo,
    ReportError,
    Row,
    SiteCost,
    TaskInfo,
    finite,
)
from prune_bert.text_files import UnreadableError, parse_json, read_text_file

SCHEMA_VERSION = 1
SCHEMA_PATH = Path(__file__).with_name("schema.json")


@dataclass(frozen=True, kw_only=True, repr=False)
class PruningReport(Displayed):
    """What one run removed, what that cost and what it gained, and how to run it again.

    ``environment``, ``config`` and the names in ``step_seconds`` are the run's own: any JSON.

    Examples:
        >>> PruningReport.from_json(report.to_json()) == report  # what `prune` returned
        True
    """

    created: str
    command: str
    environment: Mapping[str, Any]
    model: ModelInfo
    task: TaskInfo
    plan: PlanInfo
    rows: tuple[Row, ...]
    site_costs: tuple[SiteCost, ...] = ()
    compensated_sites: tuple[CompensatedSite, ...] = ()
    recovery: RecoveryInfo | None = None
    checkpoint_format: str | None = None
    """In which the model was saved; None where it was not, or in a report that does not say."""
    loaded_with: tuple[LoadedForm, ...] = ()
    """The ways of loading what was saved; empty where nothing was, or in a report that does not say."""
    notes: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    step_seconds: Mapping[str, float] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for name in ("environment", "config"):
            object.__setattr__(self, name, _as_json(getattr(self, name)))
        if not self.rows or not self.task.metrics:
            raise ReportError("a report needs at least one row, the baseline, and one metric")
        for row in self.rows:
            missing = [metric for metric in self.task.metrics if metric not in row.metrics]
            if missing:
                raise ReportError(f"the row {row.name!r} has no figure for {', '.join(missing)}")

    def to_json(self) -> str:
        """Write the report as the text of ``report.json``; ``from_json`` gives back an equal report."""
        data = _adapter().dump_python(self, mode="json")
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> PruningReport:
        """Read the text of a ``report.json``.

        Raises:
            ReportError: The text is not JSON, of another schema version, or lacks something.
        """
        try:
            data = parse_json(text)
        except UnreadableError as error:
            raise ReportError(f"not a report: it is not JSON ({error}); give the report.json of a run") from None
        if not isinstance(data, dict) or "schema_version" not in data:
            raise ReportError("not a report: it has no schema_version; give the report.json of a run")
        version = data["schema_version"]
        if version != SCHEMA_VERSION:
            raise ReportError(
                f"the report has schema_version {version!r} and this prune_bert reads {SCHEMA_VERSION}; "
                "render it with the version that wrote it, or run again"
            )
        try:
            return _adapter().validate_json(text, strict=True)
        except ValidationError as error:
            raise ReportError(f"not a report of schema_version {version}: {_faults(error)}") from None

    def _shown(self) -> Shown:
        task, headline = self.task, self.headline
        timings = next((one.latency for one in reversed(self.rows) if one.latency), ())
        setting = (timings[0].batch_size, timings[0].sequence_length) if timings else None
        speed = f"speed, batch {setting[0]}, {setting[1]} tokens" if setting else "speed"
        rows = []
        for row in self.rows:
            found, size = row.metrics[headline], row.size
            point = next((one for one in row.latency if (one.batch_size, one.sequence_length) == setting), None)
            faster = "" if point is None else f"x{number(point.speedup)}"
            parameters = "" if size is None else f"{size.parameters:,}"
            rows.append((row.name, points(found.value), interval(found.ci95), faster, parameters))
        headings = ("model", f"{headline}, x100", "95 % interval", speed, "parameters")
        title = f"{self.model.name_or_path} on {task.name} {task.split}, {task.n:,} examples"
        return Shown(title, [("plan", repr(self.plan.text))], headings, rows)

    @property
    def baseline(self) -> Row:
        """The model as it was."""
        return self.rows[0]

    @property
    def final(self) -> Row:
        """The last state of the model: what the user ends up with."""
        return self.rows[-1]

    def row(self, name: str) -> Row | None:
        """The state of a name, or None where there is no such row."""
        return next((row for row in self.rows if row.name == name), None)

    @property
    def headline(self) -> str:
        """The name of the metric that stands for all."""
        return self.task.metrics[0]


def read_report(path: Path | str) -> PruningReport:
    """Read a ``report.json``, or the one in a run's directory.

    Raises:
        ReportError: There is no such file, or it is not a report.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "report.json"
    try:
        text = read_text_file(file)
    except (FileNotFoundError, UnreadableError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ReportError(f"cannot read {file}: {reason}; give the report.json of a run") from None
    try:
        return PruningReport.from_json(text)
    except ReportError as error:
        raise ReportError(f"{file}: {error}") from None


def generate_schema() -> dict[str, Any]:
    """Return the JSON Schema (Draft 2020-12) of ``report.json`` from the data classes themselves.

    The shipped ``schema.json`` is this, written out; a test says when it has to be written again.
    """
    schema = _adapter().json_schema()
    schema["required"].append("schema_version")
    schema["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    schema["title"] = "prune_bert report"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


@cache
def _adapter() -> TypeAdapter[PruningReport]:
    """Return the reader and writer of reports, built once."""
    return TypeAdapter(PruningReport)


def _faults(error: ValidationError) -> str:
    """Name up to three faults and where each of them is, in one line."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    named = [f"{'.'.join(map(str, fault['loc'])) or 'the whole'}: {fault['msg'].lower()}" for fault in faults[:3]]
    more = [f"and {len(faults) - 3} more"] if len(faults) > 3 else []
    return "; ".join([*named, *more]).replace("\n", " ")


def _as_json(value: Any) -> Any:
    """Return a value in the form in which JSON gives it back: lists for tuples, text for keys and paths."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_as_json(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return finite(value)
    return str(value)
