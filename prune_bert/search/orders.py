"""The orders in which layers go by their position alone.

Sajjad, Dalvi, Durrani and Nakov: "On the Effect of Dropping Layers of Pre-trained Transformer Models", Computer Speech
& Language 77 (2023), first as "Poor Man's BERT" (arXiv 2004.03844, 2020), section 3. Each function gives every
layer of a model, counted from 0, the first to go first; dropping k layers drops the first k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from prune_bert.search.names import unknown_name
from prune_bert.search.objective import SearchError


def top(depth: int) -> tuple[int, ...]:
    """Drop from the top: of 12 layers 11, 10, 9 ..."""
    return tuple(reversed(range(depth)))


def bottom(depth: int) -> tuple[int, ...]:
    """Drop from the bottom: 0, 1, 2 ..."""
    return tuple(range(depth))


def alternate_odd(depth: int) -> tuple[int, ...]:
    """Drop every other layer from the top, the odd ones of the paper, which counts from 1: of 12 layers 10, 8, 6 ...

    The paper ends at half of the layers; here the others follow, from the top.
    """
    return top(depth)[(depth + 1) % 2 :: 2] + top(depth)[depth % 2 :: 2]


def alternate_even(depth: int) -> tuple[int, ...]:
    """Drop every other layer from the top, the even ones of the paper, which counts from 1: of 12 layers 11, 9, 7 ...

    The paper ends at half of the layers; here the others follow, from the top.
    """
    return top(depth)[depth % 2 :: 2] + top(depth)[(depth + 1) % 2 :: 2]


def symmetric(depth: int) -> tuple[int, ...]:
    """Drop from the middle outwards and keep both ends: of 12 layers 6, 5, 7, 4 ..."""
    middle = (depth - 1) / 2
    return tuple(sorted(range(depth), key=lambda layer: (abs(layer - middle), -layer)))


POSITIONAL_ORDERS: Mapping[str, Callable[[int], tuple[int, ...]]] = MappingProxyType(
    {
        "top": top,
        "bottom": bottom,
        "alternate": alternate_odd,  # of the two the one that keeps the last layer, on which the head was trained
        "alternate_odd": alternate_odd,
        "alternate_even": alternate_even,
        "symmetric": symmetric,
    }
)
"""By name; plain `alternate` is `alternate_odd`."""


def removal_order(name: str, depth: int) -> tuple[int, ...]:
    """Return the layers of a model in the order in which they go.

    Raises:
        SearchError: There is no such order, or no layer.
    """
    if name not in POSITIONAL_ORDERS:
        raise SearchError(unknown_name("order", name, POSITIONAL_ORDERS))
    if depth < 1:
        raise SearchError(f"a model of {depth} layers has none to drop")
    return POSITIONAL_ORDERS[name](depth)
