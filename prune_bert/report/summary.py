"""The report in a few plain sentences: what was removed, what it cost, what it gained."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from prune_bert.plan import COMPONENTS as COMPONENT_ORDER
from prune_bert.report import words
from prune_bert.report.model import PruningReport
from prune_bert.report.records import LoadedForm, PlanInfo, Row
from prune_bert.report.settings import main_points

OTHER_ROWS = {
    "pruned": "With the sites only removed",
    "compensated": "With closed-form compensation",
    "recovered": "After recovery training",
}


def sentences(report: PruningReport) -> list[str]:
    """Return the sentences that stand at the top of the report."""
    said = [removed(report.plan, report.model.num_hidden_layers)]
    if report.final is report.baseline:
        said.append(f"{_score(report, report.baseline)}.")
    else:
        said += [_cost(report), *_flips(report.final), *_on_the_way(report), *_given_back(report), *_made(report)]
        said += [*_speed(report), *_size(report), *_loaded(report)]
    if not report.final.latency:
        said.append("Speed was not measured.")
    return said


def removed(plan: PlanInfo, num_hidden_layers: int) -> str:
    """Say what the plan removes."""
    if not plan.sites:
        return "Nothing was removed."
    parts = []
    for component in COMPONENT_ORDER:
        layers = sorted(site.layer for site in plan.sites if site.component == component)
        if layers and component == "layer":
            parts.append(f"{len(layers)} of {num_hidden_layers} layers ({_layers(layers)})")
        elif layers:
            parts.append(f"the {words.COMPONENTS[component]} of {_layers(layers)}")
    text = f"Removed {words.listing(parts)}"
    if all(site.component == "layer" for site in plan.sites):
        return f"{text}."
    return f"{text}, {'keeping each LayerNorm' if plan.norm == 'keep' else 'skipping each LayerNorm'}."


def _layers(layers: Sequence[int]) -> str:
    """Name layers with runs of three or more drawn together: ``layers 0, 4 and 9 to 11``."""
    spans: list[str] = []
    for _, run in groupby(enumerate(layers), key=lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in run]
        spans += [f"{numbers[0]} to {numbers[-1]}"] if len(numbers) > 2 else map(str, numbers)
    return f"{'layer' if len(layers) == 1 else 'layers'} {words.listing(spans)}"


def _score(report: PruningReport, row: Row) -> str:
    """Say a row's headline metric with its interval."""
    name = words.metric_name(report.headline)
    value = words.with_interval(row.metrics[report.headline])
    return f"{name[0].upper()}{name[1:]} on {report.task.name} ({row.n:,} examples) is {value}"


def _cost(report: PruningReport) -> str:
    """Say what the headline metric became, and whether that is a change."""
    before = words.hundredfold(report.baseline.metrics[report.headline].value)
    difference = (report.final.difference or {}).get(report.headline)
    text = f"{_score(report, report.final)}, against {before} before"
    if difference is None:
        return f"{text}."
    change = words.with_interval(difference, sign=True)
    return f"{text}: {change} points, {words.change_verdict(difference)}."


def _flips(row: Row) -> list[str]:
    """Say how many predictions changed sides."""
    if row.flips is None:
        return []
    lost, won = row.flips.right_to_wrong, row.flips.wrong_to_right
    noun = "prediction" if lost == 1 else "predictions"
    return [f"{lost} {noun} went from right to wrong and {won} from wrong to right."]


def _on_the_way(report: PruningReport) -> list[str]:
    """Say what the headline metric was between the baseline and the last row."""
    said = []
    for row in report.rows[1:-1]:
        beginning = OTHER_ROWS.get(row.name, row.name)
        said.append(f"{beginning} it was {words.with_interval(row.metrics[report.headline])}.")
    return said


def _given_back(report: PruningReport) -> list[str]:
    """Say how much of what the removal alone had cost was given back."""
    pruned, final = report.row("pruned"), report.final
    if pruned is None or pruned is final:
        return []
    first, last = ((row.difference or {}).get(report.headline) for row in (pruned, final))
    if first is None or last is None or first.value is None or last.value is None or round(100 * first.value, 1) >= 0:
        return []
    lost, back = -first.value, last.value - first.value
    share = "none" if round(100 * back, 1) <= 0 else "all" if back >= lost else words.hundredfold(back)
    return [f"Of the {words.hundredfold(lost)} points that the removal alone cost, {share} came back."]


def _made(report: PruningReport) -> list[str]:
    """Say how the last states were made, and in what time."""
    said = []
    compensated, recovery = report.row("compensated"), report.recovery
    if compensated is not None and report.compensated_sites:
        forms = {one.form.replace("_", " "): None for one in report.compensated_sites}
        text = f"The compensation ({words.listing(list(forms))}) was fitted without training"
        said.append(f"{text}{_in_seconds(compensated.made_in_seconds)}.")
    if recovery is not None:
        adapter = f" of a LoRA adapter of rank {recovery.lora_rank}" if recovery.lora_rank else ""
        how = {"fine_tuning": "fine-tuning"}.get(recovery.method, recovery.method)
        gradual = ", site by site" if recovery.schedule == "gradual" else ""
        rows = f"{recovery.steps:,} steps{adapter} on {recovery.train_samples:,} training examples"
        said.append(f"The recovery, by {how}{gradual}, took {rows}{_in_seconds(recovery.seconds)}.")
    return said


def _in_seconds(value: float | None) -> str:
    return "" if value is None else f", in {words.seconds(value)}"


def _speed(report: PruningReport) -> list[str]:
    """Say the speed-up at the settings that stand for all."""
    said = []
    for point in main_points(report.final.latency):
        times, where = f"{point.speedup:.2f} times", words.setting(point)
        spread = words.speed_interval(point)
        if not point.measurable:
            said.append(f"At {where} there is {words.NO_GAIN}: {times} the baseline's speed ({spread}).")
        else:
            said.append(f"At {where} it is {words.speed_verdict(point)}: {times} the baseline's speed ({spread}).")
    return said


def _size(report: PruningReport) -> list[str]:
    """Say what became of the parameters and the operations."""
    before, after = report.baseline.size, report.final.size
    if before is None or after is None:
        return []
    parameters = f"{words.amount(after.parameters)} parameters instead of {words.amount(before.parameters)}"
    text = f"It has {parameters} ({words.ratio(after.parameters, before.parameters)})"
    if before.flops:
        text += f" and needs {_operations(after.flops, before.flops)}"
    return [f"{text}."]


def _loaded(report: PruningReport) -> list[str]:
    """Say what the saved model is where it is loaded in a way that gives it other modules than the last row's."""
    said = []
    for form in report.loaded_with:
        if form.same_modules:
            continue
        speeds = [
            f"at {words.setting(point)} {words.speed_verdict(point)}, {point.speedup:.2f} times "
            f"({words.speed_interval(point)})"
            for point in main_points(form.latency)
        ]
        text = f"That is with prune_bert.load_pruned; plain {form.name} computes the removed sublayers all the same"
        said.append(f"{text}: {words.listing(speeds) or 'its speed was not measured'}{_held(form)}.")
    return said


def _held(form: LoadedForm) -> str:
    return "" if form.size is None else f"; it holds {words.amount(form.size.parameters)} parameters"


def _operations(after: int, before: int) -> str:
    """Say how many fewer operations one sequence takes."""
    share = round(100 * (1 - after / before), 1)
    if not share:
        return "as many operations"
    return f"{abs(share):.1f} % {'fewer' if share > 0 else 'more'} operations"
