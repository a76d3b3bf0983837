"""Importance: what each layer and sublayer of a model is worth, by the scorers of the literature."""

from prune_bert.importance.blocks import BlockScores, score_blocks
from prune_bert.importance.calibration import ImportanceError
from prune_bert.importance.scorers import SCORERS, Scorer
from prune_bert.importance.scores import Score, SiteScores
from prune_bert.importance.scoring import score_sites

__all__ = [
    "SCORERS",
    "BlockScores",
    "ImportanceError",
    "Score",
    "Scorer",
    "SiteScores",
    "score_blocks",
    "score_sites",
]
