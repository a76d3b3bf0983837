"""Ridge and reduced-rank regression from sums, with strength and rank by cross-validation.

Ridge: Hoerl and Kennard 1970. Reduced rank: Izenman 1975, "Reduced-rank regression for the multivariate linear model",
section 2: the best map of rank r projects the fitted values on their r leading principal directions. Inputs beyond the
width of the hidden states (kept neurons) have a map of full rank; they are partialled out of the others first
(Velu and Reinsel 1998, "Multivariate Reduced-Rank Regression", chapter 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from prune_bert.compensation.moments import Moments

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_JITTER = 1e-10  # of the largest mean square: inputs that depend on each other share a weight


@dataclass(frozen=True, eq=False)
class LinearFit:
    """A fitted map ``y = up @ down @ x + beside @ h + bias``.

    Attributes:
        down: ``(rank, hidden)``.
        up: ``(hidden, rank)``.
        beside: ``(hidden, further inputs)``.
        bias: ``(hidden,)``.
    """

    down: torch.Tensor
    up: torch.Tensor
    beside: torch.Tensor
    bias: torch.Tensor

    @property
    def matrix(self) -> torch.Tensor:
        """The low-rank map as one matrix, ``(hidden, hidden)``."""
        return self.up @ self.down


@dataclass(frozen=True)
class Choice:
    """What cross-validation chose.

    Attributes:
        rank: The rank.
        ridge: The strength of the ridge, times the mean square of a centred input channel.
        error: The squared error on the parts left out, as a share of what the mean alone leaves there.
    """

    rank: int
    ridge: float
    error: float


def solve(moments: Moments, rank: int, ridge: float, metric: torch.Tensor) -> LinearFit:
    """Fit a map of at most a rank to the summed tokens.

    Args:
        moments: The sums.
        rank: At most the width of the hidden states.
        ridge: The strength of the ridge; 0 is safe for inputs that depend on each other, too.
        metric: ``(hidden,)`` weights of an error in each channel, above 0.
    """
    solved = _Solved(moments, ridge, metric)
    basis = solved.basis[:, :rank]
    down, up = (solved.weights * metric @ basis).T, basis / metric.unsqueeze(1)
    balance = (up.norm(dim=0) / down.norm(dim=1).clamp_min(1e-30)).sqrt().clamp(1e-6, 1e6)
    down, up = down * balance.unsqueeze(1), up / balance
    whole = solved.start + solved.spread @ (up @ down).T
    return LinearFit(down, up, whole[len(metric) :].T, moments.mean_target - moments.mean_input @ whole)


def cross_validate(
    folds: Sequence[Moments], ranks: Sequence[int], ridges: Sequence[float], metric: torch.Tensor
) -> Choice:
    """Choose rank and ridge by the error on each fold of a fit to the others.

    The error falls and then rises with the strength of the ridge, so the search begins in the middle and goes on as
    long as it falls: each strength costs an eigendecomposition a fold.

    Args:
        folds: The sums of each fold; every one holds tokens.
        ranks: The ranks to choose from, each above 0.
        ridges: The strengths to choose from.
        metric: ``(hidden,)`` weights of an error in each channel.
    """
    total, ranks, ridges = summed(folds), sorted(set(ranks)), sorted(set(ridges))
    rests = [total - fold for fold in folds]
    columns = torch.tensor(ranks, device=metric.device) - 1
    known: dict[int, torch.Tensor] = {}

    def errors(place: int) -> torch.Tensor:
        if place not in known:
            solved = [_Solved(rest, ridges[place], metric).errors_by_rank(fold) for rest, fold in _pairs(rests, folds)]
            known[place] = torch.stack(solved).sum(0)[columns]
        return known[place]

    best = len(ridges) // 2
    for step in (1, -1):
        while 0 <= best + step < len(ridges) and errors(best + step).min() < errors(best).min():
            best += step
    column = int(errors(best).argmin())
    baseline = sum(_about(fold, rest.mean_target, metric) for rest, fold in _pairs(rests, folds))
    error = float(errors(best)[column] / baseline) if baseline > 0 else 0.0
    return Choice(ranks[column], ridges[best], error)


def _pairs(rests: Sequence[Moments], folds: Sequence[Moments]) -> list[tuple[Moments, Moments]]:
    return list(zip(rests, folds, strict=True))


def summed(folds: Sequence[Moments]) -> Moments:
    """Add up the sums of all folds."""
    total = folds[0]
    for fold in folds[1:]:
        total = total + fold
    return total


class _Solved:
    """A ridge regression, and the principal directions of what the hidden states explain in it.

    The weights of all inputs are ``start + spread @ w``, where ``w``, ``(hidden, hidden)``, are those of the hidden
    states: of any rank, as the further inputs make the best of it.
    """

    def __init__(self, moments: Moments, ridge: float, metric: torch.Tensor) -> None:
        width = len(metric)
        gram, cross, _ = moments.centred()
        further = gram[width:, width:]
        own, mixed = gram[:width, :width], gram[width:, :width]
        spread = torch.cat((torch.eye(width, dtype=gram.dtype, device=gram.device), torch.zeros_like(mixed)))
        start = torch.zeros_like(cross)
        if len(further):
            by_neuron = torch.diag(ridge * further.diagonal() + _JITTER * further.diagonal().max())
            both = torch.linalg.solve(further + by_neuron, torch.cat((mixed, cross[width:]), dim=1))
            spread[width:], start[width:] = -both[:, :width], both[:, width:]
        average = own.diagonal().mean()
        damped = spread.T @ gram[:, :width] + (ridge + _JITTER) * average * torch.eye(width, device=gram.device)
        wanted = spread.T @ cross
        factor = torch.linalg.cholesky(damped + torch.finfo(torch.float64).tiny * torch.eye(width, device=gram.device))
        half = torch.linalg.solve_triangular(factor, wanted * metric, upper=False)
        self._moments, self._metric = moments, metric
        self.start, self.spread = start, spread
        self.weights = torch.cholesky_solve(wanted, factor)  # (hidden, hidden)
        self.basis = torch.linalg.eigh(half.T @ half)[1].flip(1)  # (hidden, hidden), the leading direction first

    def errors_by_rank(self, held_out: Moments) -> torch.Tensor:
        """Return the squared error on other tokens of the fit of each rank from 1, ``(hidden,)``."""
        x, y = self._moments.mean_input, self._moments.mean_target
        weight, sum_x, sum_y = held_out.gram[-1, -1], held_out.gram[-1, :-1], held_out.cross[-1]
        gram = held_out.gram[:-1, :-1] - torch.outer(sum_x, x) - torch.outer(x, sum_x) + weight * torch.outer(x, x)
        cross = held_out.cross[:-1] - torch.outer(sum_x, y) - torch.outer(x, sum_y) + weight * torch.outer(x, y)
        begun = self.start * self._metric
        without = (2 * begun * cross * self._metric).sum() - (begun * (gram @ begun)).sum()
        left = cross * self._metric - gram @ begun
        fitted = self.spread @ (self.weights * self._metric @ self.basis)  # (inputs, hidden), by direction
        gain = 2 * (fitted * (left @ self.basis)).sum(0) - (fitted * (gram @ fitted)).sum(0)
        errors: torch.Tensor = _about(held_out, y, self._metric) - without - gain.cumsum(0)
        return errors


def _about(held_out: Moments, centre: torch.Tensor, metric: torch.Tensor) -> torch.Tensor:
    """Return the squared error on some tokens of one value a channel, ``()``."""
    spread = held_out.square - 2 * centre * held_out.cross[-1] + held_out.gram[-1, -1] * centre * centre
    weighted: torch.Tensor = metric * metric * spread
    return weighted.sum()
