"""The settings of a latency grid, and the few that stand for all where there is little room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from prune_bert.profiling import LatencyPoint
from prune_bert.report.records import Row

Setting: TypeAlias = tuple[int, int]
"""Batch size and sequence length."""

MOST_SHOWN = 3


def setting_of(point: LatencyPoint) -> Setting:
    """Return the setting of a timing."""
    return point.batch_size, point.sequence_length


def main_points(points: Sequence[LatencyPoint]) -> list[LatencyPoint]:
    """Return all points where there are up to three, otherwise the smallest and the largest setting's."""
    ordered = sorted(points, key=setting_of)
    return ordered if len(ordered) <= MOST_SHOWN else [ordered[0], ordered[-1]]


def main_settings(rows: Sequence[Row]) -> list[Setting]:
    """Return the settings that stand for all those that any row was timed at."""
    points = {setting_of(point): point for row in rows for point in row.latency}
    return [setting_of(point) for point in main_points(list(points.values()))]


def point_at(row: Row, setting: Setting) -> LatencyPoint | None:
    """Return a row's timing at a setting, or None where it was not timed there."""
    return next((point for point in row.latency if setting_of(point) == setting), None)
