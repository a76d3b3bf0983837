"""Every range and default is stated once: what a config, a settings class and a function share is equal."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import MISSING, fields, replace

import pytest

from prune_bert import CompensationSettings, compare, compensate, evaluate, evaluate_plans
from prune_bert.compensation.costs import measure_sites
from prune_bert.config import (
    VERBS,
    BudgetOptions,
    CompensationOptions,
    ConfigError,
    ProfileOptions,
    RecoverOptions,
    RuntimeOptions,
    SearchOptions,
    TaskOptions,
    TrainOptions,
    load_config,
)
from prune_bert.config.fields import about, is_required, type_hints
from prune_bert.config.values import element, read_value, without_null
from prune_bert.errors import UserError
from prune_bert.evaluation import encode
from prune_bert.importance import score_blocks, score_sites
from prune_bert.lora import add_lora
from prune_bert.profiling import ProfilingError, profile_model
from prune_bert.profiling.inputs import random_inputs
from prune_bert.profiling.latency import speedup_interval
from prune_bert.recovery import RecoverSettings
from prune_bert.search import Budget, Racing, race
from prune_bert.training import TrainSettings


def options_field(group, name):
    return group.__dataclass_fields__[name]


def boundaries(bounds):
    """Return numbers on, just inside and just outside each bound of a range, and what is no number."""
    found = [math.nan, math.inf, -math.inf, 2**31 - 1, 2**31, -(2**31 - 1), -(2**31)]
    for name in ("at_least", "above", "at_most", "below"):
        if name in bounds:
            bound = bounds[name]
            found += [bound, bound - 1, bound + 1, math.nextafter(bound, -math.inf), math.nextafter(bound, math.inf)]
    return found


def config_takes(group, name, value):
    field, hint = options_field(group, name), type_hints(group)[name]
    try:
        read_value(hint, about(field), value, is_text=False)
    except ValueError:
        return False
    return True


def shared_with_settings():
    """Each numeric field of a settings class with the field of the group that it is taken from."""
    groups = {
        Budget: [(BudgetOptions, "")],
        TrainSettings: [(TrainOptions, ""), (TaskOptions, ""), (RuntimeOptions, ""), (RecoverOptions, "")],
        RecoverSettings: [(RecoverOptions, "")],
        CompensationSettings: [(CompensationOptions, "compensation_")],
    }
    for cls, places in groups.items():
        for field in fields(cls):
            found = [(group, prefix + field.name) for group, prefix in places]
            found = [(group, name) for group, name in found if name in group.__dataclass_fields__]
            numeric = found and element(without_null(type_hints(found[0][0])[found[0][1]])[0]) in (int, float)
            for group, name in found if numeric else []:
                yield pytest.param(cls, field.name, group, name, id=f"{cls.__name__}.{field.name}-{group.__name__}")


OFF_WITHOUT_RECOVERY = {"early_stopping_patience", "evaluation_steps"}  # a plain training does not stop early
OF_RECOVERY = {"checkpointing_steps"}  # whose default is its own


@pytest.mark.parametrize(("cls", "own", "group", "name"), list(shared_with_settings()))
def test_a_settings_class_has_the_default_and_the_range_of_the_configuration(cls, own, group, name):
    default = next(field for field in fields(cls) if field.name == own).default
    if cls is TrainSettings and own in OFF_WITHOUT_RECOVERY:
        assert default is None
    elif not (cls is TrainSettings and group is RecoverOptions and own in OF_RECOVERY):
        assert default == options_field(group, name).default
    whole = element(without_null(type_hints(group)[name])[0]) is int
    base = replace(RecoverSettings(), schedule="gradual") if own == "steps_per_site" else cls()
    for value in boundaries(about(options_field(group, name))):
        if whole and not float(value).is_integer():
            continue
        number = int(value) if whole else float(value)
        try:
            settings = replace(base, **{own: number})
            taken = not (isinstance(settings, Budget) and any(own in fault for fault in settings.conflicts()))
        except UserError:
            taken = False
        assert taken == config_takes(group, name, number), (own, number)


FUNCTIONS: list[tuple[Callable[..., object], dict[str, tuple[type, str]]]] = [
    (evaluate, {"batch_size": (RuntimeOptions, "per_device_eval_batch_size"), "n_resamples": (RuntimeOptions, "")}),
    (evaluate, {"max_seq_length": (TaskOptions, ""), "seed": (RuntimeOptions, "")}),
    # evaluate_plans makes no intervals unless it is asked to: its n_resamples is 0
    (evaluate_plans, {"batch_size": (RuntimeOptions, "per_device_eval_batch_size"), "seed": (RuntimeOptions, "")}),
    (evaluate_plans, {"max_seq_length": (TaskOptions, "")}),
    (compare, {"n_resamples": (RuntimeOptions, ""), "seed": (RuntimeOptions, "")}),
    (encode, {"max_seq_length": (TaskOptions, "")}),
    (score_sites, {"batch_size": (RuntimeOptions, "per_device_eval_batch_size"), "max_seq_length": (TaskOptions, "")}),
    (score_blocks, {"batch_size": (RuntimeOptions, "per_device_eval_batch_size"), "max_seq_length": (TaskOptions, "")}),
    (compensate, {"batch_size": (RuntimeOptions, "per_device_eval_batch_size"), "max_seq_length": (TaskOptions, "")}),
    (profile_model, {"batch_sizes": (ProfileOptions, "profile_batch_sizes"), "seed": (RuntimeOptions, "")}),
    (profile_model, {"sequence_lengths": (ProfileOptions, "profile_sequence_lengths")}),
    (profile_model, {"rounds": (ProfileOptions, "profile_rounds"), "warmup": (ProfileOptions, "profile_warmup")}),
    (profile_model, {"n_resamples": (RuntimeOptions, "")}),  # its mixed_precision is none, and a run's the launcher's
    (speedup_interval, {"n_resamples": (RuntimeOptions, ""), "seed": (RuntimeOptions, "")}),
    (random_inputs, {"seed": (RuntimeOptions, "")}),
    (measure_sites, {"batch_size": (BudgetOptions, ""), "sequence_length": (BudgetOptions, "")}),
    (measure_sites, {"rounds": (BudgetOptions, "profile_rounds"), "seed": (RuntimeOptions, "")}),
    (add_lora, {"alpha": (TrainOptions, "lora_alpha"), "dropout": (TrainOptions, "lora_dropout")}),
    (race, {"confidence": (SearchOptions, "racing_confidence")}),
    (Racing, {"confidence": (SearchOptions, "racing_confidence")}),
]


@pytest.mark.parametrize(("function", "shared"), FUNCTIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_function_has_the_default_of_the_configuration(function, shared):
    parameters = inspect.signature(function).parameters
    for own, (group, name) in shared.items():
        assert parameters[own].default == options_field(group, name or own).default, own


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ("batch_sizes", "profile_batch_sizes"),
        ("sequence_lengths", "profile_sequence_lengths"),
        ("rounds", "profile_rounds"),
        ("warmup", "profile_warmup"),
    ],
)
def test_a_profile_refuses_what_the_configuration_refuses(own, name):
    for value in boundaries(about(options_field(ProfileOptions, name))):
        if float(value).is_integer():
            number = [int(value)] if own.endswith("s") and own != "rounds" else int(value)
            refused = False
            try:
                profile_model({}, **{own: number})
            except ProfilingError as error:
                refused = "baseline first" not in str(error)  # the fault that is left where the number is fine
            assert refused != config_takes(ProfileOptions, name, number), number


def test_two_verbs_that_share_a_field_share_its_default_and_range():
    seen = {}
    for cls in VERBS.values():
        recovers = issubclass(cls, RecoverOptions)
        for field in fields(cls):
            bounds = {name: about(field).get(name) for name in ("at_least", "above", "at_most", "below")}
            default = "required" if is_required(field) else field.default
            if field.name == "plan" or (recovers and field.name in {"max_train_samples", "checkpointing_steps"}):
                default = "its own"
            key = (field.name, "its own" if default == "its own" else "")
            expected = seen.setdefault(key, (bounds, default))
            if field.name not in {"scorer", "components"}:  # lists for score, one for search
                assert (bounds, default) == expected, field.name


def test_the_command_line_has_no_defaults_of_its_own(capsys):
    from prune_bert.cli import main

    for verb, cls in VERBS.items():
        assert main([verb, "--help"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        for field in fields(cls):
            if field.default not in (MISSING, None) and isinstance(field.default, (int, float)):
                shown = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
                assert f"default: {shown})" in text, (verb, field.name)


@pytest.mark.parametrize(("name", "value"), [("min_speedup", "0.5"), ("max_accuracy_drop", "100.5")])
def test_a_budget_that_cannot_be_is_refused_with_the_configuration(name, value, tmp_path):
    flags = {"model_name_or_path": "x", "task_name": "sst2", "output_dir": str(tmp_path / "out"), name: value}
    with pytest.raises(ConfigError, match=name):
        load_config(VERBS["search"], None, flags)
