"""What the tests of hostile input share: the flags of every verb on a tiny model, and the law that each case obeys."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers

from prune_bert.cli import main
from prune_bert.cli.noise import quiet_libraries

MOST_CHARACTERS = 400
MOST_OF_SEVERAL_FAULTS = 660


def base_flags(verb: str, root: Path) -> dict[str, Any]:
    """Return the flags of a run of a verb that would succeed, with every file below ``root``."""
    model = {"model_name_or_path": root / "model", "device": "cpu"}
    task = {"task_name": "sst2", "data_dir": root / "data", "max_seq_length": 32, "n_resamples": 100}
    timing = {"profile_rounds": 2, "profile_warmup": 1}
    grid = {"profile_batch_sizes": 1, "profile_sequence_lengths": 16}
    plan = {"plan": "layer:1 ffn:2"}
    flags: dict[str, dict[str, Any]] = {
        "prune": model | task | plan | timing | grid,
        "evaluate": model | task,
        "benchmark": model | plan | timing | grid,
        "train": model | task | {"max_steps": 1},
        "score": model | task | {"scorer": "magnitude", "max_calibration_samples": 8},
        "search": model | task | timing | {"strategy": "one_shot", "scorer": "top", "max_calibration_samples": 8},
        "recover": model | task | plan | timing | grid | {"max_steps": 1, "max_train_samples": 8},
        "report": {"report": root / "report.json"},
    }
    return flags[verb] | {"output_dir": root / "out"}


def words(verb: str, flags: Mapping[str, Any]) -> list[str]:
    """Write flags as the words of a command line; None leaves one out, and a list is several words."""
    found = [verb]
    for name, value in flags.items():
        if value is not None:
            found += [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}", str(value)]
    return found


def tree(root: Path) -> dict[str, tuple[int, int, int]]:
    """Return every path below a directory with its kind, size and time of the last change."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            state = path.lstat()
            kind = stat.S_IFMT(state.st_mode)
            found[str(path)] = (kind, 0, 0) if stat.S_ISDIR(kind) else (kind, state.st_size, state.st_mtime_ns)
    return found


def refusal(arguments: list[str], root: Path, capfd: Any) -> str:
    """Run a command line that has to be refused, and return what it was told.

    The law: exit code 2, one line of at most a few hundred printable characters, no traceback, and nothing on disk
    that was not there before, or is other than it was.
    """
    quiet_libraries()  # what the program does before it imports them
    transformers.logging.disable_progress_bar()
    capfd.readouterr()
    before = tree(root)
    code = main(arguments)
    err = capfd.readouterr().err
    assert code == 2, f"exit code {code}: {err[-600:]}"
    assert err.startswith("error: "), err[:600]
    assert err.endswith("\n")
    line = err[:-1]
    assert line.isprintable(), line[:600]
    most = MOST_OF_SEVERAL_FAULTS if " faults in " in line else MOST_CHARACTERS
    assert len(line) <= most, f"{len(line)} characters: {line[:600]}"
    assert "Traceback" not in line
    assert tree(root) == before
    return line
