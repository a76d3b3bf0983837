"""The files for people and machines around the package agree with it."""

import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import prune_bert

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
YAML_FILES = [
    ROOT / "mkdocs.yml",
    ROOT / "CITATION.cff",
    ROOT / ".pre-commit-config.yaml",
    *sorted((ROOT / ".github").rglob("*.yml")),
]


def read(path):
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_is_yaml(path):
    assert isinstance(read(path), dict)


def test_the_citation_is_of_this_version():
    citation = read(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == prune_bert.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]


def test_links_into_the_repository_lead_to_files():
    home = PROJECT["urls"]["Repository"]
    texts = [
        *PROJECT["urls"].values(),
        *(path.read_text() for path in (ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")),
    ]
    links = re.findall(rf"{re.escape(home)}/(?:blob|tree)/main/([\w./-]+)", " ".join(texts))
    assert links
    assert all((ROOT / link).exists() for link in links)


def test_the_changelog_has_the_form_that_it_names():
    headings = re.findall(r"^(#+) (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == [("#", "Changelog"), ("##", "Unreleased")]
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert all(text in kinds for level, text in headings if level == "###")
    assert all(
        re.fullmatch(r"Unreleased|\d+\.\d+\.\d+ - \d{4}-\d{2}-\d{2}", text) for level, text in headings if level == "##"
    )


def test_the_workflow_covers_what_the_project_supports():
    matrix = read(WORKFLOW)["jobs"]["tests"]["strategy"]["matrix"]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert matrix["python"][0] == oldest
    wanted = next(Requirement(line) for line in PROJECT["dependencies"] if line.startswith("transformers"))
    assert matrix["transformers"] == ["4.57.1", "newest"]
    assert "4.57.1" in wanted.specifier
    assert "4.56" not in wanted.specifier
    tested = {(python, version) for python in matrix["python"] for version in matrix["transformers"]}
    left_out = {(one["python"], one["transformers"]) for one in matrix["exclude"]}
    assert len(tested - left_out) == len(tested) - 1


def test_the_workflow_runs_files_that_are_there():
    text = WORKFLOW.read_text()
    named = re.findall(r"(?:scripts|tests|requirements)/[\w./]+", text)
    assert len(named) >= 5
    assert all((ROOT / name).is_file() for name in named)
    assert "mkdocs build --strict" in text


def test_the_hooks_need_no_network():
    for repo in read(ROOT / ".pre-commit-config.yaml")["repos"]:
        assert repo["repo"] == "local"
        for hook in repo["hooks"]:
            assert hook["language"] == "system"
            program, *words = hook["entry"].split()
            assert program.startswith(".venv/bin/")
            assert all((ROOT / word).is_file() for word in words if word.startswith("scripts/"))


def test_the_lock_of_the_documentation_has_what_its_extra_asks_for():
    locks = [(ROOT / "requirements" / name).read_text() for name in ("docs.txt", "constraints.txt")]
    for line in PROJECT["optional-dependencies"]["docs"]:
        wanted = Requirement(line)
        versions = re.findall(rf"^{wanted.name}==([\w.]+)", "\n".join(locks), re.MULTILINE)
        assert versions, line
        assert all(version in wanted.specifier for version in versions)


def test_every_issue_form_asks_for_what_is_needed():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*_*.yml"):
        form = read(path)
        assert form["name"]
        assert form["description"]
        assert any(field.get("validations", {}).get("required") for field in form["body"])
