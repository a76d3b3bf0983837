"""Plans as text and rows as they are: the same results as from their classes, and no label ever flipped in silence."""

import copy
import warnings

import datasets
import numpy as np
import pytest
import torch
from conftest import WORDS, make_tiny_bert

from prune_bert import (
    PruningPlan,
    RecoverSettings,
    Site,
    bypass,
    compensate,
    drop,
    evaluate,
    evaluate_plans,
    load_task,
    profile_model,
    recover,
    score_sites,
)
from prune_bert.compensation import measure_sites
from prune_bert.evaluation import encode
from prune_bert.importance import ImportanceError
from prune_bert.plan import PlanError
from prune_bert.tasks import LabelWarning, TaskError, align_labels, as_task_data
from prune_bert.training import TrainSettings

NAMES = ("negative", "positive")
TEXTS = [" ".join(WORDS[start : start + 3 + start % 7]) for start in range(40)]
IDS = [(i * i // 3) % 2 for i in range(40)]
SHORT = {"max_seq_length": 32}
QUICK = RecoverSettings(
    method="fine_tuning", training=TrainSettings(max_steps=2, per_device_train_batch_size=8, max_seq_length=32)
)


def rows(labels=IDS, text="text", label="label"):
    return [{text: words, label: one} for words, one in zip(TEXTS, labels, strict=True)]


def named(ids=IDS):
    return [NAMES[i] for i in ids]


def class_labels(names):
    """A dataset whose ids are in the order of `names`."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(names))})
    return datasets.Dataset.from_dict({"text": TEXTS, "label": [names.index(one) for one in named()]}, features)


@pytest.fixture(scope="module")
def from_file(tmp_path_factory):
    """The same rows from a file, as the command line reads them."""
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    path.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows(named())))
    return load_task(validation_file=path, text_columns=["text"], label_column="label")["validation"]


def same_weights(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# plans as text


def test_bypass_and_drop_read_text(tiny_bert, tiny_tokenizer):
    batch = tiny_tokenizer(TEXTS[:4], padding=True, return_tensors="pt")
    text = "layer:1 ffn:3"
    with torch.no_grad():
        with bypass(tiny_bert, text) as model:
            found = model(**batch).logits
        with bypass(tiny_bert, PruningPlan.parse(text)) as model:
            assert torch.equal(found, model(**batch).logits)
        assert torch.equal(drop(tiny_bert, text)(**batch).logits, found)
    assert tiny_bert.config.prune_bert["plan"] == text


def test_evaluate_plans_reads_text(tiny_bert, tiny_tokenizer, from_file):
    plans = ["", "ffn:3", "layer:1-2", "attention:0 norm=skip"]
    found = evaluate_plans(tiny_bert, plans, from_file, tiny_tokenizer, **SHORT)
    parsed = evaluate_plans(tiny_bert, [PruningPlan.parse(text) for text in plans], from_file, tiny_tokenizer, **SHORT)
    mixed = evaluate_plans(tiny_bert, [plans[1], PruningPlan.parse(plans[2])], from_file, tiny_tokenizer, **SHORT)
    assert all(np.array_equal(a.logits, b.logits) for a, b in zip(found, parsed, strict=True))
    assert all(np.array_equal(a.logits, b.logits) for a, b in zip(found[1:3], mixed, strict=True))


def test_compensate_and_its_measure_read_text(tiny_bert, tiny_tokenizer, from_file):
    encoded = encode(tiny_tokenizer, from_file, 32)
    fitted = compensate(tiny_bert, "ffn:2,3", encoded)
    parsed = compensate(tiny_bert, PruningPlan.parse("ffn:2,3"), encoded)
    assert fitted.plan == parsed.plan
    assert all(same_weights(fitted[site].correction, parsed[site].correction) for site in fitted)
    assert set(measure_sites(tiny_bert, "ffn:2,3", fitted, sequence_length=8, rounds=1)) == set(fitted)


def test_recover_reads_text(tiny_bert, tiny_tokenizer, from_file):
    settings = RecoverSettings(method="fine_tuning", schedule="gradual", training=QUICK.training)
    ours, theirs = tiny_bert, copy.deepcopy(tiny_bert)
    recover(ours, from_file, tiny_tokenizer, settings, plan="ffn:3 attention:1")
    recover(theirs, from_file, tiny_tokenizer, settings, plan=PruningPlan.parse("ffn:3 attention:1"))
    assert same_weights(ours, theirs)


def test_profile_model_takes_a_bypass_as_it_is(tiny_bert):
    variants = {"baseline": tiny_bert, "pruned": bypass(tiny_bert, "layer:1-3")}
    points = profile_model(variants, batch_sizes=[1], sequence_lengths=[8], rounds=2, n_resamples=20)
    assert [point.variant for point in points] == ["baseline", "pruned"]


@pytest.mark.parametrize(
    "use",
    [
        lambda model, plan: bypass(model, plan),
        lambda model, plan: drop(model, plan),
        lambda model, plan: compensate(model, plan, rows()),
        lambda model, plan: evaluate_plans(model, [plan], rows(named())),
        lambda model, plan: recover(model, rows(named()), None, QUICK, plan=plan),
    ],
    ids=["bypass", "drop", "compensate", "evaluate_plans", "recover"],
)
@pytest.mark.parametrize(
    ("plan", "says"), [("fnn:3", "unknown component 'fnn'.*did you mean 'ffn'"), (3, "a plan is text, not int 3")]
)
def test_what_is_no_plan_is_refused_with_the_error_of_a_plan(use, plan, says, tiny_bert):
    before = copy.deepcopy(tiny_bert)
    with pytest.raises(PlanError, match=says):
        use(tiny_bert, plan)
    assert same_weights(tiny_bert, before)


@pytest.mark.parametrize("plan", ["ffn:3", PruningPlan.parse("ffn:3")])
def test_one_plan_in_the_place_of_several_is_refused(plan, tiny_bert, from_file):
    with pytest.raises(PlanError, match=r"several plans are expected.*\['ffn:3'\]"):
        evaluate_plans(tiny_bert, plan, from_file)


# rows as they are


@pytest.mark.parametrize(
    "data",
    [
        rows(named()),
        tuple(rows(named())),
        rows(named(), "sentence", "labels"),
        datasets.Dataset.from_list(rows(named())),
        datasets.Dataset.from_list(rows(named())).with_format("numpy"),
        class_labels(NAMES),
        class_labels(NAMES).with_format("torch"),
    ],
    ids=["list", "tuple", "other names", "dataset", "numpy", "class labels", "torch"],
)
def test_rows_score_as_the_file_does(data, tiny_bert, tiny_tokenizer, from_file):
    expected = evaluate(tiny_bert, from_file, tiny_tokenizer, **SHORT)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LabelWarning)  # nothing was mapped or assumed
        score = evaluate(tiny_bert, data, tiny_tokenizer, **SHORT)
        (again,) = evaluate_plans(tiny_bert, [""], data, tiny_tokenizer, **SHORT)
    assert np.array_equal(score.logits, expected.logits)
    assert np.array_equal(again.logits, expected.logits)
    assert np.array_equal(score.references, expected.references)
    assert np.array_equal(again.references, expected.references)


def test_class_names_in_another_order_are_mapped_and_the_caller_is_told(tiny_bert, tiny_tokenizer, from_file):
    expected = evaluate(tiny_bert, from_file, tiny_tokenizer, **SHORT)
    with pytest.warns(LabelWarning, match="relabelled to the model's order: positive 0 -> 1, negative 1 -> 0") as told:
        score = evaluate(tiny_bert, class_labels(NAMES[::-1]), tiny_tokenizer, **SHORT)
    assert np.array_equal(score.references, expected.references)
    assert told[0].filename == __file__


def test_numbers_are_read_in_the_models_order_and_the_caller_is_told(tiny_bert, tiny_tokenizer, from_file):
    with pytest.warns(LabelWarning, match="read in the model's order: 0 negative, 1 positive"):
        score = evaluate(tiny_bert, rows(), tiny_tokenizer, **SHORT)
    assert score.references.tolist() == IDS


@pytest.mark.parametrize("labels", [[("bad", "good")[i] for i in IDS], [0.5 * i for i in IDS], [i * 2 for i in IDS]])
def test_labels_that_are_not_the_models_are_refused_as_of_a_file(labels, tiny_bert, tiny_tokenizer, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows(labels)))
    file = load_task(validation_file=path, text_columns=["text"], label_column="label")["validation"]
    with pytest.raises(TaskError) as of_file:
        align_labels(file, tiny_bert.config.id2label)
    with pytest.raises(TaskError) as of_rows:
        evaluate(tiny_bert, rows(labels), tiny_tokenizer, **SHORT)
    assert str(of_rows.value).replace("'data'", "'rows'") == str(of_file.value)


def test_numbers_are_the_labels_of_a_regression(tiny_tokenizer):
    model = make_tiny_bert(num_labels=1, id2label={0: "LABEL_0"}, label2id={"LABEL_0": 0}, problem_type="regression")
    score = evaluate(model, rows([i + 0.5 for i in IDS]), tiny_tokenizer, **SHORT)
    assert list(score.metrics) == ["pearson", "spearmanr"]
    assert score.references.tolist() == [i + 0.5 for i in IDS]


def test_recover_learns_from_rows_as_from_the_file(tiny_bert, tiny_tokenizer, from_file):
    theirs = copy.deepcopy(tiny_bert)
    recover(theirs, from_file, tiny_tokenizer, QUICK)
    with pytest.warns(LabelWarning):
        recover(tiny_bert, class_labels(NAMES[::-1]), tiny_tokenizer, QUICK)
    assert same_weights(tiny_bert, theirs)


def test_where_no_label_is_read_none_is_needed(tiny_bert, tiny_tokenizer, from_file):
    bare = [{"text": text} for text in TEXTS]
    fitted = compensate(tiny_bert, "ffn:3", bare, tiny_tokenizer, **SHORT)
    expected = compensate(tiny_bert, "ffn:3", from_file, tiny_tokenizer, **SHORT)
    assert same_weights(fitted[Site(3, "ffn")].correction, expected[Site(3, "ffn")].correction)
    scores = score_sites(tiny_bert, bare, tiny_tokenizer, **SHORT)
    assert scores.values == score_sites(tiny_bert, from_file, tiny_tokenizer, **SHORT).values
    teacher = copy.deepcopy(tiny_bert)
    settings = RecoverSettings(label_weight=0, training=QUICK.training)
    result = recover(drop(tiny_bert, "ffn:3"), bare, tiny_tokenizer, settings, teacher=teacher)
    assert result.train_samples + result.selection_samples == len(bare)


def test_unusable_labels_do_not_matter_where_none_is_read(tiny_bert, tiny_tokenizer):
    names = datasets.ClassLabel(names=list(NAMES))
    hidden = datasets.Dataset.from_list(rows([-1] * 40)).cast_column("label", names)  # as in GLUE's test splits
    assert compensate(tiny_bert, "ffn:3", hidden, tiny_tokenizer, **SHORT)
    assert score_sites(tiny_bert, hidden, tiny_tokenizer, **SHORT).n == 40
    with pytest.raises(TaskError, match="40 of 40 labels are missing"):
        evaluate(tiny_bert, hidden, tiny_tokenizer, **SHORT)


def test_a_scorer_with_a_loss_reads_the_labels(tiny_bert, tiny_tokenizer, from_file):
    scores = score_sites(tiny_bert, rows(named()), tiny_tokenizer, scorer="taylor", **SHORT)
    expected = score_sites(tiny_bert, from_file, tiny_tokenizer, scorer="taylor", **SHORT)
    assert scores.values == expected.values
    bare = [{"text": text} for text in TEXTS]
    with pytest.raises(TaskError, match="give label_column"):
        score_sites(tiny_bert, bare, tiny_tokenizer, scorer="taylor", **SHORT)
    unlabelled = as_task_data(bare, labelled=False)
    with pytest.raises(ImportanceError, match="needs labels"):
        score_sites(tiny_bert, unlabelled, tiny_tokenizer, scorer="taylor", **SHORT)


# columns


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ("sentence label idx", ("sentence",)),
        ("text labels", ("text",)),
        ("idx sentence1 sentence2 label", ("sentence1", "sentence2")),
        ("premise hypothesis label", ("premise", "hypothesis")),
        ("question1 question2 label", ("question1", "question2")),
        ("question sentence label", ("question", "sentence")),
        ("question context title label", ("question", "context")),
        ("text text_pair label", ("text", "text_pair")),
    ],
)
def test_usual_names_are_found(columns, found):
    labels = ("label", "labels")
    data = [{name: i % 2 if name in (*labels, "idx") else f"{name} {i}" for name in columns.split()} for i in range(4)]
    task = as_task_data(data)
    assert task.spec.text_columns == found
    assert task.dataset[found[0]][:] == [f"{found[0]} {i}" for i in range(4)]
    assert task.dataset["label"][:] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ("review label", r"give text_columns; the columns of .* are 'review', 'label'; perhaps text_columns review"),
        ("text score", r"give label_column; the columns of .* are 'text', 'score'"),
        ("text sentence label", r"text_columns could be sentence or text; give text_columns"),
        ("text premise hypothesis label", r"could be premise\+hypothesis or text; give text_columns"),
        ("text label labels", r"label_column could be label or labels; give label_column"),
    ],
)
def test_what_cannot_be_told_is_asked_for(columns, says):
    data = [{name: i % 2 if name.startswith("label") else name for name in columns.split()} for i in range(4)]
    for form in (data, datasets.Dataset.from_list(data)):
        with pytest.raises(TaskError, match=says) as caught:
            as_task_data(form)
        assert "\n" not in str(caught.value)


def test_named_columns_win(tiny_bert, tiny_tokenizer, from_file):
    data = [{"text": "no", "label": 7, "review": row["text"], "mood": row["label"]} for row in rows(named())]
    columns = {"text_columns": "review", "label_column": "mood"}
    expected = evaluate(tiny_bert, from_file, tiny_tokenizer, **SHORT)
    for form in (columns, columns | {"text_columns": ["review"]}):
        score = evaluate(tiny_bert, data, tiny_tokenizer, **form, **SHORT)
        assert np.array_equal(score.logits, expected.logits)
        assert np.array_equal(score.references, expected.references)
    with pytest.raises(TaskError, match=r"no column 'rewiev', did you mean 'review'\?; its columns are 'text'"):
        evaluate(tiny_bert, data, tiny_tokenizer, text_columns="rewiev", **SHORT)


def test_column_names_beside_a_task_are_refused(tiny_bert, tiny_tokenizer, from_file):
    for data in (from_file, encode(tiny_tokenizer, from_file, 32)):
        with pytest.raises(TaskError, match="is a task already"):
            evaluate(tiny_bert, data, tiny_tokenizer, text_columns="text", max_seq_length=32)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (datasets.DatasetDict(train=datasets.Dataset.from_list(rows())), r"several splits \(train\); give one"),
        ({"text": TEXTS, "label": IDS}, "data of type dict cannot be used; give a datasets.Dataset, a list of dicts"),
        ("rows.csv", "data of type str cannot be used"),
        (np.zeros(3), "data of type ndarray cannot be used"),
        (iter(rows()), "cannot be used"),
        (TEXTS, "row 1 of the list is a str, not a dict"),
        ([], "the list of rows is empty"),
        (datasets.Dataset.from_dict({"text": [], "label": []}), "holds no examples"),
        ([*rows(), {"text": "no label"}], "1 of 41 labels are missing .* first in data row 41"),
        ([*rows(), {"label": 1}], "text column 'text' has no value in 1 of 41 rows, first in data row 41"),
        ([{"text": "a", "label": [1]}], "label .* is a list"),
    ],
)
def test_other_data_are_refused_in_one_line(data, says, tiny_bert, tiny_tokenizer):
    with pytest.raises(TaskError, match=says) as caught:
        evaluate(tiny_bert, data, tiny_tokenizer, **SHORT)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_label_names_say_what_numbers_mean(tiny_bert, tiny_tokenizer, from_file):
    task = as_task_data(rows([1 - i for i in IDS]), labels=NAMES[::-1])
    aligned, note = align_labels(task, tiny_bert.config.id2label)
    assert "positive 0 -> 1" in note
    assert aligned.dataset["label"][:] == IDS
    few = as_task_data(rows()[:1], labels=NAMES)  # a single row holds a single class
    assert evaluate(tiny_bert, few, tiny_tokenizer, **SHORT).n == 1


def test_a_selection_of_a_dataset_keeps_its_own_rows_and_split(tiny_bert, tiny_tokenizer):
    data = datasets.Dataset.from_list(rows(named()), split="train").select([5, 3, 8])
    task = as_task_data(data)
    assert task.dataset["text"][:] == [TEXTS[5], TEXTS[3], TEXTS[8]]
    assert task.split == "train"
    assert as_task_data(data, split="held out").split == "held out"
