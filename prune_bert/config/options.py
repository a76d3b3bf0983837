"""The knobs, in groups: what each is called, its type, its default, its range and its line of help.

Defaults live here, in ``compensating``, in ``recovering`` and in ``verbs``, and nowhere else. A group is a frozen
keyword-only dataclass without a base; the verbs' configurations are composed of groups. A list is a tuple once it is
read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypedDict

MAX_SEED = 2**32 - 1  # numpy takes no larger one


class About(TypedDict, total=False):
    """What is known of a field beside its type and its default: the metadata of the dataclass field.

    ``help`` is its line in ``--help`` and ``metavar`` what stands there for the value. A number is
    ``at_least``, ``above``, ``at_most`` or ``below`` something; a list has at most ``max_items``; a text or
    a list is not empty unless it ``may_be_empty``.
    """

    help: str
    metavar: str
    at_least: float
    above: float
    at_most: float
    below: float
    max_items: int
    may_be_empty: bool


ABOUT_PLAN = About(
    help="the sites to remove, such as 'layer:9-11 attention:4 ffn:0,2 norm=skip'",
    metavar="SITES",
    may_be_empty=True,  # a plan that removes nothing is a plan
)
ABOUT_ROUNDS = About(help="timed rounds at each point; a round times every variant", metavar="N", at_least=2)
ABOUT_WARMUP = About(help="untimed rounds before those", metavar="N", at_least=0)
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
    max_seq_length: int = field(
        default=128, metadata=About(help="tokens after which an example is cut", metavar="TOKENS", at_least=3)
    )
    eval_split: Literal["validation", "validation_mismatched"] = field(
        default="validation", metadata=About(help="split to score on; validation_mismatched is MNLI's second")
    )
    max_eval_samples: int | None = field(
        default=None,
        metadata=About(help="score only N examples, evenly spaced; none: all", metavar="N", at_least=1),
    )


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """Where and how it is computed."""

    per_device_eval_batch_size: int = field(
        default=32, metadata=About(help="examples a batch, on each process", metavar="N", at_least=1)
    )
    mixed_precision: Literal["no", "bf16", "fp16"] | None = field(
        default=None,
        metadata=About(help="number format of the matrix work; none: the one of accelerate launch, else no"),
    )
    device: Literal["auto", "cpu", "cuda"] = field(
        default="auto", metadata=About(help="auto: a GPU where there is one")
    )
    num_threads: int | None = field(
        default=None, metadata=About(help="CPU threads; none: torch's choice", metavar="N", at_least=1)
    )
    seed: int = field(
        default=42,
        metadata=About(help="seed of everything random", metavar="N", at_least=0, at_most=MAX_SEED),
    )
    n_resamples: int = field(
        default=2000,
        metadata=About(help="bootstrap resamples behind each 95 % interval", metavar="N", at_least=20),
    )


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """The grid on which latency is measured."""

    profile_batch_sizes: tuple[int, ...] = field(
        default=(1, 32), metadata=About(help="batch sizes to time", metavar="N", at_least=1)
    )
    profile_sequence_lengths: tuple[int, ...] = field(
        default=(128,), metadata=About(help="sequence lengths to time", metavar="TOKENS", at_least=1)
    )
    profile_rounds: int = field(default=20, metadata=ABOUT_ROUNDS)
    profile_warmup: int = field(default=3, metadata=ABOUT_WARMUP)


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

    learning_rate: float = field(
        default=5e-5, metadata=About(help="peak learning rate of AdamW", metavar="RATE", above=0, at_most=10)
    )
    num_train_epochs: float = field(default=3.0, metadata=About(help="passes over the data", metavar="X", above=0))
    max_steps: int | None = field(
        default=None,
        metadata=About(help="optimiser steps, in the place of num_train_epochs", metavar="N", at_least=1),
    )
    per_device_train_batch_size: int = field(
        default=32, metadata=About(help="examples a batch, on each process", metavar="N", at_least=1)
    )
    gradient_accumulation_steps: int = field(
        default=1, metadata=About(help="batches an optimiser step", metavar="N", at_least=1)
    )
    weight_decay: float = field(default=0.01, metadata=About(help="of AdamW", metavar="X", at_least=0))
    warmup_ratio: float = field(
        default=0.06,
        metadata=About(help="share of the steps that warm up", metavar="X", at_least=0, at_most=1),
    )
    max_grad_norm: float = field(
        default=1.0,
        metadata=About(help="gradients are clipped to this norm; 0: not", metavar="X", at_least=0),
    )
    max_train_samples: int | None = field(
        default=None,
        metadata=About(help="train on N examples only, evenly spaced; none: all", metavar="N", at_least=1),
    )
    checkpointing_steps: int | None = field(
        default=500,
        metadata=About(help="save to resume every N steps; none: every epoch", metavar="N", at_least=1),
    )
    resume: bool = field(default=True, metadata=About(help="go on from the newest state in output_dir"))
    lora_rank: int = field(
        default=0,
        metadata=About(help="rank of a LoRA adapter; 0: train all weights", metavar="N", at_least=0),
    )
    lora_alpha: float | None = field(
        default=None,
        metadata=About(help="the update counts lora_alpha / lora_rank times; none: twice", metavar="X", above=0),
    )
    lora_dropout: float = field(
        default=0.0, metadata=About(help="dropout before the adapter", metavar="X", at_least=0, below=1)
    )
    lora_target_modules: tuple[str, ...] | None = field(
        default=None,
        metadata=About(
            help="name endings of the layers adapted; none: all linear layers of the encoder", metavar="NAME"
        ),
    )


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """On which slice of the training data something is chosen or fitted."""

    max_calibration_samples: int = field(
        default=512,
        metadata=About(help="training examples to choose and to fit on", metavar="N", at_least=2),
    )
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

    max_accuracy_drop: float | None = field(
        default=None,
        metadata=About(
            help="points of the headline metric that may be lost, on the calibration slice", metavar="X", at_least=0
        ),
    )
    respect_interval: bool = field(
        default=False, metadata=About(help="take that drop at the worse end of its 95 % interval")
    )
    min_speedup: float | None = field(
        default=None, metadata=About(help="times the unpruned model's speed, at least", metavar="X", above=0)
    )
    max_latency_ms: float | None = field(
        default=None, metadata=About(help="milliseconds a batch, at most", metavar="MS", above=0)
    )
    max_parameters: int | None = field(
        default=None,
        metadata=About(help="parameters left, at most", metavar="N", at_least=1, at_most=10**13),
    )
    keep_layers: int | None = field(default=None, metadata=About(help="layers left, exactly", metavar="N", at_least=1))
    batch_size: int = field(
        default=1, metadata=About(help="batch size that speed is meant for", metavar="N", at_least=1)
    )
    sequence_length: int = field(
        default=128, metadata=About(help="sequence length that speed is meant for", metavar="TOKENS", at_least=1)
    )
    profile_rounds: int = field(default=20, metadata=ABOUT_ROUNDS)
    profile_warmup: int = field(default=3, metadata=ABOUT_WARMUP)


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
    beam_width: int | None = field(
        default=None,
        metadata=About(
            help="plans that go on at each step; none: 4 for beam, greedy for sublayer", metavar="N", at_least=1
        ),
    )
    max_removed: int | None = field(
        default=None, metadata=About(help="sites to remove, at most; none: all that can go", metavar="N", at_least=1)
    )
    racing: bool | None = field(
        default=None,
        metadata=About(
            help="drop plans of a beam or an exhaustive search early that cannot win; none: no", metavar="true|false"
        ),
    )
    racing_confidence: float = field(
        default=0.95,
        metadata=About(help="that no plan is dropped which belongs among the best", metavar="X", above=0, below=1),
    )
