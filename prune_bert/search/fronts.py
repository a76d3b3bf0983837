"""The Pareto front of accuracy against latency."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol, TypeVar


class Point(Protocol):
    """Anything with an accuracy, higher being better, and a latency, lower being better."""

    @property
    def accuracy(self) -> float:
        """The headline metric."""

    @property
    def latency_ms(self) -> float:
        """The latency in milliseconds."""


AnyPoint = TypeVar("AnyPoint", bound=Point)


def pareto_front(points: Iterable[AnyPoint]) -> tuple[AnyPoint, ...]:
    """Return the points that no other beats: none is both as accurate and as fast, and better in one of the two.

    Every point left out is beaten by one on the front, equals one on it in both (of equals the first given stays),
    or is not a number in one of the two.

    Returns:
        The front, fastest first, so with both latency and accuracy rising.
    """
    known = [point for point in points if not (math.isnan(point.accuracy) or math.isnan(point.latency_ms))]
    front: list[AnyPoint] = []
    for point in sorted(known, key=lambda point: (point.latency_ms, -point.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return tuple(front)
