"""Laws of the report: JSON keeps it exactly, every renderer takes every shape of it, what it says is true."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import matplotlib as mpl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from rich.console import Console

from prune_bert.errors import UserError
from prune_bert.plan import PruningPlan, Site
from prune_bert.profiling import LatencyPoint, ModelSize
from prune_bert.report import (
    SCHEMA_PATH,
    SCHEMA_VERSION,
    CompensatedSite,
    Estimate,
    Flips,
    ModelInfo,
    PlanInfo,
    PruningReport,
    RecoveryInfo,
    ReportError,
    Row,
    SiteCost,
    TaskInfo,
    model_card,
    print_table,
    read_report,
    to_html,
    to_markdown,
    tracker_values,
    write_report,
)
from prune_bert.report.model import generate_schema
from prune_bert.report.plots import accuracy_speed_plot, as_png, as_svg, site_costs_plot
from prune_bert.report.render import markdown_code, markdown_text
from prune_bert.report.summary import removed, sentences
from prune_bert.report.words import amount, hundredfold, ratio, with_interval
from prune_bert.storage import files

NAMES = ("baseline", "pruned", "compensated", "recovered")
NASTY = "<script>alert(\"x\")</script> | `a` $b$ & 'c'"


def timing(name, batch_size, length, speedup=1.2, spread=0.02):
    interval = (1.0, 1.0) if name == "baseline" else (speedup - spread, speedup + spread)
    return LatencyPoint(
        variant=name,
        batch_size=batch_size,
        sequence_length=length,
        p50_ms=10.0 / speedup,
        p95_ms=11.0 / speedup,
        throughput=batch_size * 100.0 * speedup,
        samples_ms=(10.0 / speedup, 11.0 / speedup),
        speedup=speedup,
        speedup_ci95=interval,
    )


def make_report(
    rows=2,
    grid=((1, 128), (32, 128)),
    metrics=("accuracy",),
    plan="attention:1 ffn:0,2",
    sites=True,
    speedup=1.2,
    change=-0.01,
    size=True,
    **changes,
):
    parsed = PruningPlan.parse(plan)

    def row(index):
        name = NAMES[index]
        return Row(
            name=name,
            metrics={m: Estimate(0.9 + index * change, (0.88, 0.92)) for m in metrics},
            n=872,
            loss=0.3,
            difference={m: Estimate(change, (change - 0.005, change + 0.005)) for m in metrics} if index else None,
            flips=Flips(12, 3) if index and not changes.get("regression") else None,
            agreement=0.97 if index else None,
            size=ModelSize(22_713_986 - index * 1_000_000, 2_870_000_000, 90_000_000, None, 128, 32) if size else None,
            latency=tuple(timing(name, b, s, speedup if index else 1.0) for b, s in grid),
            seconds=3.0,
        )

    cost = {m: Estimate(change, (change - 0.005, change + 0.005)) for m in metrics}
    return PruningReport(
        created="2026-01-02T03:04:05+00:00",
        command="prune-bert prune --plan 'attention:1 ffn:0,2'",
        environment={"device": "a CPU", "threads": 2, "versions": {"torch": "2.13.0"}, "git_commit": None},
        model=ModelInfo(changes.get("model", "owner/some-bert"), "bert", 6, 384),
        task=TaskInfo(changes.get("task", "sst2"), "validation", 872, tuple(metrics), "a folder"),
        plan=PlanInfo.of(parsed),
        rows=tuple(row(index) for index in range(rows)),
        site_costs=tuple(SiteCost(site, cost, Flips(2, 1)) for site in parsed) if sites else (),
        notes=tuple(changes.get("notes", ("labels were matched by name",))),
        compensated_sites=changes.get("compensated_sites", ()),
        recovery=changes.get("recovery"),
        checkpoint_format=changes.get("checkpoint_format"),
        config={"plan": plan, "profile_batch_sizes": (1, 32), "output_dir": Path("out")} | changes.get("config", {}),
        step_seconds={"baseline": 2.5},
    )


FITTED = tuple(
    CompensatedSite(
        site=site,
        form="low_rank",
        rank=32,
        ridge=1e-4,
        error=0.512,
        tokens=9000,
        parameters=25_728,
        replaced_parameters=1_181_568,
        flops=6_300_000,
        replaced_flops=302_000_000,
        latency_ms=0.21,
        replaced_latency_ms=1.9,
    )
    for site in PruningPlan.parse("attention:1 ffn:0,2")
)
TRAINED = RecoveryInfo(
    method="distillation",
    schedule="at_once",
    steps=200,
    train_samples=7373,
    selection_samples=512,
    seconds=93.0,
    stopped_early=True,
    best_step=100,
    losses=((1, 0.9), (100, 0.4), (200, 0.3)),
    selection_losses=((0, 1.0), (100, 0.5), (200, 0.6)),
)
SHAPES = {
    "usual": {},
    "baseline only, nothing else": {"rows": 1, "grid": (), "plan": "", "sites": False, "size": False},
    "baseline only, timed": {"rows": 1, "plan": ""},
    "all four rows, two metrics": {"rows": 4, "metrics": ("accuracy", "f1")},
    "a wide grid": {"rows": 3, "grid": [(b, s) for b in (1, 8, 32) for s in (16, 128)]},
    "no timings": {"rows": 3, "grid": ()},
    "regression": {"metrics": ("pearson", "spearmanr"), "regression": True},
    "every sublayer": {"plan": "attention:0-11 ffn:0-11 norm=skip"},
    "a metric of the user's own": {"metrics": ("exact_match",)},
    "compensated and recovered": {"rows": 4, "compensated_sites": FITTED, "recovery": TRAINED},
    "compensated, nothing measured": {
        "rows": 3,
        "grid": (),
        "compensated_sites": (CompensatedSite(site=Site(0, "ffn"), form="affine"),),
    },
    "recovered, nothing chosen": {
        "recovery": dataclasses.replace(TRAINED, selection_samples=0, best_step=None, selection_losses=(), lora_rank=8)
    },
}


@pytest.fixture(params=SHAPES, scope="module")
def shaped(request):
    return make_report(**SHAPES[request.param])


@pytest.fixture(scope="module")
def page_of():
    """The page of a report, rendered once for all the tests that look at it."""
    pages = {}

    def render(report):
        if id(report) not in pages:
            pages[id(report)] = (report, to_html(report))
        return pages[id(report)][1]

    return render


# JSON


def test_a_report_survives_json_exactly(shaped):
    text = shaped.to_json()
    assert PruningReport.from_json(text) == shaped
    assert PruningReport.from_json(text).to_json() == text


numbers = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=60, deadline=None)
@given(value=numbers, low=numbers, high=numbers, free=st.dictionaries(st.text(), st.one_of(numbers, st.text())))
def test_any_number_and_any_text_survive_json(value, low, high, free):
    report = make_report()
    row = dataclasses.replace(report.final, metrics={"accuracy": Estimate(value, (low, high))}, loss=value)
    report = dataclasses.replace(report, rows=(report.baseline, row), config=free, notes=tuple(free))
    text = report.to_json()
    assert PruningReport.from_json(text) == report
    assert "NaN" not in json.dumps(json.loads(text)["rows"])


def test_the_json_has_the_form_of_the_design_page():
    data = json.loads(make_report().to_json())
    assert data["schema_version"] == SCHEMA_VERSION
    assert data["plan"] == {
        "text": "attention:1 ffn:0,2",
        "sites": PruningPlan.parse("attention:1 ffn:0,2").to_json()["sites"],
        "norm": "keep",
    }
    baseline, pruned = data["rows"]
    assert baseline["difference"] is None
    assert pruned["metrics"]["accuracy"] == {"value": 0.89, "ci95": [0.88, 0.92]}
    assert pruned["flips"] == {"right_to_wrong": 12, "wrong_to_right": 3}
    assert {"parameters", "flops", "checkpoint_bytes", "peak_memory_bytes"} <= set(pruned["size"])
    expected = {"batch_size", "sequence_length", "p50_ms", "p95_ms", "samples_ms", "speedup", "speedup_ci95"}
    assert expected <= set(pruned["latency"][0])


def test_a_report_is_valid_under_the_shipped_schema_and_a_broken_one_is_not(shaped):
    schema = json.loads(SCHEMA_PATH.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    data = json.loads(shaped.to_json())
    validator.validate(data)
    for breaking in ({"rows": 3}, {"schema_version": 99}, {"created": None}):
        assert not validator.is_valid(data | breaking)
    for key in ("rows", "task", "plan", "model", "schema_version"):
        assert not validator.is_valid({name: value for name, value in data.items() if name != key})


def test_the_shipped_schema_is_the_one_of_the_data_classes():
    """Compared by what there is and what is needed: the rest differs with pydantic's version."""

    def outline(schema):
        parts = {"report": schema, **schema["$defs"]}
        return {name: (set(part["properties"]), set(part.get("required", ()))) for name, part in parts.items()}

    assert outline(json.loads(SCHEMA_PATH.read_text())) == outline(generate_schema()), "write schema.json again"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "no schema_version"),
        ("{}", "no schema_version"),
        ('{"schema_version": 99}', "schema_version 99"),
        ('{"schema_version": 1}', "created: field required"),
    ],
)
def test_what_is_not_a_report_is_refused_in_one_line(text, message):
    with pytest.raises(ReportError, match=re.escape(message)) as caught:
        PruningReport.from_json(text)
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["rows", "task", "model", "plan", "environment", "command"])
def test_a_missing_key_is_named(key):
    data = json.loads(make_report().to_json())
    del data[key]
    with pytest.raises(ReportError, match=key):
        PruningReport.from_json(json.dumps(data))


