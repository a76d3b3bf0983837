"""What goes into each site and what comes out of it in a forward pass, by hooks that change nothing.

A layer's input and output are its hidden states before and after. A sublayer's are taken around its residual and, in
post-LN families, its LayerNorm: ``x`` and ``LN(x + f(x))``, as removing it under ``norm=skip`` would give ``x``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from prune_bert.architectures import Encoder, Part
from prune_bert.importance.calibration import ImportanceError
from prune_bert.plan import NormRule, Site
from prune_bert.stand_ins import Identity
from prune_bert.surgery.swaps import hidden_entering, hidden_of


@dataclass(frozen=True)
class Passage:
    """One site in one forward pass.

    Attributes:
        before: What went in, ``(batch, seq, hidden)``.
        after: What came out, likewise.
    """

    before: torch.Tensor
    after: torch.Tensor


@dataclass(frozen=True)
class Ports:
    """The modules at which a site is watched.

    Attributes:
        entry: Its input is the site's.
        exit: Its output is the site's.
        stand_in: What would come out if the site were removed, given what goes in.
    """

    entry: nn.Module
    exit: nn.Module
    stand_in: Callable[[torch.Tensor], torch.Tensor]


def ports(encoder: Encoder, site: Site, norm: NormRule = "skip") -> Ports:
    """Find the modules of a site, whose output a removal under a norm rule would replace.

    Under ``skip`` that is everything from the sublayer's input to its LayerNorm's output. Under ``keep`` the
    LayerNorm stays: ``LN(x)`` comes out in the place of ``LN(x + f(x))``; where the residual is added outside the
    sublayer's module (DistilBERT), zero comes out of it in the place of ``f(x)``.

    Raises:
        ImportanceError: The site is pruned already.
        ArchitectureError: Only whole layers of the family are known.
    """
    layer = encoder.layers[site.layer]
    parts = encoder.parts(site.component, norm)
    modules = [layer.get_submodule(part.path) for part in parts]
    for module in (layer, *modules):
        if isinstance(module, Identity):
            raise ImportanceError(f"{site} is pruned already; sites are scored on the unpruned model")
    return Ports(modules[0], modules[-1], _stand_in(parts[-1], modules[-1]))


@contextmanager
def watched(sites: Mapping[Site, Ports]) -> Iterator[dict[Site, Passage]]:
    """Hang hooks on the modules of some sites, and take them off on leaving.

    Yields:
        What the last forward pass showed; empty before one. Clear it after each.
    """
    seen: dict[Site, Passage] = {}
    before: dict[Site, torch.Tensor] = {}
    handles: list[RemovableHandle] = []
    try:
        for site, port in sites.items():
            enter, leave = _hooks(site, before, seen)
            handles.append(port.entry.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(port.exit.register_forward_hook(leave))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _hooks(
    site: Site, before: dict[Site, torch.Tensor], seen: dict[Site, Passage]
) -> tuple[Callable[..., None], Callable[..., None]]:
    """Make the two hooks of a site; a hook that returned something would replace it."""

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if site in seen:
            raise ImportanceError(
                f"{site} runs more than once in a forward pass, so it has no one input and output; with "
                "config.chunk_size_feed_forward set it to 0 for scoring"
            )
        before[site] = hidden_entering(module, args, kwargs)

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen[site] = Passage(before.pop(site), hidden_of(output))

    return enter, leave


def _stand_in(part: Part, module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    if part.skipping == "zero":
        return torch.zeros_like
    if part.norm_path:
        norm: Callable[[torch.Tensor], torch.Tensor] = module.get_submodule(part.norm_path)
        return norm
    return lambda before: before
