"""Which validation of a run was the best, and when to stop because no better one comes."""

from __future__ import annotations

from collections.abc import Sequence

Validations = Sequence[tuple[int, float]]  # (step, score), in order; more is better


def best_of(validations: Validations) -> tuple[int, float] | None:
    """Return the step and score of the best validation, the earliest of equals; a score of nan is never best."""
    best = None
    for step, score in validations:
        if score == score and (best is None or score > best[1]):
            best = step, score
    return best


def since_best(validations: Validations) -> int:
    """Count the validations after the best one; all of them where none was a number."""
    best = best_of(validations)
    return sum(1 for step, _ in validations if best is None or step > best[0])


def is_new_best(validations: Validations) -> bool:
    """Return whether the newest validation is better than all before it."""
    best = best_of(validations)
    return best is not None and best[0] == validations[-1][0]


def should_stop(validations: Validations, patience: int | None) -> bool:
    """Return whether as many validations in a row as ``patience`` says have brought nothing better."""
    return patience is not None and since_best(validations) >= patience