def test_a_wrong_type_is_named_with_its_place():
    data = json.loads(make_report().to_json())
    data["rows"][1]["latency"][0]["p50_ms"] = "fast"
    with pytest.raises(ReportError, match=r"rows\.1\.latency\.0\.p50_ms"):
        PruningReport.from_json(json.dumps(data))


def test_a_report_without_rows_or_without_a_metric_is_refused():
    report = make_report()
    with pytest.raises(ReportError, match="at least one row"):
        dataclasses.replace(report, rows=())
    lacking = dataclasses.replace(report.baseline, metrics={})
    with pytest.raises(ReportError, match="'baseline' has no figure for accuracy"):
        dataclasses.replace(report, rows=(lacking,))


def test_read_report_takes_a_file_or_a_directory_and_names_what_it_cannot_read(tmp_path):
    report = make_report()
    path = tmp_path / "report.json"
    path.write_text(report.to_json())
    assert read_report(path) == read_report(tmp_path) == report
    with pytest.raises(ReportError, match="nowhere"):
        read_report(tmp_path / "nowhere.json")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReportError, match=r"report\.json"):
        read_report(path)


# renderings


class Page(HTMLParser):
    """Notes every tag and attribute of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.ids = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]


def test_the_page_fetches_nothing_and_runs_nothing(shaped, page_of):
    text = page_of(shaped)
    page = Page(text)
    assert not {"script", "link", "iframe", "img", "object", "base"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in {"src", "href", "xlink:href", "srcset", "action"}:
            assert value.startswith("#")
    assert "http" not in text.replace(shaped.command, "")
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    assert "viewport" in text
    assert "prefers-color-scheme: dark" in text


def test_the_plots_are_in_the_page_and_follow_its_colours():
    text = to_html(make_report())
    page = Page(text)
    assert page.tags.count("svg") == 2
    svg = text[text.index("<svg") : text.index("</svg>")]
    assert "var(--orange)" in svg
    assert re.findall(r"(?:fill|stroke): #", svg) == []
    assert {value.split("-")[0] for value in page.ids} == {"speed", "sites"}
    references = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    assert references <= set(page.ids)


def test_every_renderer_takes_every_shape(shaped, page_of):
    for text in (page_of(shaped), to_markdown(shaped), model_card(shaped), terminal(shaped)):
        for row in shaped.rows:
            assert row.name in text
        assert "88.0 to 92.0" in text.replace("\N{NO-BREAK SPACE}", " ")
        assert ("was not measured" in " ".join(text.split())) == (not shaped.final.latency)
        assert "None" not in text.replace(">None<", "")


def terminal(report, width=80):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    print_table(report, console)
    return console.file.getvalue()


def test_the_terminal_table_fits_80_characters(shaped):
    text = terminal(shaped)
    assert max(map(len, text.splitlines())) <= 80
    headline = text[text.index("validation, 872") :]
    assert "90.0" in headline
    assert "88.0 to 92.0" in headline


def test_what_the_terminal_prints_goes_to_stdout(capsys):
    print_table(make_report())
    out, err = capsys.readouterr()
    assert "pruned" in out
    assert err == ""


def test_text_from_outside_is_escaped_everywhere():
    report = make_report(task=NASTY, notes=(NASTY,), model=f"m/{NASTY}")
    html = to_html(report)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    outside_code = re.sub(r"(?<!\\)(`+)[^\n]*?(?<!`)\1(?!`)", "", to_markdown(report))
    assert re.findall(r"(?<!\\)<(?!br>)", outside_code) == []
    assert NASTY.split(" ")[0] in terminal(report, width=200)
    yaml.safe_load(model_card(report).split("---")[1])


def test_markdown_text_cannot_break_a_table():
    assert "|" not in re.sub(r"\\.", "", markdown_text("a|b\n|c"))
    assert markdown_code("a`b") == "``a`b``"
    assert markdown_code("") == ""


@pytest.mark.parametrize("table_of", [to_markdown, model_card])
def test_every_markdown_table_row_has_as_many_cells_as_its_heading(shaped, table_of):
    width = None
    for line in table_of(shaped).splitlines():
        if not line.startswith("|"):
            width = None
            continue
        cells = len(re.findall(r"(?<!\\)\|", line)) - 1
        assert width in (None, cells)
        width = cells


def test_the_plots_of_every_shape_cut_nothing_off_and_leave_matplotlib_alone(shaped):
    before = dict(mpl.rcParams)
    speed, sites = accuracy_speed_plot(shaped), site_costs_plot(shaped)
    assert (sites is None) == (not shaped.site_costs)
    for figure in filter(None, (speed, sites)):
        pixels = imread(io.BytesIO(as_png(figure)))  # (height, width, rgba)
        edges = (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:])
        assert all((edge > 0.99).all() for edge in edges)
    assert dict(mpl.rcParams) == before


def test_a_plot_is_the_same_file_each_time():
    assert as_svg(accuracy_speed_plot(make_report())) == as_svg(accuracy_speed_plot(make_report()))


# what it says


def test_no_gain_is_said_plainly():
    for speedup, words in ((1.01, "no measurable gain"), (1.3, "faster"), (0.8, "slower")):
        report = make_report(speedup=speedup)
        for text in (
            to_html(report),
            to_markdown(report),
            terminal(report, width=120),
            " ".join(sentences(report)),
        ):
            others = {"no measurable gain", " faster", "slower"} - {words, f" {words}"}
            said = text.replace("right is faster", "")
            assert words in said
            assert not any(other in said for other in others)


@pytest.mark.parametrize(
    ("change", "words"),
    [(-0.02, "a measurable loss"), (0.02, "a measurable gain"), (-0.001, "no measurable change")],
)
def test_a_change_is_called_one_only_where_its_interval_excludes_nought(change, words):
    assert words in " ".join(sentences(make_report(change=change)))


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        ("", "Nothing was removed."),
        ("layer:4", "Removed 1 of 12 layers (layer 4)."),
        ("layer:9-11,0", "Removed 4 of 12 layers (layers 0 and 9 to 11)."),
        ("attention:4", "Removed the attention of layer 4, keeping each LayerNorm."),
        (
            "layer:11 attention:0,1 ffn:3-5 norm=skip",
            "Removed 1 of 12 layers (layer 11), the attention of layers 0 and 1 and the feed-forward of "
            "layers 3 to 5, skipping each LayerNorm.",
        ),
    ],
)
def test_what_was_removed_is_said_in_words(plan, text):
    assert removed(PlanInfo.of(PruningPlan.parse(plan)), 12) == text


def test_numbers_are_said_as_people_say_them():
    assert with_interval(Estimate(0.893, (0.872, 0.912))) == "89.3 (87.2 to 91.2)"
    assert with_interval(Estimate(-0.005, (-0.014, 0.004)), sign=True) == "-0.5 (-1.4 to +0.4)"
    assert with_interval(Estimate(float("nan"), (0.1, float("nan")))) == "n/a"
    assert hundredfold(-0.0001) == hundredfold(-0.0001, sign=True) == "0.0"
    assert (amount(22_713_986), amount(950), amount(2.87e9, "FLOP")) == ("22.7 M", "950", "2.87 GFLOP")
    assert amount(None) == "n/a"
    assert (ratio(90, 100), ratio(100, 100)) == ("-10.0 %", "0 %")


def test_undefined_figures_are_rendered_as_such():
    report = make_report(metrics=("pearson",), sites=True)
    undefined = {"pearson": Estimate(float("nan"), (float("nan"), float("nan")))}
    row = dataclasses.replace(report.final, metrics=undefined, difference=undefined)
    cost = SiteCost(Site(0, "ffn"), undefined)
    report = dataclasses.replace(report, rows=(report.baseline, row), site_costs=(cost, *report.site_costs))
    assert "n/a" in to_markdown(report)
    assert "n/a" in to_html(report)
    assert "n/a" in terminal(report)
    assert PruningReport.from_json(report.to_json()) == report


def test_a_compensation_is_shown_with_what_it_costs_against_what_it_replaces():
    report = make_report(rows=4, compensated_sites=FITTED)
    for text in (to_html(report), to_markdown(report), model_card(report), terminal(report)):
        for said in ("low rank", "0.512", "25.7 k", "for 1.18 M"):
            assert said in text
    assert "for 1.90 ms" in to_markdown(report)
    assert tracker_values(report)["compensation/ffn:0/error"] == 0.512
    assert "stands in" not in to_markdown(make_report())


def test_a_recovery_is_shown_with_its_curve_and_its_time(tmp_path):
    report = make_report(rows=4, recovery=TRAINED)
    final = dataclasses.replace(report.final, made_in_seconds=93.0)
    report = dataclasses.replace(report, rows=(*report.rows[:-1], final))
    said = " ".join(sentences(report))
    assert "The recovery, by distillation, took 200 steps on 7,373 training examples, in 93.0 s." in said
    assert "made in" in to_markdown(report)
    assert tracker_values(report)["recovered/made_in_seconds"] == 93.0
    names = {path.name for path in write_report(report, tmp_path)}
    assert {"training.png", "training.svg"} <= names
    write_report(make_report(), tmp_path)
    assert not list(tmp_path.glob("training.*"))


@pytest.mark.parametrize(
    ("pruned", "final", "says"),
    [
        (-0.05, -0.02, "Of the 5.0 points that the removal alone cost, 3.0 came back."),
        (-0.05, -0.06, "Of the 5.0 points that the removal alone cost, none came back."),
        (-0.05, 0.01, "Of the 5.0 points that the removal alone cost, all came back."),
        (0.01, 0.02, None),
        (float("nan"), 0.02, None),
    ],
)
def test_what_came_back_is_counted_from_the_pruned_row(pruned, final, says):
    report = make_report(rows=3)
    rows = [
        dataclasses.replace(row, difference={"accuracy": Estimate(value)})
        for row, value in zip(report.rows[1:], (pruned, final), strict=True)
    ]
    said = sentences(dataclasses.replace(report, rows=(report.baseline, *rows)))
    assert [one for one in said if "came back" in one] == ([] if says is None else [says])


def test_the_site_that_hurts_most_comes_first():
    report = make_report()
    costs = tuple(
        SiteCost(site, {"accuracy": Estimate(value, (value - 0.01, value + 0.01))})
        for site, value in ((Site(0, "ffn"), 0.01), (Site(1, "ffn"), -0.2), (Site(2, "ffn"), None or 0.0))
    )
    text = to_markdown(dataclasses.replace(report, site_costs=costs))
    places = [text.index(f"| feed-forward {layer} ") for layer in (1, 2, 0)]
    assert places == sorted(places)


def test_the_model_card_has_the_front_matter_of_the_hub():
    from huggingface_hub import ModelCard

    card = ModelCard(model_card(make_report(metrics=("accuracy", "f1"))))
    assert card.data.base_model == "owner/some-bert"
    assert card.data.license is None
    assert {"prune_bert", "bert"} <= set(card.data.tags)
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {"accuracy": 0.89, "f1": 0.89}
    assert "AutoModelForSequenceClassification.from_pretrained" in card.text


def test_a_local_base_model_is_not_passed_off_as_a_hub_id_and_a_compact_one_loads_its_own_way():
    for local in ("../models/bert", "/tmp/bert", "./bert", "a/b/c"):
        front = yaml.safe_load(model_card(make_report(model=local)).split("---")[1])
        assert "base_model" not in front
    assert "load_pruned" in model_card(make_report(config={"checkpoint_format": "compact"}))
    assert "load_pruned" in model_card(make_report(checkpoint_format="compact"))


def test_trackers_get_flat_finite_figures(shaped):
    values = tracker_values(shaped)
    assert all(type(value) is float and value == value for value in values.values())
    assert values[f"baseline/{shaped.headline}"] == 0.9
    if len(shaped.rows) > 1:
        assert values[f"pruned/change_{shaped.headline}"] == -0.01
    if shaped.final.latency:
        point = shaped.final.latency[0]
        key = f"{shaped.final.name}/speedup_b{point.batch_size}_s{point.sequence_length}"
        assert values[key] == point.speedup


# files


def test_write_report_writes_all_files_and_nothing_else(tmp_path):
    report = make_report()
    paths = write_report(report, tmp_path / "out")
    names = {"report.json", "report.md", "report.html", "accuracy_speed.png", "accuracy_speed.svg"}
    sites = {"site_costs.png", "site_costs.svg"}
    assert {path.name for path in paths} == names | sites
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | sites
    assert read_report(tmp_path / "out") == report
    for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", (tmp_path / "out" / "report.md").read_text()):
        assert (tmp_path / "out" / link).is_file()
    write_report(dataclasses.replace(report, site_costs=()), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


def test_a_report_renders_again_from_its_json_alone(tmp_path):
    report = make_report(rows=3)
    write_report(report, tmp_path / "a")
    write_report(read_report(tmp_path / "a"), tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_a_full_disk_leaves_the_old_file_and_no_half_written_one(tmp_path, monkeypatch):
    (tmp_path / "report.json").write_text("old")

    def full(operation, path):
        if operation == "write":  # the temporary file is there by now
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "before", full)
    with pytest.raises(ReportError, match="No space left on device") as caught:
        write_report(make_report(), tmp_path)
    assert "report.json" in str(caught.value)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("report.json", "old")]


def test_a_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ReportError, match="out"):
        write_report(make_report(), tmp_path / "out")


def test_a_report_is_read_and_written_without_torch(tmp_path):
    (tmp_path / "report.json").write_text(make_report().to_json())
    code = (
        "import sys; from prune_bert.report import read_report, write_report; "
        f"write_report(read_report({str(tmp_path)!r}), {str(tmp_path)!r}); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
