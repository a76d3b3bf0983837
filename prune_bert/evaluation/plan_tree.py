"""Plans as a tree: what each does to the layers, in forward order, with what they have in common told once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from prune_bert.plan import Component, NormRule, PlanError, PruningPlan


@dataclass(frozen=True, order=True)
class LayerVariant:
    """What is left out of one layer.

    Attributes:
        skipped: The components left out; none for the layer as it is.
        norm: The norm rule of skipped sublayers; ``"keep"`` where it makes no difference.
    """

    skipped: tuple[Component, ...] = ()
    norm: NormRule = "keep"

    @property
    def runs(self) -> bool:
        """Whether anything of the layer remains to be computed."""
        return self.skipped != ("layer",)

    @property
    def attends(self) -> bool:
        """Whether the layer's attention is computed."""
        return self.runs and "attention" not in self.skipped


@dataclass(frozen=True)
class PlanNode:
    """A prefix that plans share; one without branches is the end of a plan.

    Attributes:
        branches: For each variant of the next layer, what follows it.
    """

    branches: dict[LayerVariant, PlanNode] = field(default_factory=dict)


@dataclass(frozen=True)
class PlanTree:
    """A list of plans as a tree, whose ends are in the order of a depth-first walk.

    Attributes:
        root: The prefix of no layers.
        depth: The number of layers.
        ends: One plan for each end.
        end_of: For each plan of the list the index of its end; plans that do the same share one.
    """

    root: PlanNode
    depth: int
    ends: tuple[PruningPlan, ...]
    end_of: tuple[int, ...]

    def variants(self, level: int) -> set[LayerVariant]:
        """Return the variants of one layer that occur anywhere in the tree."""
        nodes = [self.root]
        for _ in range(level):
            nodes = [child for node in nodes for child in node.branches.values()]
        return {variant for node in nodes for variant in node.branches}

    def first_path(self) -> Iterator[tuple[PlanNode, LayerVariant]]:
        """Go down to the first end: each node, and the branch taken there."""
        node = self.root
        while node.branches:
            variant = next(iter(node.branches))
            yield node, variant
            node = node.branches[variant]


def layer_variants(plan: PruningPlan, depth: int) -> tuple[LayerVariant, ...]:
    """Say what a plan does to each of a model's layers.

    Raises:
        PlanError: If it names a layer that the model does not have.
    """
    skipped: list[tuple[Component, ...]] = [()] * depth
    for site in plan:
        if site.layer >= depth:
            raise PlanError(f"{site}: the model has {depth} layers, numbered 0 to {depth - 1}")
        skipped[site.layer] += (site.component,)
    return tuple(LayerVariant(left_out, plan.norm if _is_partial(left_out) else "keep") for left_out in skipped)


def plan_tree(plans: Sequence[PruningPlan], depth: int) -> PlanTree:
    """Arrange plans as a tree; duplicates, and plans that do the same, meet in one end.

    Raises:
        PlanError: If a plan names a layer that the model does not have.
    """
    paths = [layer_variants(plan, depth) for plan in plans]
    plan_of = dict(zip(paths, plans, strict=True))
    order = {path: end for end, path in enumerate(sorted(plan_of))}
    root = PlanNode()
    for path in order:
        node = root
        for variant in path:
            node = node.branches.setdefault(variant, PlanNode())
    ends = tuple(plan_of[path] for path in order)
    return PlanTree(root, depth, ends, tuple(order[path] for path in paths))


def count_layer_passes(plans: Sequence[PruningPlan | str], depth: int) -> tuple[int, int]:
    """Count the layers to compute for each batch, before starting.

    A layer that lacks a sublayer counts as a whole one, and what ``evaluate_plans`` shares inside a layer does not
    count. Of ``n`` layers, all ``2**n`` subsets take ``2**n - 1`` passes together, and ``n * 2**(n - 1)`` one by one.

    Args:
        plans: The plans, or their texts.
        depth: The model's number of layers.

    Returns:
        The passes of ``evaluate_plans``, and those of evaluating every plan alone.

    Raises:
        PlanError: If a plan names a layer that the model does not have.
    """
    paths = [layer_variants(plan, depth) for plan in PruningPlan.many(plans)]
    prefixes = {path[: level + 1] for path in paths for level in range(depth) if path[level].runs}
    return len(prefixes), sum(variant.runs for path in paths for variant in path)


def _is_partial(skipped: tuple[Component, ...]) -> bool:
    return bool(skipped) and skipped != ("layer",)
