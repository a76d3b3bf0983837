"""The verbs from end to end: the only module that knows all the others."""

from prune_bert.pipeline.benchmarking import run_benchmark
from prune_bert.pipeline.evaluating import run_evaluate
from prune_bert.pipeline.pruning import prune, run_prune
from prune_bert.pipeline.recovering import prune_and_recover, run_recover
from prune_bert.pipeline.rendering import run_report
from prune_bert.pipeline.scoring import run_score
from prune_bert.pipeline.searching import run_search
from prune_bert.pipeline.training import run_train

__all__ = [
    "prune",
    "prune_and_recover",
    "run_benchmark",
    "run_evaluate",
    "run_prune",
    "run_recover",
    "run_report",
    "run_score",
    "run_search",
    "run_train",
]
