"""Stopping early and keeping the best: what is kept, what a resume remembers, and what bad input gets."""

import pytest
import torch
from conftest import make_tiny_bert
from test_training import light, settings, toy_data, weights  # noqa: F401 - light is a fixture
from test_training_resume import InterruptionError, assert_same_weights, interrupted_at

from prune_bert.training import ResumeError, TrainingError, TrainSettings, train
from prune_bert.training.losses import classification_loss
from prune_bert.training.state import load_newest
from prune_bert.training.stopping import best_of, is_new_best, should_stop, since_best

NAN = float("nan")


class Scripted:
    """Answers a list of scores, by how often a step has been judged; keeps the weights that it was shown."""

    def __init__(self, *scores):
        self.scores = scores
        self.seen = []

    def __call__(self, model):
        assert not model.training
        self.seen.append(weights(model))
        return self.scores[len(self.seen) - 1]


class Measured:
    """A score that depends on the weights alone: best where the head is so far from where it began."""

    def __init__(self, target):
        self.target = target

    def __call__(self, model):
        moved = model.classifier.weight.detach() - make_tiny_bert().classifier.weight
        return -abs(moved.norm().item() - self.target)

    def fingerprint(self):
        return {"target": self.target}


def run(tokenizer, state_dir=None, validation=None, loss_function=None, **given):
    model = make_tiny_bert()
    given = {"max_steps": 14, "evaluation_steps": 2, "checkpointing_steps": 4} | given
    result = train(
        model,
        toy_data(),
        tokenizer,
        settings(**given),
        state_dir=state_dir,
        validation=validation,
        loss_function=loss_function,
    )
    return model, result


@pytest.mark.parametrize(
    ("scores", "best", "since"),
    [
        ([], None, 0),
        ([1.0], (0, 1.0), 0),
        ([1.0, 3.0, 2.0, 3.0], (1, 3.0), 2),  # the earliest of equals
        ([NAN, 1.0, NAN], (1, 1.0), 1),
        ([NAN, NAN], None, 2),
    ],
)
def test_the_best_of_validations(scores, best, since):
    validations = list(enumerate(scores))
    assert best_of(validations) == best
    assert since_best(validations) == since
    assert should_stop(validations, 2) == (since >= 2)
    assert not should_stop(validations, None)


def test_a_new_best_is_better_than_all_before():
    assert is_new_best([(2, 0.5), (4, 0.6)])
    assert not is_new_best([(2, 0.5), (4, 0.5)])
    assert not is_new_best([(2, NAN)])


def test_it_stops_when_patience_ends_and_says_so(tiny_tokenizer):
    judge = Scripted(0.1, 0.5, 0.4, 0.3)
    model, result = run(tiny_tokenizer, validation=judge, early_stopping_patience=2)
    assert (result.steps, result.stopped_early, result.best_step) == (8, True, 4)
    assert [step for step, _ in result.validation] == [2, 4, 6, 8]
    assert [point.step for point in result.history] == list(range(1, 9))
    assert all(torch.equal(value, judge.seen[-1][name]) for name, value in weights(model).items())


def test_the_best_weights_are_put_back(tiny_tokenizer):
    judge = Scripted(0.0, 0.1, 0.5, 0.4, 0.3)  # the first before the first step
    model, result = run(tiny_tokenizer, validation=judge, early_stopping_patience=2, keep_best=True)
    assert (result.steps, result.best_step, result.best_validation) == (8, 4, 0.5)
    assert all(torch.equal(value, judge.seen[2][name]) for name, value in weights(model).items())
    assert not model.training


def test_training_that_only_harms_leaves_the_weights_as_they_were(tiny_tokenizer):
    model, result = run(tiny_tokenizer, validation=Scripted(*range(9, 0, -1)), keep_best=True)
    assert (result.steps, result.best_step, result.stopped_early) == (14, 0, False)
    assert_same_weights(model, make_tiny_bert())


def test_scores_that_are_no_numbers_keep_nothing(tiny_tokenizer):
    model, result = run(
        tiny_tokenizer, validation=Scripted(*[NAN] * 9), keep_best=True, early_stopping_patience=3, max_steps=6
    )
    assert (result.best_step, result.best_validation, result.stopped_early) == (None, None, True)
    assert not torch.equal(model.classifier.weight, make_tiny_bert().classifier.weight)


@pytest.mark.parametrize("step", [6, 11, 14])  # before the best is known, after it, and near the end
def test_a_resume_remembers_the_best(tiny_tokenizer, tmp_path, step):
    given = {"keep_best": True, "early_stopping_patience": 3}
    judge = Measured(0.025)
    whole, uninterrupted = run(tiny_tokenizer, validation=judge, **given)
    assert 0 < uninterrupted.best_step < uninterrupted.steps
    with pytest.raises(InterruptionError):
        run(tiny_tokenizer, tmp_path, judge, interrupted_at(min(step, uninterrupted.steps)), **given)
    resumed, result = run(tiny_tokenizer, tmp_path, judge, **given)
    assert result.resumed_from is not None
    assert (result.validation, result.best_step) == (uninterrupted.validation, uninterrupted.best_step)
    assert_same_weights(resumed, whole)


def test_a_run_that_stopped_early_stays_stopped(tiny_tokenizer, tmp_path):
    def never(*_):
        raise AssertionError("a finished run took a step")

    never.__qualname__ = classification_loss.__qualname__
    given = {"keep_best": True, "early_stopping_patience": 2}
    model, _ = run(tiny_tokenizer, tmp_path, Scripted(0, 0.1, 0.5, 0.4, 0.3), **given)
    again, result = run(tiny_tokenizer, tmp_path, Scripted(), never, **given)
    assert (result.steps, result.resumed_from, result.stopped_early) == (8, 8, True)
    assert_same_weights(model, again)


def test_other_settings_of_a_loss_or_a_validation_are_another_run(tiny_tokenizer, tmp_path):
    class Loss:
        def __init__(self, weight):
            self.weight = weight

        def __call__(self, model, batch):
            return self.weight * classification_loss(model, batch)

        def fingerprint(self):
            return {"weight": self.weight}

    run(tiny_tokenizer, tmp_path, Measured(1.0), Loss(1.0), max_steps=2)
    with pytest.raises(ResumeError, match=r"another run: weight was 1.0 and is now 2.0; continue"):
        run(tiny_tokenizer, tmp_path, Measured(1.0), Loss(2.0), max_steps=2)
    with pytest.raises(ResumeError, match=r"another run: target was 1.0 and is now 3.0; continue"):
        run(tiny_tokenizer, tmp_path, Measured(3.0), Loss(1.0), max_steps=2)


def test_without_best_weights_a_checkpoint_holds_none(tiny_tokenizer, tmp_path):
    run(tiny_tokenizer, tmp_path, max_steps=2)
    assert load_newest(tmp_path)["best_weights"] == {}


@pytest.mark.parametrize("given", [{"keep_best": True}, {"early_stopping_patience": 1}])
def test_without_a_validation_there_is_no_best(tiny_tokenizer, given):
    with pytest.raises(TrainingError, match=f"{next(iter(given))} needs a validation"):
        run(tiny_tokenizer, **given)


def test_settings_out_of_range_are_named():
    with pytest.raises(TrainingError, match=r"early_stopping_patience must be .*; evaluation_steps must be at least 1"):
        TrainSettings(early_stopping_patience=0, evaluation_steps=0)
