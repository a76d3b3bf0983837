"""Many plans in one depth-first walk over a batch, every prefix that they share computed once.

The model's own forward runs once for each batch, under the first plan, and is recorded: how each layer is called, and
what happens between and after the layers. From there the walk goes on with the same layers, or the stand-ins of
``bypass`` in their place, on other hidden states. Nothing of a family is written down here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from prune_bert.architectures import Encoder, find_encoder
from prune_bert.evaluation.encoding import SharedWorkError
from prune_bert.evaluation.inference import Forward, logits_of
from prune_bert.evaluation.plan_recording import Recording, record_forward
from prune_bert.evaluation.plan_tree import LayerVariant, PlanNode, PlanTree, layer_variants, plan_tree
from prune_bert.plan import Component, NormRule, PruningPlan, Site
from prune_bert.surgery.snapshot import left_unchanged
from prune_bert.surgery.swaps import Swap, put, swaps_for

Replacements = Mapping[str, nn.Module]


@contextmanager
def plan_forward(model: nn.Module, tree: PlanTree) -> Iterator[Forward]:
    """Return a forward of all plans of a tree; the model is restored bit-exactly on leaving, also after an exception.

    While it runs, a batch holds at most one hidden state a layer beside the embeddings, and for layers where plans
    differ only in the feed-forward sublayer one output of the attention. That bound does not grow with the plans.

    Args:
        model: A model of transformers, in evaluation mode.
        tree: The plans.

    Yields:
        From a batch to ``(batch, ends, num_outputs)`` logits, in the order of the tree's ends.

    Raises:
        SurgeryError: If a site is not there, is pruned already, or cannot be imitated.
        ArchitectureError: If the model's layers cannot be found, or its family lacks a component.
        SharedWorkError: If the model is of a kind where plans cannot share work.
    """
    encoder = find_encoder(model)
    if any(hasattr(layer, "set_attention_type") for layer in encoder.layers):
        raise SharedWorkError(
            f"{encoder.model_type} switches the attention of its layers by the length of its inputs, so plans cannot "
            "share work: evaluate plans of this model one at a time, under bypass"
        )
    with left_unchanged(model):
        layers = [_LayerInVariants(model, each) for each in _replacements(model, encoder, tree)]
        yield _PlanForward(model, encoder, tree, layers)


class _PlanForward:
    """The walk over one batch after another."""

    def __init__(
        self,
        model: nn.Module,
        encoder: Encoder,
        tree: PlanTree,
        layers: list[_LayerInVariants],
        rehearsed: bool = False,
    ) -> None:
        self._model = model
        self._encoder = encoder
        self._tree = tree
        self._layers = layers
        self._rehearsed = rehearsed
        self._logits: list[torch.Tensor] = []
        self._recording: Recording

    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Run every plan on a batch."""
        if not self._rehearsed:
            self._rehearse(batch)
        path = list(self._tree.first_path())
        for layer, (_, variant) in zip(self._layers, path, strict=True):
            layer.use(variant)
        self._recording = record_forward(self._model, list(self._encoder.layers), batch)
        self._logits = [self._recording.logits]
        # From the deepest layer upwards, so that the states on the first path go as they are done with.
        for level in reversed(range(len(path))):
            _, *others = path[level][0].branches.items()
            self._walk(level, others, self._recording.states.pop())
        del self._recording  # with the masks, and whatever else it holds of this batch
        return torch.stack(self._logits, dim=1)

    def _walk(self, level: int, branches: Iterable[tuple[LayerVariant, PlanNode]], hidden: torch.Tensor) -> None:
        """Run one layer in each of its variants on ``(batch, seq, hidden)``, and all that follows each."""
        for variant, node in branches:
            result = self._pass(level, variant, hidden)
            if node.branches:
                self._walk(level + 1, node.branches.items(), result)
            else:
                self._logits.append(result)
        self._layers[level].forget()

    def _pass(self, level: int, variant: LayerVariant, hidden: torch.Tensor) -> torch.Tensor:
        """Go from what enters a layer to what enters the next one, or to the logits."""
        self._layers[level].use(variant)
        out = self._recording.calls[level].run(self._encoder.layers[level], hidden)
        return self._recording.gaps[level](out)

    def _rehearse(self, batch: dict[str, torch.Tensor]) -> None:
        """Check on two examples the plan that parts from the first one earliest, together and alone.

        Raises:
            SharedWorkError: If that is not the same.
        """
        self._rehearsed = True
        first, last = self._tree.ends[0], self._tree.ends[-1]
        if first is last:
            return
        few = {name: tensor[[0, -1]] for name, tensor in batch.items()}
        pair = plan_tree((first, last), self._tree.depth)
        together = _PlanForward(self._model, self._encoder, pair, self._layers, rehearsed=True)(few)[:, -1]
        for layer, variant in zip(self._layers, layer_variants(last, self._tree.depth), strict=True):
            layer.use(variant)
        alone = logits_of(self._model(**few))
        for layer in self._layers:
            layer.forget()
        if not _equal(alone, together):
            raise SharedWorkError(
                f"{self._encoder.model_type}: plan {str(last)!r} evaluated together with others gives other logits "
                "than alone, since something outside the layers depends on more than their output, or a layer changes "
                "what it is given: evaluate plans of this model one at a time, under bypass"
            )


