"""A stretch of a model's own forward, noted while it runs, to be run again from another tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class ReplayError(Exception):
    """A stretch that cannot be run again, since its end does not come from its start."""


class _Slot(int):
    """Stands in a step's arguments for the tensor of that number."""


@dataclass(frozen=True)
class _Step:
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class Replay:
    """The torch calls between two tensors, as the model made them.

    A call of it makes the same calls, in the same order and with the same arguments, except that what came from
    the stretch itself is computed anew. Values that the stretch read into Python (a shape, a flag) stay as they were.
    """

    steps: tuple[_Step, ...]
    end: int

    def __call__(self, start: torch.Tensor) -> torch.Tensor:
        """Go from another start, ``(batch, seq, hidden)``, to its end."""
        values = [start]
        for step in self.steps:
            args = _each(step.args, _Slot, values.__getitem__)
            kwargs = {name: _each(value, _Slot, values.__getitem__) for name, value in step.kwargs.items()}
            values += _tensors(step.function(*args, **kwargs))
        return values[self.end]


class Tape(TorchFunctionMode):
    """Notes the torch calls made while it is entered.

    It listens above autocast, so that a replay is cast as the model's own call would be.

    Args:
        start: The tensor that a replay replaces.
    """

    def __init__(self, start: torch.Tensor) -> None:
        super().__init__()
        self._values = [start]  # held, so that no other tensor can get the id of one of them
        self._slots = {id(start): _Slot(0)}
        self._steps: list[_Step] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Make the call, and note it."""
        kwargs = kwargs or {}
        noted_args = _each(args, torch.Tensor, self._noted)
        noted_kwargs = {name: _each(value, torch.Tensor, self._noted) for name, value in kwargs.items()}
        result = func(*args, **kwargs)
        made = _tensors(result)
        # What gives a number or a shape has told it to Python already, and would make the host wait for the device;
        # what gives nothing has changed a tensor.
        if made or result is None:
            self._steps.append(_Step(func, noted_args, noted_kwargs))
        for tensor in made:
            self._slots[id(tensor)] = _Slot(len(self._values))
            self._values.append(tensor)
        return result

    def replay(self, end: torch.Tensor) -> Replay:
        """Return the way from the start to a tensor.

        Raises:
            ReplayError: If the tensor is not among what was computed.
        """
        if id(end) not in self._slots:
            raise ReplayError
        return Replay(tuple(self._steps), self._slots[id(end)])

    def _noted(self, tensor: torch.Tensor) -> Any:
        return self._slots.get(id(tensor), tensor)


def _each(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Change what is of one kind in an argument, or in the list or tuple that it is."""
    if isinstance(value, kind):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)([_each(item, kind, change) for item in value])
    return value


def _tensors(result: Any) -> list[torch.Tensor]:
    """List the tensors in what a function of torch returns."""
    if isinstance(result, torch.Tensor):
        return [result]
    return [item for item in result if isinstance(item, torch.Tensor)] if isinstance(result, (list, tuple)) else []
