"""Text from elsewhere reaches neither a terminal nor a page with control characters in it."""

import dataclasses
import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_report import make_report

from prune_bert.cli.failures import explain
from prune_bert.errors import UserError
from prune_bert.importance.scores import Score, SiteScores
from prune_bert.pipeline.measuring import show_notes
from prune_bert.plain import plain_text, plain_values
from prune_bert.plan import PruningPlan
from prune_bert.report import model_card, print_table, to_html, to_markdown, write_report, writer
from prune_bert.report.site_scores import write_scores

ATTACKS = {
    "\x1b[2J\x1b[Hcleared": "cleared",
    "a\x1b]0;owned\x07b": "ab",
    "a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\": "alink",
    "\x9b31mred": "red",
    "\x9d0;title\x9cx": "x",
    "a\x1bcb": "ab",
    "over\rwritten": "overwritten",
    "back\x08\x7f": "back",
    "\x1b]0;never ended": "0;never ended",
    "a\tb\nc": "a\tb\nc",
}
NASTY = "".join(ATTACKS)


def controls(text):
    return {c for c in text if unicodedata.category(c) == "Cc"} - {"\n", "\t"}


@pytest.mark.parametrize(("text", "plain"), ATTACKS.items())
def test_sequences_go_whole(text, plain):
    assert plain_text(text) == plain


@given(st.text())
def test_plain_text_has_no_controls_and_stays_as_it_is(text):
    plain = plain_text(text)
    assert not controls(plain)
    assert plain_text(plain) == plain
    if not controls(text):
        assert plain == text


def test_values_of_any_depth_are_made_plain_and_others_are_left():
    report = make_report()
    assert plain_values(report) is report
    nasty = dataclasses.replace(report, config={"a": ["x\x1b[1m", {"b\x07": 1}]})
    assert plain_values(nasty).config == {"a": ["x", {"b": 1}]}


def test_a_foreign_report_controls_no_terminal_and_no_page(tmp_path, monkeypatch):
    report = make_report(task=NASTY, notes=(NASTY,), model=f"m/{NASTY}")
    report = dataclasses.replace(report, command=NASTY, environment={"device": NASTY, "versions": {NASTY: NASTY}})
    shown = io.StringIO()
    print_table(report, Console(file=shown, width=200))
    for text in (shown.getvalue(), to_html(report), to_markdown(report), model_card(report)):
        assert not controls(text)
        assert "owned" not in text
    seen = []
    monkeypatch.setattr(writer, "accuracy_speed_plot", lambda shown: seen.append(shown))
    write_report(report, tmp_path)
    assert not controls(seen[0].task.name)


def test_notes_and_errors_are_plain(capsys):
    show_notes([NASTY])
    assert not controls(capsys.readouterr().out)
    line, _ = explain(UserError(NASTY))
    assert not controls(line)
    assert "\n" not in line


def test_names_in_the_table_of_scores_are_escaped(tmp_path):
    site = PruningPlan.parse("layer:0").sites[0]
    scores = SiteScores("a|b<script>", {site: Score(0.5)}, n=2, seconds=1.0)
    write_scores([scores], "models/<b>a|b\x1b[2J", "task|*x*", tmp_path)
    text = (tmp_path / "scores.md").read_text()
    assert r"\<b\>a\|b is worth on task\|\*x\*" in text
    assert "<script" not in text.replace("\\<", "")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {3}
    assert not controls(text)
