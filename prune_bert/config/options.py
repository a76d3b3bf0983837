"""The knobs, in groups: what each is called, its type, its default, its range and its line of help.

The default and the range of a number are those of its knob in ``prune_bert.knobs``; other defaults live here, in
``compensating``, in ``recovering`` and in ``verbs``, and nowhere else. A group is a frozen
keyword-only dataclass without a base; the verbs' configurations are composed of groups. A list is a tuple once it is
read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from prune_bert.knobs import (
    BEAM_WIDTH,
    BUDGET_BATCH_SIZE,
    BUDGET_SEQUENCE_LENGTH,
    CALIBRATION_SAMPLES,
    CHECKPOINTING_STEPS,
    EVAL_BATCH_SIZE,
    GRADIENT_ACCUMULATION_STEPS,
    KEEP_LAYERS,
    LEARNING_RATE,
    LORA_ALPHA,
    LORA_DROPOUT,
    LORA_RANK,
    MAX_ACCURACY_DROP,
    MAX_GRAD_NORM,
    MAX_LATENCY_MS,
    MAX_PARAMETERS,
    MAX_REMOVED,
    MAX_SAMPLES,
    MAX_SEQ_LENGTH,
    MAX_STEPS,
    MIN_SPEEDUP,
    N_RESAMPLES,
    NUM_THREADS,
    NUM_TRAIN_EPOCHS,
    PROFILE_BATCH_SIZES,
    PROFILE_ROUNDS,
    PROFILE_SEQUENCE_LENGTHS,
    PROFILE_WARMUP,
    RACING_CONFIDENCE,
    SEED,
    TRAIN_BATCH_SIZE,
    WARMUP_RATIO,
    WEIGHT_DECAY,
    Knob,
    Range,
)


class About(Range, total=False):
    """What is known of a field beside its type and its default: the metadata of the dataclass field.

    ``help`` is its line in ``--help`` and ``metavar`` what stands there for the value. A number is within its range;
    a list has at most ``max_items``; a text or a list is not empty unless it ``may_be_empty``.
    """

    help: str
    metavar: str
    max_items: int
    may_be_empty: bool


def knob_field(knob: Knob[Any], help: str, metavar: str) -> Any:
    """Return the dataclass field of a number, with the default and the range of its knob."""
    return field(default=knob.default, metadata={"help": help, "metavar": metavar, **knob.range})


ABOUT_PLAN = About(
    help="the sites to remove, such as 'layer:9-11 attention:4 ffn:0,2 norm=skip'",
    metavar="SITES",
    may_be_empty=True,  # a plan that removes nothing is a plan
)
ROUNDS_HELP = "timed rounds at each point; a round times every variant"
WARMUP_HELP = "untimed rounds before those"
ScorerName = Literal[
    "top",
    "bottom",
    "alternate",
    "alternate_odd",
    "alternate_even",
    "symmetric",
    "magnitude",
    "contribution",
    "block_influence",
    "angular",
    "taylor",
    "fisher",
    "loss_increase",
]
ComponentName = Literal["layer", "attention", "ffn"]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and how it is loaded."""

    model_name_or_path: str = field(
        metadata=About(help="model directory, hub id, or 'embedded' for the one that comes along", metavar="MODEL")
    )
    tokenizer_name: str | None = field(
        default=None,
        metadata=About(help="tokenizer directory or hub id; none: the model's own", metavar="TOKENIZER"),
    )
    model_revision: str = field(
        default="main", metadata=About(help="branch, tag or commit of a hub model", metavar="REVISION")
    )
    trust_remote_code: bool = field(
        default=False,
        metadata=About(help="run Python code that comes with a hub model; only for one you have read"),
    )
    allow_pickle: bool = field(
        default=False, metadata=About(help="load weights that exist only as a pickle, which can run code")
    )
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flex_attention"] | None = field(
        default=None, metadata=About(help="attention code of transformers; none: its choice")
    )


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Which task: one of GLUE's, the embedded 'reviews', or your own files."""

    task_name: str | None = field(
        default=None,
        metadata=About(help="reviews, cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli", metavar="TASK"),
    )
    data_dir: str | None = field(
        default=None,
        metadata=About(help="folder with the task's files; none: the hub's nyu-mll/glue", metavar="DIR"),
    )
    train_file: str | None = field(
        default=None,
        metadata=About(help="your own training file: CSV, TSV, JSON lines or Parquet", metavar="FILE"),
    )
    validation_file: str | None = field(
        default=None,
        metadata=About(help="your own file to score on: CSV, TSV, JSON lines or Parquet", metavar="FILE"),
    )
    text_columns: tuple[str, ...] | None = field(
        default=None,
        metadata=About(help="the text column of your own data, or the two of a pair", metavar="COLUMN", max_items=2),
    )
    label_column: str | None = field(
        default=None, metadata=About(help="the label column of your own data", metavar="COLUMN")
    )
    label_names: tuple[str, ...] | None = field(
        default=None,
        metadata=About(
            help="labels of your own data, by id; none: read from the data; no word at all: a regression",
            metavar="LABEL",
            may_be_empty=True,
        ),
    )
    max_seq_length: int = knob_field(MAX_SEQ_LENGTH, "tokens after which an example is cut", "TOKENS")
    eval_split: Literal["validation", "validation_mismatched"] = field(
        default="validation", metadata=About(help="split to score on; validation_mismatched is MNLI's second")
    )
    max_eval_samples: int | None = knob_field(MAX_SAMPLES, "score only N examples, evenly spaced; none: all", "N")


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """Where and how it is computed."""

    per_device_eval_batch_size: int = knob_field(EVAL_BATCH_SIZE, "examples a batch, on each process", "N")
    mixed_precision: Literal["no", "bf16", "fp16"] | None = field(
        default=None,
        metadata=About(help="number format of the matrix work; none: the one of accelerate launch, else no"),
    )
    device: Literal["auto", "cpu", "cuda"] = field(
        default="auto", metadata=About(help="auto: a GPU where there is one")
    )
    num_threads: int | None = knob_field(NUM_THREADS, "CPU threads; none: torch's choice", "N")
    seed: int = knob_field(SEED, "seed of everything random", "N")
    n_resamples: int = knob_field(N_RESAMPLES, "bootstrap resamples behind each 95 % interval", "N")


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """The grid on which latency is measured."""

    profile_batch_sizes: tuple[int, ...] = knob_field(PROFILE_BATCH_SIZES, "batch sizes to time", "N")
    profile_sequence_lengths: tuple[int, ...] = knob_field(
        PROFILE_SEQUENCE_LENGTHS, "sequence lengths to time", "TOKENS"
    )
    profile_rounds: int = knob_field(PROFILE_ROUNDS, ROUNDS_HELP, "N")
    profile_warmup: int = knob_field(PROFILE_WARMUP, WARMUP_HELP, "N")


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where the results go."""

    output_dir: str = field(metadata=About(help="directory for the results", metavar="DIR"))
    overwrite_output_dir: bool = field(default=False, metadata=About(help="replace what an existing output_dir holds"))


@dataclass(frozen=True, kw_only=True)
class TrackingOptions:
    """Which experiment trackers get the figures too."""

    report_to: (
        tuple[
            Literal[
                "tensorboard",
                "wandb",
                "mlflow",
                "comet_ml",
                "aim",
                "clearml",
                "dvclive",
                "swanlab",
                "trackio",
            ],
            ...,
        ]
        | None
    ) = field(default=None, metadata=About(help="trackers of accelerate; none: no tracker", metavar="TRACKER"))


@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """What is removed, and what is made of it."""

    plan: str = field(metadata=ABOUT_PLAN)
    checkpoint_format: Literal["portable", "compact"] | None = field(
        default=None,
        metadata=About(
            help="portable: plain transformers loads it; compact: load_pruned loads it; none: portable where it can be"
        ),
    )
    save_model: bool = field(default=True, metadata=About(help="save the pruned model"))
    measure_site_costs: bool = field(
        default=True, metadata=About(help="also score the removal of each site of the plan alone")
    )
    profile: bool = field(default=True, metadata=About(help="measure latency"))


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How the weights, or a LoRA adapter beside them, are trained."""

    learning_rate: float = knob_field(LEARNING_RATE, "peak learning rate of AdamW", "RATE")
    num_train_epochs: float = knob_field(NUM_TRAIN_EPOCHS, "passes over the data", "X")
    max_steps: int | None = knob_field(MAX_STEPS, "optimiser steps, in the place of num_train_epochs", "N")
    per_device_train_batch_size: int = knob_field(TRAIN_BATCH_SIZE, "examples a batch, on each process", "N")
    gradient_accumulation_steps: int = knob_field(GRADIENT_ACCUMULATION_STEPS, "batches an optimiser step", "N")
    weight_decay: float = knob_field(WEIGHT_DECAY, "of AdamW", "X")
    warmup_ratio: float = knob_field(WARMUP_RATIO, "share of the steps that warm up", "X")
    max_grad_norm: float = knob_field(MAX_GRAD_NORM, "gradients are clipped to this norm; 0: not", "X")
    max_train_samples: int | None = knob_field(MAX_SAMPLES, "train on N examples only, evenly spaced; none: all", "N")
    checkpointing_steps: int | None = knob_field(
        CHECKPOINTING_STEPS, "save to resume every N steps; none: every epoch", "N"
    )
    resume: bool = field(default=True, metadata=About(help="go on from the newest state in output_dir"))
    lora_rank: int = knob_field(LORA_RANK, "rank of a LoRA adapter; 0: train all weights", "N")
    lora_alpha: float | None = knob_field(
        LORA_ALPHA, "the update counts lora_alpha / lora_rank times; none: twice", "X"
    )
    lora_dropout: float = knob_field(LORA_DROPOUT, "dropout before the adapter", "X")
    lora_target_modules: tuple[str, ...] | None = field(
        default=None,
        metadata=About(
            help="name endings of the layers adapted; none: all linear layers of the encoder", metavar="NAME"
        ),
    )


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """On which slice of the training data something is chosen or fitted."""

    max_calibration_samples: int = knob_field(CALIBRATION_SAMPLES, "training examples to choose and to fit on", "N")
    calibration_rows: Literal["evenly", "longest"] = field(
        default="evenly",
        metadata=About(
            help="evenly spaced, or among the longest twentieth: for train splits of fragments, such as SST-2's"
        ),
    )


