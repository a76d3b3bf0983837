"""How much faster plans are evaluated together than one at a time; every ratio with its predictions compared.

The three ways of one measurement take turns on slices of the data, so that a busy machine slows all of them.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
)

from prune_bert.evaluation import (
    EncodedTask,
    TaskScore,
    count_layer_passes,
    encode,
    evaluate,
    evaluate_plans,
    length_sorted_batches,
)
from prune_bert.plan import PruningPlan, Site
from prune_bert.surgery import bypass
from prune_bert.tasks import TaskData, load_task

NARROW = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 256}
BASE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
PADDED_LENGTH, PADDED_BATCH = 128, 8
Json = dict[str, Any]


def run(
    *,
    model_path: str | None = None,
    data_dir: str | None = None,
    max_sentences: int | None = None,
    slices: int = 4,
    seed: int = 0,
    show: Callable[[str], None] = print,
) -> Json:
    """Measure all of them; the one for a GPU only where there is one.

    Args:
        model_path: A fine-tuned classifier of SST-2's form; by default a narrow BERT of 6 layers with random weights.
        data_dir: The folder of GLUE, for SST-2's dev set; by default the embedded reviews.
        max_sentences: How many sentences of it for the subsets of the model; by default all.
        slices: Into how many parts the data are cut, for the ways to take turns on.
        seed: Seed of the random weights and plans.
        show: Told each result as it comes.

    Returns:
        JSON-able results by name.
    """
    data = load_task("sst2", data_dir=data_dir)["validation"] if data_dir else load_task("reviews")["validation"]
    tokenizer = AutoTokenizer.from_pretrained(model_path) if model_path else _tokenizer_of_words(data)
    if model_path:
        model: nn.Module = AutoModelForSequenceClassification.from_pretrained(model_path, dtype=torch.float32).eval()
    else:
        model = _random_bert(6, NARROW, tokenizer, seed)
    deep = _random_bert(12, NARROW, tokenizer, seed)
    few = _evenly(data, 128)
    measurements: dict[str, Callable[[], Json]] = {
        "all_subsets": lambda: all_subsets(model, tokenizer, _evenly(data, max_sentences), slices, seed),
        "twelve_layers": lambda: twelve_layers(deep, tokenizer, _evenly(data, 256), slices, seed),
        "sublayer_greedy": lambda: sublayer_greedy(deep, encode(tokenizer, few)),
        "sublayer_greedy_of_the_model": lambda: sublayer_greedy(model, encode(tokenizer, few)),
    }
    if torch.cuda.is_available():
        measurements["on_a_gpu"] = lambda: on_a_gpu(tokenizer, data, seed)
    results: Json = {"data": data.source, "model": model_path or "random weights", "narrow": NARROW}
    for name, measure in measurements.items():
        results[name] = measure()
        show(f"{name}: { {key: value for key, value in results[name].items() if key != 'rounds'} }")
    return results


def all_subsets(model: nn.Module, tokenizer: PreTrainedTokenizerBase, data: TaskData, slices: int, seed: int) -> Json:
    """Evaluate all layer subsets: together, one at a time, and in a plain loop padded to 128 in batches of 8.

    The plain loop runs two complementary plans on each slice, together as many layers as two plans have on average,
    and its time is extrapolated to all plans.
    """
    depth = int(model.config.num_hidden_layers)
    plans = _subsets(depth)
    chosen = random.Random(seed).sample(range(len(plans)), slices)
    rounds = []
    for part, plan in zip(_parts(data, slices), chosen, strict=True):
        encoded = encode(tokenizer, part)
        pair = (plan, len(plans) - 1 - plan)
        together, scores = _together(model, plans, encoded)
        alone, apart = _one_by_one(model, plans, encoded)
        padded, logits = _padded(model, [plans[i] for i in pair], encoded)
        agreement = np.mean([scores[i].predictions == each.argmax(-1) for i, each in zip(pair, logits, strict=True)])
        found = {"logits_equal": _equal(scores, apart), "padded_agreement": float(agreement)}
        rounds.append(together | alone | _scaled(padded, len(plans) / len(pair)) | found)
    passes = count_layer_passes(plans, depth)
    return _summary(len(plans), passes, data, rounds) | {"padded_is": "extrapolated from 2 plans on each slice"}


def twelve_layers(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, data: TaskData, slices: int, seed: int, samples: int = 64
) -> Json:
    """Evaluate all subsets of 12 layers together; one at a time a sample, half of it the others' complements."""
    depth = int(model.config.num_hidden_layers)
    plans = _subsets(depth)
    half = random.Random(seed).sample(range(len(plans) // 2), samples // 2)
    sample = [j for i in half for j in (i, len(plans) - 1 - i)]
    rounds = []
    for part in _parts(data, slices):
        encoded = encode(tokenizer, part)
        together, scores = _together(model, plans, encoded)
        alone, apart = _one_by_one(model, [plans[i] for i in sample], encoded)
        found = {"logits_equal": _equal([scores[i] for i in sample], apart)}
        rounds.append(together | _scaled(alone, len(plans) / samples) | found)
    passes = count_layer_passes(plans, depth)
    extrapolated = {"one_by_one_is": f"extrapolated from {samples} random plans"}
    return _summary(len(plans), passes, data, rounds) | extrapolated


def sublayer_greedy(model: nn.Module, encoded: EncodedTask) -> Json:
    """Remove the sublayer that costs the least loss, until half are gone; each step is done in both ways."""
    depth = int(model.config.num_hidden_layers)
    everywhere = [Site(layer, component) for layer in range(depth) for component in ("attention", "ffn")]
    plan = PruningPlan()
    rounds, evaluated, passes = [], 0, np.zeros(2, int)
    while len(plan) < depth:
        plans = [PruningPlan((*plan.sites, site)) for site in everywhere if site not in plan]
        together, scores = _together(model, plans, encoded)
        alone, apart = _one_by_one(model, plans, encoded)
        rounds.append(together | alone | {"logits_equal": _equal(scores, apart)})
        evaluated += len(plans)
        passes += count_layer_passes(plans, depth)
        plan = min(zip(scores, plans, strict=True), key=lambda pair: pair[0].loss)[1]
    return _summary(evaluated, tuple(passes.tolist()), encoded.data, rounds) | {"removed": str(plan)}


def on_a_gpu(
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    seed: int,
    *,
    device: str = "cuda",
    depth: int = 12,
    sizes: dict[str, int] = BASE,
    matrix: int = 8192,
    batch_size: int = 436,
) -> Json:
    """Evaluate all layer subsets of a BERT-base with random weights in bf16, and compare with the device's own rate."""
    model = _random_bert(depth, sizes, tokenizer, seed).to(device, torch.bfloat16)
    encoded = encode(tokenizer, data)
    plans = _subsets(depth)
    evaluate_plans(model, plans[:2], encoded, batch_size=batch_size)  # warms up
    seconds, _ = _timed("together", lambda: evaluate_plans(model, plans, encoded, batch_size=batch_size))
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    shapes = [encoded.batch(rows)["input_ids"].shape for rows in length_sorted_batches(encoded, batch_size)]
    # two operations for each weight and token, and for each pair of tokens once to weigh it and once to add it up
    of_pass = sum(n * length * (8 * width**2 + 4 * width * inner + 4 * length * width) for n, length in shapes)
    flops = count_layer_passes(plans, depth)[0] * of_pass / seconds["together_s"]
    rate = _matmul_rate(device, matrix)
    counts = {"plans": len(plans), "sentences": len(encoded), "batch_size": batch_size}
    return counts | seconds | {"flops": flops, "matmul_flops": rate, "share_of_matmul_rate": flops / rate}


def _matmul_rate(device: str, size: int, times: int = 20) -> float:
    """Measure the operations a second of a product of square matrices in bf16."""
    one = torch.randn(size, size, device=device, dtype=torch.bfloat16)

    def multiply() -> None:
        for _ in range(times):
            torch.mm(one, one)
        one[0, 0].item()  # waits for the device

    multiply()
    seconds, _ = _timed("matmul", multiply)
    return 2 * size**3 * times / float(seconds["matmul_s"])


def _together(model: nn.Module, plans: Sequence[PruningPlan], encoded: EncodedTask) -> tuple[Json, list[TaskScore]]:
    """Time `evaluate_plans`, all that it does."""
    return _timed("together", lambda: evaluate_plans(model, plans, encoded, accelerator=Accelerator()))


def _one_by_one(model: nn.Module, plans: Sequence[PruningPlan], encoded: EncodedTask) -> tuple[Json, list[TaskScore]]:
    """Time the same evaluator plan by plan; what a bypass takes to be made is left out."""
    accelerator = Accelerator()
    bypasses = [bypass(model, plan) for plan in plans]

    def loop() -> list[TaskScore]:
        scores = []
        for each in bypasses:
            with each:
                scores.append(evaluate(model, encoded, accelerator=accelerator, n_resamples=0))
        return scores

    return _timed("one_by_one", loop)


def _padded(
    model: nn.Module, plans: Sequence[PruningPlan], encoded: EncodedTask
) -> tuple[Json, list[NDArray[np.float32]]]:
    """Time the plain loop of the examples: every sentence padded to 128 tokens, batches of 8, in the data's order."""
    collate = DataCollatorWithPadding(encoded.tokenizer, padding="max_length", max_length=PADDED_LENGTH)
    rows = [{name: values[i] for name, values in encoded.features.items()} for i in range(len(encoded))]

    def loop() -> list[NDArray[np.float32]]:
        results = []
        for plan in plans:
            with bypass(model, plan), torch.inference_mode():
                starts = range(0, len(rows), PADDED_BATCH)
                logits = [model(**collate(rows[i : i + PADDED_BATCH])).logits for i in starts]
            results.append(torch.cat(logits).numpy())
        return results

    return _timed("padded", loop)


def _timed(name: str, work: Callable[[], Any]) -> tuple[Json, Any]:
    """Return the seconds on the wall and those of the processor, which others on the machine disturb less."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return {f"{name}_s": time.perf_counter() - wall, f"{name}_cpu_s": time.process_time() - cpu}, result


def _scaled(seconds: Json, factor: float) -> Json:
    return {name: value * factor for name, value in seconds.items()}


def _equal(ours: Sequence[TaskScore], others: Sequence[TaskScore]) -> bool:
    """Return whether logits are equal to the last bit."""
    return all(np.array_equal(a.logits, b.logits) for a, b in zip(ours, others, strict=True))


def _summary(plans: int, layer_passes: tuple[int, ...], data: TaskData, rounds: list[Json]) -> Json:
    """Add up the rounds; each ratio also with its least and greatest among them."""
    summary: Json = {"plans": plans, "sentences": len(data.dataset), "layer_passes": list(layer_passes)}
    summary |= {"logits_equal": all(each["logits_equal"] for each in rounds), "threads": torch.get_num_threads()}
    for name, unit in product(("one_by_one", "padded"), ("s", "cpu_s")):
        if f"{name}_{unit}" in rounds[0]:
            pairs = [(each[f"{name}_{unit}"], each[f"together_{unit}"]) for each in rounds]
            ratios = [separate / together for separate, together in pairs]
            whole = sum(separate for separate, _ in pairs) / sum(together for _, together in pairs)
            of = {"s": f"speedup_over_{name}", "cpu_s": f"cpu_speedup_over_{name}"}[unit]
            summary[of] = {"all": whole, "least": min(ratios), "greatest": max(ratios)}
    return summary | {"rounds": rounds}


def _subsets(depth: int) -> list[PruningPlan]:
    """Return all subsets of the layers; the complement of plan ``i`` is the one as far from the end."""
    return [PruningPlan(tuple(Site(layer) for layer in range(depth) if i >> layer & 1)) for i in range(2**depth)]


def _evenly(data: TaskData, count: int | None) -> TaskData:
    """Keep some rows, evenly spaced."""
    total = len(data.dataset)
    rows = np.linspace(0, total - 1, min(count or total, total)).round().astype(int)
    return replace(data, dataset=data.dataset.select(rows))


def _parts(data: TaskData, count: int) -> list[TaskData]:
    """Deal the rows out."""
    total = len(data.dataset)
    return [replace(data, dataset=data.dataset.select(range(start, total, count))) for start in range(count)]


def _random_bert(depth: int, sizes: dict[str, int], tokenizer: PreTrainedTokenizerBase, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    config = BertConfig(vocab_size=len(tokenizer), num_hidden_layers=depth, initializer_range=0.2, **sizes)
    return BertForSequenceClassification(config).eval()


def _tokenizer_of_words(data: TaskData) -> PreTrainedTokenizerBase:
    """Make a tokenizer whose vocabulary is the data's own words."""
    texts = " ".join(data.dataset[data.spec.text_columns[0]][:]).lower()
    words = sorted(set(re.findall(r"\w+|[^\w\s]", texts)))
    with TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.txt"
        vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]), encoding="utf-8")
        return BertTokenizerFast.from_pretrained(folder, model_max_length=PADDED_LENGTH)
