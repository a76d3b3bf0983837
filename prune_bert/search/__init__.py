"""Search: from scores or an objective to plans, budgets and the front. Pure Python: nothing here knows a model."""

from prune_bert.search.budgets import Budget, Candidate, UnmetBudgetError, choose
from prune_bert.search.exhausting import EXHAUSTIVE_LIMIT, ExhaustiveCost, exhaustive, exhaustive_cost
from prune_bert.search.fronts import pareto_front
from prune_bert.search.journal import Journal, journaled, journaled_losses
from prune_bert.search.latency import LatencyTable
from prune_bert.search.objective import Evaluated, Objective, OnProgress, SearchError, SearchProgress
from prune_bert.search.orders import POSITIONAL_ORDERS, removal_order
from prune_bert.search.racing import Cut, LossesOfBatch, RaceResult, Racing, calibration_batches, race
from prune_bert.search.results import SearchResult
from prune_bert.search.sites import Allowed, layer_sites, layers_left, next_plans, sites_of, sublayer_sites
from prune_bert.search.strategies import STRATEGIES, beam, greedy, one_shot, search_plans, sublayer

__all__ = [
    "EXHAUSTIVE_LIMIT",
    "POSITIONAL_ORDERS",
    "STRATEGIES",
    "Allowed",
    "Budget",
    "Candidate",
    "Cut",
    "Evaluated",
    "ExhaustiveCost",
    "Journal",
    "LatencyTable",
    "LossesOfBatch",
    "Objective",
    "OnProgress",
    "RaceResult",
    "Racing",
    "SearchError",
    "SearchProgress",
    "SearchResult",
    "UnmetBudgetError",
    "beam",
    "calibration_batches",
    "choose",
    "exhaustive",
    "exhaustive_cost",
    "greedy",
    "journaled",
    "journaled_losses",
    "layer_sites",
    "layers_left",
    "next_plans",
    "one_shot",
    "pareto_front",
    "race",
    "removal_order",
    "search_plans",
    "sites_of",
    "sublayer",
    "sublayer_sites",
]