@dataclass(frozen=True, kw_only=True)
class NormOptions:
    """What a removed sublayer leaves."""

    norm: Literal["keep", "skip"] = field(
        default="keep", metadata=About(help="what a removed sublayer leaves: its LayerNorm (keep) or nothing (skip)")
    )


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """What is scored, and how."""

    scorer: tuple[ScorerName, ...] = field(
        default=("contribution", "block_influence", "taylor", "loss_increase"),
        metadata=About(help="how to score, one or more"),
    )
    components: tuple[ComponentName, ...] = field(
        default=("layer", "attention", "ffn"),
        metadata=About(help="which sites: layer, attention, ffn", metavar="COMPONENT"),
    )


@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """What the pruned model may cost. Without any, the front is shown and no plan chosen."""

    max_accuracy_drop: float | None = knob_field(
        MAX_ACCURACY_DROP, "points of the headline metric that may be lost, on the calibration slice", "X"
    )
    respect_interval: bool = field(
        default=False, metadata=About(help="take that drop at the worse end of its 95 % interval")
    )
    min_speedup: float | None = knob_field(MIN_SPEEDUP, "times the unpruned model's speed, at least", "X")
    max_latency_ms: float | None = knob_field(MAX_LATENCY_MS, "milliseconds a batch, at most", "MS")
    max_parameters: int | None = knob_field(MAX_PARAMETERS, "parameters left, at most", "N")
    keep_layers: int | None = knob_field(KEEP_LAYERS, "layers left, exactly", "N")
    batch_size: int = knob_field(BUDGET_BATCH_SIZE, "batch size that speed is meant for", "N")
    sequence_length: int = knob_field(BUDGET_SEQUENCE_LENGTH, "sequence length that speed is meant for", "TOKENS")
    profile_rounds: int = knob_field(PROFILE_ROUNDS, ROUNDS_HELP, "N")
    profile_warmup: int = knob_field(PROFILE_WARMUP, WARMUP_HELP, "N")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Which plans are tried."""

    strategy: Literal["one_shot", "greedy", "beam", "exhaustive", "sublayer"] | None = field(
        default=None,
        metadata=About(help="how to search; none: sublayer, or greedy over layers with keep_layers"),
    )
    scorer: ScorerName | None = field(
        default=None,
        metadata=About(help="what one_shot goes by; none: block_influence"),
    )
    components: tuple[ComponentName, ...] | None = field(
        default=None,
        metadata=About(help="which sites: layer, attention, ffn; none: as suits the strategy", metavar="COMPONENT"),
    )
    objective: Literal["loss", "metric", "agreement", "divergence"] | None = field(
        default=None,
        metadata=About(
            help="what to keep: loss, metric, or, of the unpruned model's predictions, agreement or least divergence; "
            "none: loss, or divergence with a compensation"
        ),
    )
    beam_width: int | None = knob_field(
        BEAM_WIDTH, "plans that go on at each step; none: 4 for beam, greedy for sublayer", "N"
    )
    max_removed: int | None = knob_field(MAX_REMOVED, "sites to remove, at most; none: all that can go", "N")
    racing: bool | None = field(
        default=None,
        metadata=About(
            help="drop plans of a beam or an exhaustive search early that cannot win; none: no", metavar="true|false"
        ),
    )
    racing_confidence: float = knob_field(
        RACING_CONFIDENCE, "that no plan is dropped which belongs among the best", "X"
    )
