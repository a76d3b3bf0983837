"""The state of a model, taken before something runs on it or is done to it, and put back afterwards.

One mechanism serves every place that promises to leave a model as it was: what a probing forward changes (BigBird
switches its attention modules, ModernBERT its attention implementation), and what an operation has done before it
fails.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import GenerationConfig, PretrainedConfig

from prune_bert.errors import UserError

# Larger tensors that are no parameters (quantised weights) are not copied; a change of one is refused instead.
_COPIED_BYTES = 64 * 2**20

_Container = dict[Any, Any] | list[Any] | set[Any]


class ModelChangedError(UserError, RuntimeError):
    """A model that overwrites its own weights while it runs, so that it cannot be put back."""


class Snapshot:
    """The state of a model at one time.

    It covers the module tree (the same module objects at the same paths), every attribute of every module, configs,
    hooks, training flags, and the values of buffers; containers are followed to any depth. Parameters and large
    buffers are not copied: their identity and storage are kept, and a change of their values is noticed.

    Args:
        roots: The model, or some modules of it.
        deep: Whether the modules inside them are covered, too.
    """

    def __init__(self, *roots: nn.Module, deep: bool = True) -> None:
        self._opened: Sequence[nn.Module] | None = None if deep else roots
        self._containers: list[tuple[_Container, _Container]] = []
        self._tensors: list[_TensorState] = []
        self._seen: dict[int, object] = {}  # holds the objects, so that no other one can get the id of one of them
        pending: list[Any] = list(roots)
        while pending:
            value = pending.pop()
            if id(value) not in self._seen:
                pending.extend(self._take(value))

    def restore(self) -> None:
        """Put everything back; what is as it was is not touched.

        Raises:
            ModelChangedError: If values that were not copied have changed.
        """
        for container, content in self._containers:
            if not _same_content(container, content):
                _set_content(container, content)
        lost = [state for state in self._tensors if not state.restore()]
        if lost:
            raise ModelChangedError(
                f"the model overwrites {len(lost)} of its own weights while it runs (the first of shape "
                f"{lost[0].shape}), so it cannot be left as it was; such a model is not supported"
            )

    def _take(self, value: Any) -> Iterable[Any]:
        """Note the state of one value, and return the values inside it."""
        if isinstance(value, torch.Tensor):
            # A wrapper subclass (DTensor), a sparse or quantised tensor is kept by reference only.
            plain = value.layout == torch.strided and not value.is_quantized
            if plain and type(value) in (torch.Tensor, nn.Parameter):
                self._seen[id(value)] = value
                self._tensors.append(_TensorState(value))
            return ()
        if isinstance(value, nn.Module) and self._opened is not None and value not in self._opened:
            return ()
        if isinstance(value, (nn.Module, PretrainedConfig, GenerationConfig)):
            self._seen[id(value)] = value
            return (vars(value),)
        if isinstance(value, (dict, list, set)):
            self._seen[id(value)] = value
            self._containers.append((value, _content(value)))
            return list(value.values()) if isinstance(value, dict) else value
        return value if isinstance(value, tuple) else ()


@contextmanager
def left_unchanged(model: nn.Module) -> Iterator[None]:
    """Run a block, and put the model back into the state of before on leaving it, in whatever way.

    Raises:
        ModelChangedError: If the model has overwritten its own weights.
    """
    before = Snapshot(model)
    try:
        yield
    finally:
        before.restore()


@contextmanager
def all_or_nothing(*roots: nn.Module, deep: bool = True) -> Iterator[None]:
    """Run a block that changes a model; if it raises anything, put the model back into the state of before.

    Args:
        roots: The model, or the modules of it that the block changes.
        deep: Whether the modules inside them are covered, too.
    """
    before = Snapshot(*roots, deep=deep)
    try:
        yield
    except BaseException:
        before.restore()
        raise


@contextmanager
def random_state_kept(model: nn.Module) -> Iterator[None]:
    """Put the state of every random number generator that a forward can draw from back on leaving.

    Those are Python's, NumPy's, torch's, and that of each device on which the model has parameters.
    """
    devices = {parameter.device for parameter in model.parameters()} - {torch.device("cpu"), torch.device("meta")}
    python, numpy, host = random.getstate(), np.random.get_state(), torch.get_rng_state()
    states = {device: torch.get_device_module(device).get_rng_state(device) for device in devices}
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(host)
        for device, state in states.items():
            torch.get_device_module(device).set_rng_state(state, device)


class _TensorState:
    """Where a tensor's values are, and a copy of them unless it is a parameter or large."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self._data = tensor.data
        small = tensor.numel() * tensor.element_size() <= _COPIED_BYTES
        self._copy = tensor.detach().clone() if small and not isinstance(tensor, nn.Parameter) else None
        self._version = _version(tensor)
        self.shape = tuple(tensor.shape)

    def restore(self) -> bool:
        """Put the values back; False if they have changed and there is no copy."""
        tensor, data = self._tensor, self._data
        if not _same_storage(tensor, data):
            tensor.data = data
        if self._copy is None:
            return _version(tensor) == self._version
        if not tensor.is_meta and not torch.equal(_bits(tensor), _bits(self._copy)):
            with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                tensor.copy_(self._copy)
        return True


def _version(tensor: torch.Tensor) -> int | None:
    """Return the count of a tensor's changes in place; an inference tensor has none."""
    return None if tensor.is_inference() else tensor._version


def _same_storage(tensor: torch.Tensor, data: torch.Tensor) -> bool:
    return tensor.device == data.device and tensor.dtype == data.dtype and tensor.is_set_to(data)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """View a tensor's bytes, in which a nan equals itself."""
    return tensor.detach().reshape(-1).view(torch.uint8)


def _content(container: _Container) -> _Container:
    if isinstance(container, dict):
        return dict(container)
    return set(container) if isinstance(container, set) else list(container)


def _same_content(container: _Container, content: _Container) -> bool:
    """Compare by identity and order, since the ``==`` of tensors and configs is something else."""
    if len(container) != len(content):
        return False
    if isinstance(container, dict) and isinstance(content, dict):
        pairs = zip(container.items(), content.items(), strict=True)
        return all(name is old_name and value is old for (name, value), (old_name, old) in pairs)
    if isinstance(container, set):
        return container == content
    return all(one is other for one, other in zip(container, content, strict=True))


def _set_content(container: _Container, content: _Container) -> None:
    """Fill a container in place: hooks' handles and stand-ins refer to the object itself."""
    if isinstance(container, list):
        container[:] = content
        return
    container.clear()
    container.update(content)
