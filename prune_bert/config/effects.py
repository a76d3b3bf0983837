"""What depends on each setting: the one place that says whether a killed run can go on when it is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, Literal

from prune_bert.config.checking import Config
from prune_bert.config.compensating import CompensationOptions
from prune_bert.config.verbs import VERBS

Effect = Literal["nothing", "content", "steps", "fit", "state"]
"""What a change of a setting makes useless of an unfinished run.

nothing: All that is on disk stays valid.
content: The setting names something (a file, a split, a device) whose content or kind is in the fingerprint itself.
steps: The finished steps, which take minutes; the state stays valid.
fit: The finished steps, and with a compensation the state as well, since the fit adds up numbers in batches.
state: The finished steps, and what takes longest: the training of `train` and `recover`, the journal of `search`.
"""

_EFFECTS: Mapping[str, Effect] = MappingProxyType(
    {
        # which model
        "model_name_or_path": "content",
        "tokenizer_name": "content",
        "model_revision": "content",
        "trust_remote_code": "content",
        "allow_pickle": "content",
        "attn_implementation": "content",
        "teacher_name_or_path": "content",
        "plan": "content",
        # which data
        "task_name": "content",
        "data_dir": "content",
        "train_file": "content",
        "validation_file": "content",
        "text_columns": "content",
        "label_column": "content",
        "label_names": "content",
        "eval_split": "content",
        "max_eval_samples": "content",
        "max_train_samples": "content",
        "max_calibration_samples": "content",
        "calibration_rows": "content",
        "max_seq_length": "state",
        # where and how it is computed
        "device": "content",
        "per_device_eval_batch_size": "fit",
        "mixed_precision": "state",
        "num_threads": "state",
        "seed": "state",
        "n_resamples": "steps",
        # latency
        "profile": "steps",
        "profile_batch_sizes": "steps",
        "profile_sequence_lengths": "steps",
        "profile_rounds": "steps",
        "profile_warmup": "steps",
        "batch_size": "steps",
        "sequence_length": "steps",
        # what goes out
        "output_dir": "nothing",
        "overwrite_output_dir": "nothing",
        "report_to": "nothing",
        "report": "nothing",
        "checkpoint_format": "nothing",
        "save_model": "nothing",
        "measure_site_costs": "nothing",  # each site is a step under its own name
        # compensation
        "compensation": "state",
        "compensation_rank": "state",
        "compensation_max_cost": "state",
        "compensation_neurons": "state",
        "compensation_placement": "state",
        "compensation_refit_norm": "state",
        "compensation_ridge": "state",
        # scores and search; every plan and every objective has a key of its own in the journal
        "scorer": "nothing",  # each scorer is a step under its own name
        "components": "steps",
        "norm": "steps",
        "strategy": "nothing",
        "objective": "nothing",
        "beam_width": "nothing",
        "max_removed": "nothing",
        "racing": "nothing",
        "racing_confidence": "nothing",
        "max_accuracy_drop": "nothing",
        "respect_interval": "nothing",
        "min_speedup": "nothing",
        "max_latency_ms": "nothing",
        "max_parameters": "nothing",
        "keep_layers": "nothing",
        # training
        "resume": "nothing",
        "checkpointing_steps": "nothing",
        "learning_rate": "state",
        "num_train_epochs": "state",
        "max_steps": "state",
        "per_device_train_batch_size": "state",
        "gradient_accumulation_steps": "state",
        "weight_decay": "state",
        "warmup_ratio": "state",
        "max_grad_norm": "state",
        "lora_rank": "state",
        "lora_alpha": "state",
        "lora_dropout": "state",
        "lora_target_modules": "state",
        "method": "state",
        "temperature": "state",
        "label_weight": "state",
        "hidden_weight": "state",
        "schedule": "state",
        "steps_per_site": "state",
        "selection_fraction": "state",
        "selection_samples": "state",
        "early_stopping_patience": "state",
        "evaluation_steps": "state",
        "keep_best": "state",
    }
)

# Where a verb differs. The one score of `train` that lasts is taken at the end; `score` needs the evaluation settings
# only to make labels for data without any; the journal of `search` holds what these decide.
_OF_VERB: Mapping[str, Mapping[str, Effect]] = MappingProxyType(
    {
        "train": {"per_device_eval_batch_size": "nothing", "n_resamples": "nothing"},
        "score": {"per_device_eval_batch_size": "steps", "n_resamples": "nothing"},
        "search": {
            "per_device_eval_batch_size": "state",
            "n_resamples": "state",
            "max_calibration_samples": "state",
            "calibration_rows": "state",
        },
    }
)

# Settings without a meaning while another one has a value.
_IDLE: Mapping[tuple[str, Any], tuple[str, ...]] = MappingProxyType(
    {
        ("compensation", "none"): tuple(f.name for f in fields(CompensationOptions) if f.name != "compensation"),
        ("lora_rank", 0): ("lora_alpha", "lora_dropout", "lora_target_modules"),
    }
)


def effect_of(cls: type[Config], name: str) -> Effect:
    """Say what depends on a setting of a verb's configuration.

    Raises:
        KeyError: Nobody has said it: every field belongs in the table of this module.
    """
    verb = next((verb for verb, known in VERBS.items() if known is cls), "")
    return _OF_VERB.get(verb, {}).get(name) or _EFFECTS[name]


def settings_with(config: Config, *effects: Effect) -> dict[str, Any]:
    """Return the settings of a configuration that have one of some effects, without those that are idle."""
    idle = {name for (switch, off), names in _IDLE.items() if getattr(config, switch, ...) == off for name in names}
    plain = getattr(config, "compensation", "none") == "none"
    found = {}
    for field in fields(config):
        effect = effect_of(type(config), field.name)
        if effect == "fit":
            effect = "steps" if plain else "state"
        if effect in effects and field.name not in idle:
            found[field.name] = getattr(config, field.name)
    return found