class _LayerInVariants:
    """One layer of the model, in whichever variant is wanted."""

    def __init__(self, model: nn.Module, replacements: Mapping[LayerVariant, Replacements]) -> None:
        self._model = model
        self._replacements = replacements
        self._current: LayerVariant | None = None
        self._originals: dict[str, nn.Module] = {}
        modules = (module for each in replacements.values() for module in each.values())
        self._memories = {module for module in modules if isinstance(module, _Remembering)}

    def use(self, variant: LayerVariant) -> None:
        """Put the stand-ins of a variant in place."""
        if variant == self._current:
            return
        self._put_back()
        for path, module in self._replacements[variant].items():
            self._originals[path] = self._model.get_submodule(path)
            put(self._model, path, module)
        self._current = variant

    def forget(self) -> None:
        """Let go of what was remembered, since the layer's input is about to change."""
        for memory in self._memories:
            memory.output = None

    def _put_back(self) -> None:
        for path, original in self._originals.items():
            put(self._model, path, original)
        self._originals.clear()
        self._current = None


class _Remembering(nn.Module):
    """In the place of a module: runs it once, and gives the same again until it is told to forget."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.output: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the module returns."""
        if self.output is None:
            self.output = self.module(*args, **kwargs)
        return self.output


def _replacements(model: nn.Module, encoder: Encoder, tree: PlanTree) -> list[dict[LayerVariant, dict[str, nn.Module]]]:
    """Return for each layer and each of its variants the modules to put in place, by path."""
    variants = [tree.variants(level) for level in range(tree.depth)]
    swaps = _stand_ins(model, encoder, variants)
    result = []
    for level, of_layer in enumerate(variants):
        memory = _attention_memory(model, encoder, level, of_layer)
        result.append(
            {
                variant: {
                    swap.path: swap.stand_in
                    for component in variant.skipped
                    for swap in swaps[Site(level, component), variant.norm]
                }
                | (memory if variant.attends else {})
                for variant in of_layer
            }
        )
    return result


def _stand_ins(
    model: nn.Module, encoder: Encoder, variants: list[set[LayerVariant]]
) -> dict[tuple[Site, NormRule], list[Swap]]:
    """Make the stand-ins of all sites, with one probing forward for each component and norm rule."""
    kinds: dict[tuple[Component, NormRule], list[Site]] = {}
    for level, of_layer in enumerate(variants):
        for component, norm in sorted({(c, variant.norm) for variant in of_layer for c in variant.skipped}):
            kinds.setdefault((component, norm), []).append(Site(level, component))
    found: dict[tuple[Site, NormRule], list[Swap]] = {}
    for (component, norm), sites in kinds.items():
        for swap in swaps_for(model, PruningPlan(tuple(sites), norm)):
            level = int(swap.path.removeprefix(f"{encoder.path}.").split(".")[0])
            found.setdefault((Site(level, component), norm), []).append(swap)
    return found


def _attention_memory(
    model: nn.Module, encoder: Encoder, level: int, variants: set[LayerVariant]
) -> dict[str, nn.Module]:
    """Where variants of a layer have the attention in common, make it remember."""
    if sum(variant.attends for variant in variants) < 2:
        return {}
    path = f"{encoder.path}.{level}.{encoder.parts('attention', 'keep')[0].path}"
    return {path: _Remembering(model.get_submodule(path))}


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Compare logits at the tolerance of their precision, for devices whose sums vary from call to call."""
    try:
        torch.testing.assert_close(one, other, equal_nan=True)
    except AssertionError:
        return False
    return True
