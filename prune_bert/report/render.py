"""The report as Markdown, as one HTML page that needs nothing else, and as a model card."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from prune_bert.plain import plain_values
from prune_bert.report import tables, words
from prune_bert.report.model import PruningReport
from prune_bert.report.plots import accuracy_speed_plot, as_inline_svg, site_costs_plot
from prune_bert.report.records import Row
from prune_bert.report.summary import sentences
from prune_bert.report.tiles import tiles
from prune_bert.report.training_plot import training_plot

TEMPLATES = __file__.removesuffix("render.py") + "templates"


def to_markdown(report: PruningReport) -> str:
    """Render the report as Markdown, with the plots as links to the PNG files beside it."""
    report = plain_values(report)
    return template_environment().get_template("report.md.j2").render(**_view(report))


def to_html(report: PruningReport) -> str:
    """Render the report as one HTML file: styles and plots inside, no script, nothing fetched."""
    report = plain_values(report)
    costs, training = site_costs_plot(report), training_plot(report)
    return (
        template_environment()
        .get_template("report.html.j2")
        .render(
            **_view(report),
            tiles=tiles(report),
            accuracy_speed=Markup(as_inline_svg(accuracy_speed_plot(report), "speed")),
            site_costs_figure=Markup(as_inline_svg(costs, "sites")) if costs else None,
            training_figure=Markup(as_inline_svg(training, "training")) if training else None,
        )
    )


def model_card(report: PruningReport) -> str:
    """Render the ``README.md`` of the saved checkpoint, with the front matter that the hub reads.

    The licence is the base model's and is not named here; a base model from a local folder is named in the
    text only, since the hub takes no path for it.
    """
    report = plain_values(report)
    front = yaml.safe_dump(_front_matter(report), sort_keys=False, allow_unicode=True, width=1000)
    compact = (report.checkpoint_format or report.config.get("checkpoint_format")) == "compact"
    return (
        template_environment()
        .get_template("model_card.md.j2")
        .render(**_view(report), front_matter=front, compact=compact)
    )


def _view(report: PruningReport) -> dict[str, Any]:
    """Gather what the templates show."""
    return {
        "report": report,
        "name": words.short_name(report.model.name_or_path),
        "sentences": sentences(report),
        "main_heading": "Accuracy against speed" if report.final.latency else "Accuracy and size",
        "main_table": tables.accuracy_and_speed(report),
        "latency_table": tables.latency(report),
        "size_table": tables.sizes(report),
        "loading_table": tables.loading(report),
        "other_modules": any(not form.same_modules for form in report.loaded_with),
        "sites_table": tables.site_costs(report),
        "compensated_table": tables.compensated_sites(report),
        "facts": tables.facts(report),
        "config": json.dumps(report.config, indent=2, ensure_ascii=False),
        "metric": words.metric_name(report.headline),
    }


def _front_matter(report: PruningReport) -> dict[str, Any]:
    """Return the card's metadata in the hub's form."""
    name, model = report.model.name_or_path, report.model
    front: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-classification"}
    front["tags"] = ["prune_bert", "layer-pruning", model.model_type]
    if _is_hub_id(name):
        front["base_model"] = name
    dataset = {"name": report.task.name, "type": report.task.name, "split": report.task.split}
    result = {
        "task": {"type": "text-classification"},
        "dataset": dataset,
        "metrics": _card_metrics(report.final),
    }
    front["model-index"] = [{"name": f"{words.short_name(name)}-pruned", "results": [result]}]
    return front


def _card_metrics(row: Row) -> list[dict[str, Any]]:
    """Return the last row's metrics as fractions, in the hub's form."""
    return [
        {"type": metric, "name": words.metric_name(metric), "value": round(estimate.value, 6)}
        for metric, estimate in row.metrics.items()
        if estimate.value is not None
    ]


def _is_hub_id(name: str) -> bool:
    """Say whether a name has the hub's form, ``owner/name`` or one of the old bare names."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name) is not None


@cache
def template_environment() -> Environment:
    """Return the template environment: HTML escaped by itself, Markdown through its own filter."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = markdown_text
    environment.filters["code"] = markdown_code
    environment.filters["unbroken"] = unbroken
    return environment


def markdown_text(text: object) -> str:
    """Escape what Markdown, or HTML inside it, would take for markup; line ends become spaces."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(text).split()))


def markdown_code(text: object) -> str:
    """Write text as inline code, also in a table and with backticks of its own."""
    flat = " ".join(str(text).split()).replace("|", r"\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", flat)), default=0) + 1)
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{pad}{flat}{pad}{fence}" if flat else ""


def unbroken(text: str) -> str:
    """Keep an interval in brackets on one line: ``(87.2 to 91.2)``."""
    return re.sub(r"\([-+\d.]+ to [-+\d.]+\)", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)
