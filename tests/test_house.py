"""The house's own rules: imports point down, the public surface is what it says, small files, everything documented."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import prune_bert

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "prune_bert"
SOURCES = sorted(PACKAGE.rglob("*.py"))

LEVELS = {
    "errors": -2,
    "knobs": -1,
    "text_files": -1,
    "display": -1,
    "storage": -1,
    "plan": 0,
    "config": 0,
    "corrections": 0,
    "plain": 0,
    "stand_ins": 1,
    "architectures": 1,
    "embedded": 1,
    "lora": 1,
    "profiling": 1,
    "search": 1,
    "tasks": 1,
    "surgery": 2,
    "checkpoint": 3,
    "evaluation": 3,
    "importance": 4,
    "training": 4,
    "compensation": 4,
    "recovery": 5,
    "report": 5,
    "pipeline": 6,
    "cli": 7,
    "__main__": 8,
    "__init__": 8,
}
WITHOUT_TORCH = (
    "prune_bert",
    "prune_bert.knobs",
    "prune_bert.plan",
    "prune_bert.config",
    "prune_bert.search",
    "prune_bert.cli",
)


def module_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path):
    """Name the modules of the package that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "prune_bert" and len(parts) > 1:
                yield parts[1]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    here = module_of(path)
    for other in imports_of(path):
        assert other == here or LEVELS[other] < LEVELS[here], f"{here} imports {other}"


def functions():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield path, node


def test_files_and_functions_are_small():
    for path in SOURCES:
        assert len(path.read_text().splitlines()) <= 400, path
    for path, node in functions():
        assert node.end_lineno - node.lineno < 50, f"{path}:{node.lineno} {node.name}"


def test_everything_public_is_documented_and_annotated():
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{path} says nothing of itself"
        for node in tree.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name}"
    for path, node in functions():
        arguments = [a for a in (*node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]
        assert all(a.annotation for a in arguments), f"{path}:{node.lineno} {node.name}"
        assert node.returns is not None, f"{path}:{node.lineno} {node.name}"


def test_the_public_surface_is_sorted_tested_and_there():
    names = [name for name in prune_bert.__all__ if name != "__version__"]
    assert names == sorted(names)
    for name in names:
        value = getattr(prune_bert, name)
        assert value.__doc__, name
    assert set(dir(prune_bert)) == set(prune_bert.__all__)
    with pytest.raises(AttributeError, match="no attribute 'brune'"):
        prune_bert.brune  # noqa: B018


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_importing_costs_no_torch(module):
    heavy = ("torch", "transformers", "datasets", "evaluate", "accelerate", "matplotlib", "pydantic")
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_no_module_is_a_lumber_room():
    assert not {"utils", "common", "helpers", "misc"} & {path.stem for path in SOURCES}


CLOCKS = ("time.perf_counter(", "time.monotonic(", "time.time(", "--standalone", '"--master_port", "')


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("*.py")), ids=lambda path: path.name)
def test_no_test_hangs_on_a_clock_or_a_port(path):
    """A deadline or a ratio of times fails on a busy machine: tests/processes.py has what to use in their place."""
    if path != Path(__file__):
        assert not [word for word in CLOCKS if word in path.read_text().replace("``--standalone``", "")]
