"""Latency of a full, a bypassed, a dropped and a native model in turns: what surgery costs, and what it gains."""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from prune_bert import PruningPlan, bypass, drop, profile_model

LENGTH = 128


def run(rounds: int = 10, layers: int = 12, hidden_size: int = 768) -> dict[str, Any]:
    """Time BERT-base's shape with random weights, six of twelve layers removed."""
    torch.manual_seed(0)
    shape = {"hidden_size": hidden_size, "num_attention_heads": hidden_size // 64, "intermediate_size": 4 * hidden_size}
    full = BertForSequenceClassification(BertConfig(num_hidden_layers=layers, **shape)).eval()
    plan = PruningPlan.parse(f"layer:{layers // 2}-{layers - 1}")
    dropped = drop(copy.deepcopy(full), plan)
    native = BertForSequenceClassification(BertConfig(num_hidden_layers=layers // 2, **shape)).eval()
    native.load_state_dict(dropped.state_dict())
    context = bypass(full, plan)
    variants = {"full": full, "bypassed": lambda: context, "dropped": dropped, "native": native}
    results: dict[str, Any] = {"plan": str(plan), "length": LENGTH, "rounds": rounds, "settings": []}
    for batch_size in (1, 32):
        points = profile_model(
            variants, batch_sizes=[batch_size], sequence_lengths=[LENGTH], rounds=rounds, progress=True
        )
        samples = {point.variant: np.array(point.samples_ms) for point in points}
        results["settings"].append(
            {
                "batch_size": batch_size,
                "p50_ms": {point.variant: point.p50_ms for point in points},
                "bypassed_over_dropped": _ratio(samples["bypassed"], samples["dropped"]),
                "dropped_over_native": _ratio(samples["dropped"], samples["native"]),
                "speedup": _ratio(samples["full"], samples["dropped"]),
                "layers_ratio": 2.0,
                "points": [asdict(point) for point in points],
            }
        )
    return results


def _ratio(above: np.ndarray, below: np.ndarray) -> dict[str, float]:
    """Return the median of the rounds' own ratios with a 95 % bootstrap interval: rounds are what is interleaved."""
    ratios = above / below
    draws = np.random.default_rng(0).choice(ratios, size=(2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}
