"""Where a site's input and its target are taken from a forward pass, which stops there.

The input is what reaches the site in the pruned model so far; the target what the unpruned model has there: before the
LayerNorm that stays, ``x + f(x)``, and after it; of an exact identity's site, simply its output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from prune_bert.architectures import find_encoder
from prune_bert.compensation.settings import CompensationError
from prune_bert.plan import NormRule, Site
from prune_bert.stand_ins import Identity
from prune_bert.surgery.swaps import hidden_entering, hidden_of

Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Port:
    """The modules at which a site, or a run of layers, is watched.

    Attributes:
        site: The site that carries the correction.
        entry: Its input is the site's.
        exit: Its output is the site's.
        norm: The LayerNorm that stays, inside `exit`; None where there is none.
        residual_outside: Whether the residual is added outside `exit` (DistilBERT).
        work: The parameters of the matrices that go: what a token costs there, in multiplications.
        width: The width of the hidden states.
        first_alone: Whether only the first token of an example is read behind it.
    """

    site: Site
    entry: nn.Module
    exit: nn.Module
    norm: nn.Module | None
    residual_outside: bool
    work: int
    width: int
    first_alone: bool


@dataclass(frozen=True, eq=False)
class Target:
    """What the unpruned model has at a site, ``(batch, seq, hidden)``.

    Attributes:
        before: Before the LayerNorm that stays; the output where none does.
        after: After it.
    """

    before: torch.Tensor
    after: torch.Tensor


def port_of(model: Any, run: Sequence[Site], norm: NormRule, *, first_alone: bool = False) -> Port:
    """Find the modules of a site, or of a run of adjacent layers, whose last site carries the correction.

    Args:
        model: The unpruned model.
        run: The site, or the layers.
        norm: The norm rule.
        first_alone: Whether only the first token of an example is read behind it.

    Raises:
        ArchitectureError: Only whole layers of the family are known.
    """
    encoder, width = find_encoder(model), int(model.config.hidden_size)
    parts = [(encoder.layers[site.layer], part) for site in run for part in encoder.parts(site.component, norm)]
    modules = [layer.get_submodule(part.path) for layer, part in parts]
    for module in modules:
        if isinstance(module, Identity):
            raise CompensationError(f"{run[-1]} is pruned already; a compensation is fitted from the unpruned model")
    carrier = next(number for number, (_, part) in enumerate(parts) if part.skipping != "ignored")
    part = parts[carrier][1]
    # of a residual added outside, the site ends before the LayerNorm, unless that goes, too
    residual_outside = part.skipping == "zero" and carrier == len(parts) - 1
    kept = modules[-1].get_submodule(part.norm_path) if part.norm_path else None
    work = sum(p.numel() for module in modules for p in module.parameters() if p.ndim == 2)
    return Port(run[-1], modules[0], modules[-1], kept, residual_outside, work, width, first_alone)


def entering(model: nn.Module, port: Port, batch: Batch) -> torch.Tensor:
    """Run a model up to a site, and give what reaches it, ``(batch, seq, hidden)``."""
    seen: list[torch.Tensor] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(hidden_entering(module, args, kwargs))
        raise _Reached

    handle = port.entry.register_forward_pre_hook(enter, with_kwargs=True)
    _run_watched(model, batch, [handle])
    return _seen_at(port, seen)


def target_at(model: nn.Module, port: Port, batch: Batch) -> Target:
    """Run the unpruned model through a site, and give what it has there."""
    watch = _Watch(port)

    def stop(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        raise _Reached

    _run_watched(model, batch, [*watch.hook(), port.exit.register_forward_hook(stop)])
    return watch.target()


def entering_all(model: nn.Module, ports: Mapping[Port, str], batch: Batch) -> list[torch.Tensor]:
    """Run a model, pruned as it may be, and give what reaches each of some sites, ``(batch, seq, hidden)``.

    Args:
        model: The model.
        ports: The sites, each with the path of its entry, where a stand-in may be by now.
        batch: The inputs.
    """
    seen: dict[Port, list[torch.Tensor]] = {port: [] for port in ports}

    def watch(port: Port) -> Any:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen[port].append(hidden_entering(module, args, kwargs))

        return enter

    handles = [
        model.get_submodule(path).register_forward_pre_hook(watch(port), with_kwargs=True)
        for port, path in ports.items()
    ]
    _run_watched(model, batch, handles)
    return [_seen_at(port, found) for port, found in seen.items()]


def targets_at(model: nn.Module, ports: Sequence[Port], batch: Batch) -> list[Target]:
    """Run the unpruned model, and give what it has at each of some sites."""
    watched = [_Watch(port) for port in ports]
    _run_watched(model, batch, [handle for watch in watched for handle in watch.hook()])
    return [watch.target() for watch in watched]


class _Watch:
    """What the unpruned model has at one site: the hooks that see it, and what they saw."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._inputs: list[torch.Tensor] = []
        self._outputs: list[torch.Tensor] = []

    def hook(self) -> list[RemovableHandle]:
        """Begin to watch."""
        port = self._port
        handles = [port.exit.register_forward_hook(self._leave)]
        if port.norm is not None:
            handles.append(port.norm.register_forward_pre_hook(self._at_norm))
        elif port.residual_outside:
            handles.append(port.exit.register_forward_pre_hook(self._enter, with_kwargs=True))
        return handles

    def target(self) -> Target:
        """Return what was seen."""
        after = _seen_at(self._port, self._outputs)
        if self._port.residual_outside:
            after = _seen_at(self._port, self._inputs) + after
        return Target(_seen_at(self._port, self._inputs) if self._port.norm is not None else after, after)

    def _at_norm(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._inputs.append(args[0])

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._inputs.append(hidden_entering(module, args, kwargs))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._outputs.append(hidden_of(output))


class _Reached(Exception):  # noqa: N818 (no error)
    """Ends a forward pass at a site: what comes after it is not needed."""


def _run_watched(model: nn.Module, batch: Batch, handles: Sequence[RemovableHandle]) -> None:
    """Run a model, to its end or until a hook ends it, and take the hooks off."""
    try:
        model(**batch)
    except _Reached:
        return
    finally:
        for handle in handles:
            handle.remove()


def _seen_at(port: Port, seen: Sequence[torch.Tensor]) -> torch.Tensor:
    if len(seen) != 1:
        raise CompensationError(
            f"{port.site} runs {len(seen)} times in a forward pass, so it has no one input and output; with "
            "config.chunk_size_feed_forward set it to 0"
        )
    return seen[0]
