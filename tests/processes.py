"""Runs in processes of their own: two in a group on a free port, or one that kills itself at a known point."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
TIMEOUT_S = 600
"""For a process that is stuck; on a busy machine a healthy one may take minutes."""

_COMMAND_LINE = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {root!r}]
from processes import kill_in_call
kill_in_call({target!r}, lambda: {condition})
from prune_bert.cli import main
sys.exit(main(sys.argv[1:]))
"""


def torchrun(*arguments: object, processes: int = 2) -> list[str]:
    """Return the command that runs a script, or ``-m module``, in a group of processes on a port that is free.

    Their rendezvous is the static one: that of ``--standalone`` takes a process for dead that a busy machine lets
    miss a heartbeat of a few seconds.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = ["--master_addr", "127.0.0.1", "--master_port", port]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), *place]
    return [*launcher, *map(str, arguments)]


def kill_in_call(target: str, condition: Callable[[], bool]) -> None:
    """End this process with SIGKILL in the first call of a function or method at which a condition holds.

    Args:
        target: Such as ``package.module.function`` or ``package.module.Class.method``.
        condition: Looked at before the call does anything.
    """
    owner_path, _, name = target.rpartition(".")
    try:
        owner = import_module(owner_path)
    except ModuleNotFoundError:
        module, _, cls = owner_path.rpartition(".")
        owner = getattr(import_module(module), cls)
    whole = getattr(owner, name)

    @functools.wraps(whole)
    def replacement(*given, **named):
        if condition():
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*given, **named)

    setattr(owner, name, replacement)


def run_until_killed(arguments: list[str], target: str, condition: str, cwd: Path) -> None:
    """Run a command line in a process that kills itself in a call of a function, and check that it did.

    Args:
        arguments: The words after the program's name.
        target: As in `kill_in_call`.
        condition: An expression that may use ``Path``; ``"True"`` for the first call.
        cwd: Where it runs.
    """
    code = _COMMAND_LINE.format(tests=str(TESTS), root=str(ROOT), target=target, condition=condition)
    run_code_until_killed(code, *arguments, cwd=cwd)


def run_code_until_killed(code: str, *arguments: str, cwd: Path | None = None) -> None:
    """Run Python code in a process that kills itself, and check that it did."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=cwd, timeout=TIMEOUT_S)
    assert done.returncode == -signal.SIGKILL, f"ended with {done.returncode}: {done.stderr[-2000:]}"
