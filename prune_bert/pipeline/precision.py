"""The number format that a run computes in, and accelerate's process-wide state, which holds it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate.state import AcceleratorState, PartialState

from prune_bert.config import Config
from prune_bert.errors import UserError

LAUNCHED = "ACCELERATE_MIXED_PRECISION"
"""The environment variable by which ``accelerate launch --mixed_precision`` tells its processes."""

_KNOWN = ("no", "bf16", "fp16")

AnyConfig = TypeVar("AnyConfig", bound=Config)


class PrecisionError(UserError):
    """A precision of the launcher that this project does not have."""


def settled_precision(config: AnyConfig) -> tuple[AnyConfig, tuple[str, ...]]:
    """Settle the precision of a run: the configuration's if it gives one, else the launcher's, else ``no``.

    Returns:
        The configuration with the precision in force, and a note where the launcher has decided or was overruled.

    Raises:
        PrecisionError: The launcher asks for one that is not supported.
    """
    settings: Any = config
    given: str | None = settings.mixed_precision
    launched = os.environ.get(LAUNCHED, "").strip().lower() or None
    if given is not None:
        overruled = launched is not None and launched != given
        return config, ((f"mixed_precision {given} as given, not the launcher's {launched}",) if overruled else ())
    if launched is not None and launched not in _KNOWN:
        raise PrecisionError(
            f"accelerate's launcher asks for mixed_precision {launched!r} ({LAUNCHED}), which is not supported; "
            f"give one of {', '.join(_KNOWN)} with --mixed_precision"
        )
    precision = launched or "no"
    notes = () if precision == "no" else (f"mixed_precision {precision} from accelerate's launcher ({LAUNCHED})",)
    return dataclasses.replace(settings, mixed_precision=precision), notes


@contextmanager
def own_accelerate_state() -> Iterator[None]:
    """Use an accelerate state of its own for a run, and put back the one that was there, whatever happens.

    accelerate keeps device and precision for the whole process, and refuses a second precision. Here a run may choose
    anew, accelerators made before keep theirs, and accelerators made later do not get this run's. A process group that
    is up stays as it is. Works as a decorator, too.
    """
    outer, partial = AcceleratorState._shared_state, PartialState._shared_state
    # new mappings, since the old ones are the very attributes of the accelerators that are alive
    AcceleratorState._shared_state = type(outer)()
    if not _group_is_up():
        PartialState._shared_state = type(partial)()
    try:
        yield
    finally:
        AcceleratorState._shared_state = outer
        if not _group_is_up():
            PartialState._shared_state = partial


def _group_is_up() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
