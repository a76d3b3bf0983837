"""Corrections that know what they were fitted for, and the check that a model and a plan are that."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from torch import nn

from prune_bert.corrections import FittedSite
from prune_bert.plan import PruningPlan, Site


class FittedCorrections(Mapping[Site, FittedSite]):
    """The corrections of a whole plan, which belong to one model and to that plan."""

    @abstractmethod
    def check_fits(self, model: nn.Module, plan: PruningPlan | str | None = None) -> None:
        """Refuse a model, or a plan, that they were not fitted for.

        Raises:
            UserError: They do not belong together.
        """


def check_corrections(model: nn.Module, plan: PruningPlan, corrections: Mapping[Site, FittedSite] | None) -> None:
    """Refuse corrections that know better; a plain mapping of sites is the caller's own affair.

    Raises:
        UserError: The corrections were fitted for another model or plan.
    """
    if isinstance(corrections, FittedCorrections):
        corrections.check_fits(model, plan)
