"""From a command line to a verb's function in ``pipeline``, and to an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from prune_bert.cli.failures import explain, settle_stdout, tell
from prune_bert.cli.noise import plain_warnings, quiet_libraries
from prune_bert.cli.parser import PROGRAM, read_command
from prune_bert.config import dump, load_config


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code.

    0: done. 2: the user can mend it, and one line on stderr says how. 130: interrupted. A defect keeps its
    traceback and ends with 1.

    Args:
        arguments: The words after the program's name; None takes those of this process.
    """
    try:
        code = _run(tuple(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        told = explain(error)
        if told is None:
            raise
        settle_stdout()
        line, code = told
        tell(line, code)
    return code


def _run(arguments: tuple[str, ...]) -> int:
    try:
        command = read_command(arguments)
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    config = load_config(command.config_class, command.config_path, command.flags)
    if command.print_config:
        sys.stdout.write(dump(config))
        return 0
    if command.config_path is not None:
        from prune_bert.storage import refuse_inputs

        refuse_inputs(str(getattr(config, "output_dir", "")), {"config": command.config_path})
    quiet_libraries()
    with plain_warnings():
        run_verb = getattr(import_module("prune_bert.pipeline"), f"run_{command.verb}")
        code = int(run_verb(config, (PROGRAM, *arguments)) or 0)
    _leave_together()
    return code


def _leave_together() -> None:
    """Take the group of several processes down: one that exits with it still up can end in an abort."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
