"""What a person sees while training runs: step, loss and time left, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_INTERVAL_SECONDS = 30.0

Report = Callable[[int, float], None]


@contextmanager
def training_progress(total_steps: int, done_steps: int, *, shown: bool) -> Iterator[Report]:
    """Yield a function to call with step and loss: a bar on a terminal, lines elsewhere."""
    if not shown:
        yield lambda step, loss: None
    elif sys.stderr.isatty():
        with _bar(total_steps, done_steps) as report:
            yield report
    else:
        yield _lines(total_steps, done_steps)


@contextmanager
def _bar(total_steps: int, done_steps: int) -> Iterator[Report]:
    """Yield a report function that moves a bar on the terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("train"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("train", total=total_steps, completed=done_steps, loss="-")
        yield lambda step, loss: bar.update(task, completed=step, loss=f"{loss:.4f}")


def _lines(total_steps: int, done_steps: int) -> Report:
    """Return a report function that writes a plain line every 30 seconds and at the end."""
    start = last = time.monotonic()

    def report(step: int, loss: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < LINE_INTERVAL_SECONDS and step < total_steps:
            return
        last = now
        seconds_left = (now - start) / max(1, step - done_steps) * (total_steps - step)
        sys.stderr.write(
            f"train: step {step}/{total_steps} ({step / total_steps:.0%}), loss {loss:.4f}, "
            f"{_duration(seconds_left)} left\n"
        )
        sys.stderr.flush()

    return report


def _duration(seconds: float) -> str:
    """Return seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
