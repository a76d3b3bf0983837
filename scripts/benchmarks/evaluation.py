"""Evaluation throughput: against a loop padded to 128 tokens, and against the machine's own matrix-multiply rate."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from prune_bert import evaluate, load_model, load_task
from prune_bert.evaluation import encode, length_sorted_batches

BATCH_SIZE = 32


def run(rounds: int = 5, model_name: str = "embedded", task_name: str = "reviews", data_dir: str | None = None) -> dict:
    """Evaluate in turns with the padded loop and with the bare matrix products of the same batches."""
    loaded = load_model(model_name)
    model, tokenizer = loaded.model, loaded.tokenizer
    data = load_task(task_name, data_dir=data_dir)["validation"]
    accelerator = Accelerator(cpu=True)
    encoded = encode(tokenizer, data, 128)
    shapes = [(len(batch), int(encoded.lengths[batch].max())) for batch in length_sorted_batches(encoded, BATCH_SIZE)]
    seconds: dict[str, list[float]] = {"sorted": [], "matrix_products": [], "padded": []}
    predictions: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        score = evaluate(model, encoded, accelerator=accelerator, batch_size=BATCH_SIZE, n_resamples=20)
        seconds["sorted"].append(score.seconds)
        seconds["matrix_products"].append(_matrix_products(model.config, shapes))
    for _ in range(max(1, rounds // 2)):
        start = time.perf_counter()
        predictions["padded"] = _padded_loop(model, tokenizer, data)
        seconds["padded"].append(time.perf_counter() - start)
        score = evaluate(model, encoded, accelerator=accelerator, batch_size=BATCH_SIZE, n_resamples=20)
        seconds["sorted"].append(score.seconds)
    # The fastest round of each: whatever else runs on the machine only ever adds time.
    best = {name: min(values) for name, values in seconds.items()}
    linear, attention = _operations(model.config, shapes)
    rate = linear / best["matrix_products"]
    return {
        "model": model_name,
        "task": task_name,
        "n": score.n,
        "fastest_seconds": best,
        "seconds": seconds,
        "same_predictions": bool(np.array_equal(predictions["padded"], score.predictions)),
        "speedup_over_padded": best["padded"] / best["sorted"],
        "matrix_multiply_gflops": rate / 1e9,
        "share_of_matrix_multiply_rate": (linear + attention) / best["sorted"] / rate,
    }


@torch.inference_mode()
def _padded_loop(model: Any, tokenizer: Any, data: Any) -> np.ndarray:
    """Do what run_glue does with pad_to_max_length, in batches of eight."""
    found = []
    columns = [data.dataset[name][:] for name in data.spec.text_columns]
    for start in range(0, len(data.dataset), 8):
        texts = [column[start : start + 8] for column in columns]
        inputs = tokenizer(*texts, padding="max_length", max_length=128, truncation=True, return_tensors="pt")
        found.append(model(**inputs).logits.argmax(-1))
    return torch.cat(found).numpy()


@torch.inference_mode()
def _matrix_products(config: Any, shapes: list[tuple[int, int]]) -> float:
    """Time the encoder's linear layers alone, at the shapes of these batches, in seconds."""
    hidden, wide = config.hidden_size, config.intermediate_size
    weights = [torch.randn(hidden, hidden)] * 4 + [torch.randn(wide, hidden), torch.randn(hidden, wide)]
    inputs = {width: torch.randn(max(b * s for b, s in shapes), width) for width in (hidden, wide)}
    start = time.perf_counter()
    for batch, length in shapes:
        for _ in range(config.num_hidden_layers):
            for weight in weights:
                F.linear(inputs[weight.shape[1]][: batch * length], weight)
    return time.perf_counter() - start


def _operations(config: Any, shapes: list[tuple[int, int]]) -> tuple[int, int]:
    """Count the operations of the linear layers and of the attention products, a multiply and an add as two."""
    hidden, wide, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    linear = sum(2 * b * s * (4 * hidden * hidden + 2 * hidden * wide) for b, s in shapes)
    attention = sum(4 * b * s * s * hidden for b, s in shapes)
    return layers * linear, layers * attention
