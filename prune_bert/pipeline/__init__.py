"""The verbs from end to end: the only module that knows all the others."""

from prune_bert.pipeline.benchmarking import run_benchmark
from prune_bert.pipeline.evaluating import run_evaluate
from prune_bert.pipeline.pruning import prune, run_prune
from prune_bert.pipeline.rendering import run_report
from prune_bert.pipeline.scoring import run_score
from prune_bert.pipeline.searching import run_search
from prune_bert.pipeline.training import run_train

__all__ = ["prune", "run_benchmark", "run_evaluate", "run_prune", "run_report", "run_score", "run_search", "run_train"]
