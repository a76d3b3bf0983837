"""What scripts write into the documentation is up to date, and the scripts notice when it is not."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import draw_architecture  # noqa: E402
import pages  # noqa: E402
import write_configuration  # noqa: E402
from layered_drawing import BOX_WIDTH, draw  # noqa: E402
from run_examples import blocks, commands, run_console, updated  # noqa: E402

SCRIPTS = {"draw_architecture.py": draw_architecture, "write_configuration.py": write_configuration}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_generated_page_is_up_to_date(script):
    done = subprocess.run(
        [sys.executable, f"scripts/{script}", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_outdated_page_is_noticed_and_mended(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    for check, code in ((True, 1), (False, 0), (True, 0)):
        assert pages.write_or_check({page: "new\n"}, "scripts/x.py", check=check) == code
    assert page.read_text() == "new\n"
    shown = capsys.readouterr()
    assert shown.err == "page.md is out of date: run python scripts/x.py\n"


def test_only_what_stands_between_the_markers_changes():
    page = "before\n<!-- a: begin (by x) -->\n\nold\n\n<!-- a: end -->\nafter\n"
    changed = pages.between_markers(page, "a", "new")
    assert changed == page.replace("old", "new")
    assert pages.between_markers(changed, "a", "new") == changed
    with pytest.raises(SystemExit, match="no markers 'b: begin'"):
        pages.between_markers(page, "b", "new")


def test_a_new_import_changes_the_page(monkeypatch):
    """An import that nothing implies is drawn; the table names every one."""
    before = draw_architecture.documents()
    imports = draw_architecture.read_imports()
    monkeypatch.setattr(
        draw_architecture, "read_imports", lambda: imports | {"embedded": imports["embedded"] | {"plan"}}
    )
    after = draw_architecture.documents()
    assert before[draw_architecture.PICTURE] != after[draw_architecture.PICTURE]
    assert "| `errors`, `plan` |" in after[draw_architecture.PAGE].partition("`embedded` |")[2].partition("\n")[0]


def test_every_package_is_in_the_picture():
    picture, page = draw_architecture.PICTURE.read_text(), draw_architecture.PAGE.read_text()
    for name in draw_architecture.read_imports().keys() - set(draw_architecture.ENTRY_POINTS):
        assert f">{name}</text>" in picture
        assert f"| `{name}` |" in page


GRAPHS = st.dictionaries(st.tuples(st.integers(0, 7), st.integers(0, 7)), st.just(True), max_size=20)


@settings(deadline=None)
@given(GRAPHS)
def test_leaving_out_implied_edges_changes_nothing_that_can_be_reached(edges):
    graph = {str(node): frozenset(str(b) for a, b in edges if a == node and b < a) for node in range(8)}
    fewer = {name: frozenset(used) for name, used in draw_architecture.reduced(graph).items()}
    for name in graph:
        assert fewer[name] <= graph[name]
        assert draw_architecture.reachable(fewer, name) == draw_architecture.reachable(graph, name)


@settings(deadline=None)
@given(GRAPHS)
def test_boxes_of_a_row_do_not_overlap(edges):
    levels = {level: [f"{level}a", f"{level}b", f"{level}c"] for level in range(8)}
    picture = draw(levels, {f"{a}a": [f"{b}b"] for a, b in edges if b < a})
    rows = {}
    for x, y in re.findall(r'class="box" x="(-?\d+)" y="(\d+)"', picture):
        rows.setdefault(y, []).append(int(x))
    assert len(rows) == 8
    for places in rows.values():
        assert len(places) == 3
        assert min(b - a for a, b in zip(sorted(places), sorted(places)[1:], strict=False)) > BOX_WIDTH


def test_the_reference_has_every_setting_of_every_verb():
    from prune_bert.config import VERBS, groups

    page = write_configuration.PAGE.read_text()
    for verb, cls in VERBS.items():
        assert f"| `{verb}` |" in page
        for _, fields in groups(cls):
            for field in fields:
                assert re.search(rf"^\| `{field.name}` \|", page, re.MULTILINE), field.name


def test_an_example_is_run_and_its_output_is_written(tmp_path):
    page = tmp_path / "page.md"
    examples = "```python\nx = 2\n```\n\n```python\nprint(x + 1)\n```\n"
    page.write_text(examples + '\n```text title="Output"\nwrong\n```\n')
    assert updated(page) == page.read_text().replace("wrong", "3")
    page.write_text("\n\n```python\nprint(1 / 0)\n```\n")
    with pytest.raises(ZeroDivisionError) as caught:
        updated(page)
    assert (caught.traceback[-1].path, caught.traceback[-1].lineno) == (page, 3)


def test_console_commands_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "$ echo one \\\n    two > file\n$ cat file\nold\n$ prune-bert brune\n"
    assert commands(text) == ["echo one \\\n    two > file", "cat file", "prune-bert brune"]
    shown = run_console(text)
    assert shown.startswith(
        "$ echo one \\\n    two > file\n$ cat file\none two\n$ prune-bert brune\nerror: unknown verb"
    )
    assert [block.info for block in blocks(f"```console\n{shown}```\n")] == ["console"]
