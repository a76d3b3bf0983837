"""What depends on each setting is said for every field of every verb, and two records say in words how they differ."""

import dataclasses

import pytest
from test_config import OF_VERB

from prune_bert.config import VERBS, effect_of, settings_with
from prune_bert.search.changes import changes, summary


@pytest.mark.parametrize("verb", VERBS)
def test_every_setting_of_every_verb_is_classified(verb):
    """A new flag that nobody has classified fails here."""
    effects = {field.name: effect_of(VERBS[verb], field.name) for field in dataclasses.fields(VERBS[verb])}
    assert set(effects.values()) <= {"nothing", "content", "steps", "fit", "state"}


def test_a_setting_that_nobody_classified_is_a_defect():
    with pytest.raises(KeyError):
        effect_of(VERBS["prune"], "brand_new_flag")


@pytest.mark.parametrize(
    ("verb", "changed", "steps", "state"),
    [
        ("train", {"learning_rate": 1.0}, True, True),
        ("train", {"report_to": ("wandb",)}, False, False),
        ("train", {"overwrite_output_dir": True}, False, False),
        ("train", {"per_device_eval_batch_size": 7}, False, False),
        ("train", {"n_resamples": 50}, False, False),
        ("train", {"checkpointing_steps": 3}, False, False),
        ("train", {"lora_dropout": 0.5}, False, False),  # without an adapter it means nothing
        ("train", {"lora_rank": 2}, True, True),
        ("recover", {"profile_rounds": 9}, True, False),
        ("recover", {"per_device_eval_batch_size": 7}, True, False),
        ("recover", {"compensation_rank": 7}, False, False),
        ("recover", {"temperature": 9.0}, True, True),
        ("prune", {"save_model": False}, False, False),
        ("prune", {"n_resamples": 50}, True, False),
        ("search", {"min_speedup": 2.0}, False, False),
        ("search", {"objective": "divergence"}, False, False),
        ("search", {"profile_rounds": 9}, True, False),
        ("search", {"max_calibration_samples": 9}, True, True),
    ],
)
def test_only_what_a_result_depends_on_counts(verb, changed, steps, state):
    before = VERBS[verb](**OF_VERB[verb])
    after = dataclasses.replace(before, **changed)
    assert (settings_with(before, "steps", "state") != settings_with(after, "steps", "state")) == steps
    assert (settings_with(before, "state") != settings_with(after, "state")) == state


def test_with_a_compensation_the_batches_of_the_fit_count_for_the_training():
    plain = VERBS["recover"](**OF_VERB["recover"])
    fitted = dataclasses.replace(plain, compensation="low_rank")
    assert "per_device_eval_batch_size" not in settings_with(plain, "state")
    assert {"per_device_eval_batch_size", "compensation_rank"} <= set(settings_with(fitted, "state"))


def test_differences_are_said_with_both_values():
    stored = {"settings": {"learning_rate": 1e-3, "lora": None}, "weights": "0" * 64, "same": [1]}
    wanted = {"settings": {"learning_rate": 1e-4}, "weights": "1" * 64, "same": [1], "new": True}
    found = changes(stored, wanted)
    assert [change.name for change in found] == ["settings.learning_rate", "weights", "new"]
    assert summary(found) == "settings.learning_rate: 0.001 -> 0.0001; weights (its content); new: none -> true"
    assert changes(stored, stored) == ()
    many = changes({}, {str(number): "x" * 1000 for number in range(9)})
    assert summary(many).endswith("; and 5 more")
    assert len(summary(many)) < 300
