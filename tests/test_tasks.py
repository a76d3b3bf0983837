"""The task table, every source of data, the order of labels, and what bad input gets."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import datasets
import numpy as np
import pandas as pd
import pytest

from prune_bert.errors import UserError
from prune_bert.tasks import GLUE_TASKS, METRICS, TaskError, align_labels, find_task, load_task
from prune_bert.tasks.labels import infer_labels

# One folder for each task in the official layout: (folder, file, lines). The sentences are ours.
OFFICIAL = {
    "cola": ("CoLA", {"dev.tsv": ["x01\t1\t\tThe cat slept.", 'x02\t0\t*\tCat "the slept.']}),
    "sst2": ("SST-2", {"dev.tsv": ["sentence\tlabel", 'a " warm evening \t1', "dull all through \t0"]}),
    "mrpc": (
        "MRPC",
        {
            "dev.tsv": [
                "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
                '1\t11\t12\tHe said "yes.\tHe agreed.',
                "0\t13\t14\tRain fell.\tSnow fell.",
            ]
        },
    ),
    "stsb": (
        "STS-B",
        {
            "dev.tsv": [
                "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
                "0\tmain\tf\t2012\t1\tnone\tnone\tA man runs.\tA man is running.\t4.750",
                "1\tmain\tf\t2012\t2\tnone\tnone\tA dog eats.\tA plane lands.\t0.2",
            ]
        },
    ),
    "qqp": (
        "QQP",
        {
            "dev.tsv": ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"]
            + [f"{i}\t{i}1\t{i}2\tWhy is it {i}?\tWhat makes it {i}?\t{i % 2}" for i in range(200)]
            + ["999\t1\t2\tHow does"]
        },
    ),
    "mnli": (
        "MNLI",
        {
            "dev_matched.tsv": [
                "index\tpromptID\tsentence1\tsentence2\tlabel1\tgold_label",
                "0\t1\tIt rained.\tIt was wet.\tentailment\tentailment",
                "1\t2\tIt rained.\tIt was dry.\tneutral\tcontradiction",
                "2\t3\tIt rained.\tWe stayed in.\tneutral\tneutral",
                "3\t4\tIt rained.\tIt poured.\tneutral\t-",
            ],
            "dev_mismatched.tsv": [
                "index\tpromptID\tsentence1\tsentence2\tlabel1\tgold_label",
                "0\t1\tIt snowed.\tIt was cold.\tentailment\tentailment",
            ],
        },
    ),
    "qnli": (
        "QNLI",
        {
            "dev.tsv": [
                "index\tquestion\tsentence\tlabel",
                "0\tWho came?\tAnn came.\tentailment",
                "1\tWho left?\tIt rained.\tnot_entailment",
            ]
        },
    ),
    "rte": (
        "RTE",
        {
            "dev.tsv": [
                "index\tsentence1\tsentence2\tlabel",
                "0\tAnn came.\tSomeone came.\tentailment",
                "1\tAnn came.\tNobody came.\tnot_entailment",
            ]
        },
    ),
    "wnli": (
        "WNLI",
        {
            "dev.tsv": [
                "index\tsentence1\tsentence2\tlabel",
                "0\tThe cup fell as it was wet.\tThe cup was wet.\t1",
                "1\tThe cup fell as it was wet.\tThe floor was wet.\t0",
            ]
        },
    ),
}
EXPECTED_LABELS = {
    "cola": [1, 0],
    "sst2": [1, 0],
    "mrpc": [1, 0],
    "stsb": [4.75, np.float32(0.2)],
    "qqp": [i % 2 for i in range(200)],
    "mnli": [0, 2, 1],
    "qnli": [0, 1],
    "rte": [0, 1],
    "wnli": [1, 0],
}


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    root = tmp_path_factory.mktemp("glue")
    for folder, contents in OFFICIAL.values():
        (root / folder).mkdir()
        for name, lines in contents.items():
            (root / folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def fails(pattern, *args, **options):
    """Expect a TaskError of one line that matches, and give the message."""
    with pytest.raises(TaskError, match=pattern) as caught:
        load_task(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The table


def test_table_has_the_nine_tasks_and_the_embedded_one():
    assert set(GLUE_TASKS) == {*OFFICIAL, "reviews"}
    for name, spec in GLUE_TASKS.items():
        assert spec.name == name
        assert set(spec.metrics) <= set(METRICS)
        assert spec.regression == (name == "stsb") == (not spec.labels)
    assert GLUE_TASKS["cola"].metrics == ("matthews_correlation",)
    assert GLUE_TASKS["mrpc"].metrics == GLUE_TASKS["qqp"].metrics == ("accuracy", "f1")
    assert GLUE_TASKS["stsb"].metrics == ("pearson", "spearmanr")
    assert GLUE_TASKS["mnli"].splits == ("train", "validation", "validation_mismatched")


def test_task_names_are_found_however_they_are_written():
    assert find_task("SST-2") is find_task("sst2") is find_task("sst_2") is GLUE_TASKS["sst2"]
    message = fails("unknown task 'mrcp', did you mean 'mrpc'\\?", "mrcp")
    assert "cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli, reviews" in message
    assert issubclass(TaskError, UserError)


# GLUE's official layout


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_layout_of_each_task(glue, name):
    spec = GLUE_TASKS[name]
    for data_dir in (glue, glue / OFFICIAL[name][0]):
        data = load_task(name, data_dir=data_dir)["validation"]
        assert data.spec == spec
        assert data.split == "validation"
        assert data.dataset.column_names == [*spec.text_columns, "label", "idx"]
        assert data.dataset["label"][:] == EXPECTED_LABELS[name]
        assert data.dataset["idx"][:] == list(range(len(data.dataset)))
        assert data.dataset.features["label"].dtype == ("float32" if spec.regression else "int64")
        assert OFFICIAL[name][0] in data.source


def test_quotes_and_spaces_of_a_sentence_stay(glue):
    assert load_task("cola", data_dir=glue)["validation"].dataset["sentence"][1] == 'Cat "the slept.'
    assert load_task("sst2", data_dir=glue)["validation"].dataset["sentence"][0] == 'a " warm evening '


def test_mnli_has_two_validation_splits_and_leaves_undecided_rows_out(glue):
    both = load_task("mnli", data_dir=glue, splits=("validation", "validation_mismatched"))
    assert [len(data.dataset) for data in both.values()] == [3, 1]
    assert both["validation_mismatched"].dataset["premise"][:] == ["It snowed."]
    assert "1 rows without a gold label left out" in both["validation"].source


def test_qqps_own_broken_lines_are_left_out_and_said_but_not_many(glue, tmp_path):
    assert "1 broken lines left out" in load_task("qqp", data_dir=glue)["validation"].source
    write(tmp_path / "dev.tsv", "\n".join([*OFFICIAL["qqp"][1]["dev.tsv"][:3], "1\t2"]))
    fails("1 of 3 lines do not have the header's 6 fields", "qqp", data_dir=tmp_path)


def mrpc_folder(folder, train_rows=6, test_rows=2):
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    for name, rows in (("train", train_rows), ("test", test_rows)):
        lines = "".join(f'{i % 2}\t{name}{i}\tb{i}\tOne "{name} {i}\tTwo {i}\r\n' for i in range(rows))
        (folder / f"msr_paraphrase_{name}.txt").write_bytes((header + lines).encode())
    return folder


def first_sentences(data):
    return [text.split('"')[1] for text in data.dataset["sentence1"][:]]


def test_mrpcs_original_files_with_the_test_file_as_validation(tmp_path):
    splits = load_task("mrpc", data_dir=mrpc_folder(tmp_path), splits=("train", "validation"))
    assert len(splits["train"].dataset) == 6
    assert first_sentences(splits["validation"]) == ["test 0", "test 1"]
    assert splits["validation"].dataset["sentence2"][:] == ["Two 0", "Two 1"]
    assert "original test file" in splits["validation"].source


def test_mrpcs_official_validation_rows_are_those_of_dev_ids_and_no_training_rows(tmp_path):
    write(mrpc_folder(tmp_path) / "dev_ids.tsv", "train1\tb1\ntrain4\tb4\n")
    splits = load_task("mrpc", data_dir=tmp_path, splits=("train", "validation"))
    assert first_sentences(splits["validation"]) == ["train 1", "train 4"]
    assert first_sentences(splits["train"]) == ["train 0", "train 2", "train 3", "train 5"]
    assert "dev_ids.tsv" in splits["train"].source
    assert "dev_ids.tsv" in splits["validation"].source


def test_mrpcs_dev_file_keeps_its_rows_out_of_training(tmp_path):
    mrpc_folder(tmp_path)
    write(tmp_path / "dev.tsv", 'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\ttrain2\tb2\tOne "train 2\tTwo')
    splits = load_task("mrpc", data_dir=tmp_path, splits=("train", "validation"))
    assert first_sentences(splits["validation"]) == ["train 2"]
    assert "train 2" not in first_sentences(splits["train"])


def test_only_a_line_feed_ends_a_line(tmp_path):
    text = "one\u2028two\x85three\x0bfour"
    (tmp_path / "dev.tsv").write_bytes(f"sentence\tlabel\r\n{text}\t1\r\n\r\n".encode())
    assert load_task("sst2", data_dir=tmp_path)["validation"].dataset["sentence"][:] == [text]


def test_real_glue_files_give_the_known_counts(shared_dir):
    sizes = {("sst2", "validation"): 872, ("cola", "validation"): 1043, ("mrpc", "train"): 4076}
    sizes |= {("cola", "train"): 8551, ("sst2", "train"): 67349, ("mrpc", "validation"): 1725}
    shares = {"cola": 0.69, "sst2": 0.509, "mrpc": 0.665}
    for (name, split), size in sizes.items():
        data = load_task(name, data_dir=shared_dir / "glue", splits=(split,))[split]
        assert abs(len(data.dataset) - size) <= 1  # a last line may lack its line feed
        if split == "validation":
            assert np.mean(data.dataset["label"][:]) == pytest.approx(shares[name], abs=0.005)


def test_official_layout_says_what_is_missing(glue, tmp_path):
    fails(r"does not exist", "sst2", data_dir=tmp_path / "nowhere")
    fails(r"looked for train.tsv or dev.tsv, in it or in its folder RTE; it holds nothing", "rte", data_dir=tmp_path)
    fails(
        r"no train split: .*train.tsv does not exist; the folder holds dev.tsv", "rte", data_dir=glue, splits=["train"]
    )
    fails(r"no train split of MRPC in .*looked for train.tsv, msr_par", "mrpc", data_dir=glue, splits=["train"])
    fails(r"is a file; pass it as validation_file", "rte", data_dir=glue / "RTE" / "dev.tsv")
    fails(r"dev.tsv:1: 2 tab-separated fields where 4 were expected", "cola", data_dir=glue / "SST-2")
    fails(r"no column 'sentence'.*its columns are 'x01', '1'", "sst2", data_dir=glue / "CoLA")
    fails(r"no split 'test' in sst2; GLUE's test split has no labels", "sst2", data_dir=glue, splits=["test"])
    fails(r"no split 'validaton' in sst2, did you mean 'validation'\?", "sst2", data_dir=glue, splits=["validaton"])


def test_broken_lines_are_named_by_file_and_line(tmp_path):
    write(tmp_path / "dev.tsv", "sentence\tlabel\nfine\t1\nno label\n")
    fails(r"dev.tsv:3: 1 tab-separated fields where 2 were expected \(sentence, label\)", "sst2", data_dir=tmp_path)
    (tmp_path / "dev.tsv").write_bytes(b"sentence\tlabel\nfine\t1\ncaf\xe9\t0\n")
    fails(r"dev.tsv:3: not UTF-8", "sst2", data_dir=tmp_path)
    write(tmp_path / "dev.tsv", "sentence\tlabel\n")
    fails("holds no examples", "sst2", data_dir=tmp_path)
    write(tmp_path / "dev.tsv", "")
    fails("no column 'sentence'.*its columns are none", "sst2", data_dir=tmp_path)


# The embedded set and the hub


def test_embedded_reviews_need_no_folder():
    splits = load_task("reviews", splits=("train", "validation"))
    assert splits["validation"].source == "embedded reviews (dev.tsv)"
    for data in splits.values():
        assert data.dataset.column_names == ["sentence", "label", "idx"]
        assert set(data.dataset["label"][:]) == {0, 1}


def test_hub_out_of_reach_is_one_line_with_the_way_out(tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    message = fails(r"cannot load nyu-mll/glue \(mnli, validation_matched\) from the hub", "mnli")
    assert "data_dir" in message
    assert "validation_file" in message
    assert not caplog.records
    assert capfd.readouterr().err == ""


def test_hub_splits_are_read_with_their_names(monkeypatch):
    asked = []

    def load_dataset(*args, **options):
        asked.append((*args, options["split"]))
        features = datasets.Features(
            premise=datasets.Value("string"),
            hypothesis=datasets.Value("string"),
            label=datasets.ClassLabel(names=["entailment", "neutral", "contradiction"]),
            idx=datasets.Value("int32"),
        )
        rows = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [2, 0], "idx": [5, 6]}
        return datasets.Dataset.from_dict(rows, features=features)

    monkeypatch.setattr("prune_bert.tasks.hub._require_reachable", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = load_task("mnli", splits=("validation", "validation_mismatched"))["validation"]
    assert asked == [("nyu-mll/glue", "mnli", name) for name in ("validation_matched", "validation_mismatched")]
    assert data.dataset["label"][:] == [2, 0]
    assert data.dataset["idx"][:] == [0, 1]
    assert data.source == "nyu-mll/glue (mnli, validation_matched)"


# Folders saved by datasets


def saved(path, labels, **columns):
    features = datasets.Features(sentence=datasets.Value("string"), label=labels[1])
    rows = {"sentence": [f"text {i}" for i in range(len(labels[0]))], "label": labels[0]}
    splits = {name: datasets.Dataset.from_dict(rows, features=features) for name in ("train", "validation")}
    datasets.DatasetDict(splits).save_to_disk(str(path))
    return path


def test_saved_folder_with_a_dictionary_of_splits(tmp_path):
    folder = saved(tmp_path / "saved", ([1, 0, 1], datasets.ClassLabel(names=["Negative", "Positive"])))
    splits = load_task("sst2", data_dir=folder, splits=("train", "validation"))
    assert splits["train"].dataset["label"][:] == [1, 0, 1]
    saved(tmp_path / "SST-2", ([0, 0], datasets.Value("int64")))
    assert load_task("sst2", data_dir=tmp_path)["validation"].dataset["label"][:] == [0, 0]


def test_saved_class_names_in_another_order_are_mapped_by_name(tmp_path):
    folder = saved(tmp_path / "saved", ([0, 1, 1], datasets.ClassLabel(names=["positive", "negative"])))
    assert load_task("sst2", data_dir=folder)["validation"].dataset["label"][:] == [1, 0, 0]
    own = load_task(data_dir=folder, text_columns=["sentence"], label_column="label")["validation"]
    assert own.spec.labels == ("positive", "negative")  # their own order, where there is no other
    assert own.dataset["label"][:] == [0, 1, 1]


def test_saved_single_dataset_is_the_validation_split(tmp_path):
    rows = datasets.Dataset.from_dict({"sentence": ["a"], "label": [1]})
    rows.save_to_disk(str(tmp_path / "one"))
    assert load_task("sst2", data_dir=tmp_path / "one")["validation"].dataset["label"][:] == [1]
    fails("has no train split; it holds validation", "sst2", data_dir=tmp_path / "one", splits=["train"])


def test_saved_folder_that_is_damaged_or_unlabelled(tmp_path):
    folder = saved(tmp_path / "saved", ([-1, -1], datasets.ClassLabel(names=["negative", "positive"])))
    fails("2 of 2 labels are missing .*first in data row 1; .*GLUE's test split", "sst2", data_dir=folder)
    (folder / "validation" / "state.json").write_text("{")
    fails("cannot read the saved dataset", "sst2", data_dir=folder)
    fails("was not saved by datasets", data_dir=tmp_path, text_columns=["a"], label_column="b")


# Files of the user's own


def own(path, text_columns=("text",), label_column="label", **options):
    return load_task(validation_file=path, text_columns=text_columns, label_column=label_column, **options)[
        "validation"
    ]


ROWS = [('said "no", twice', "bad"), ("two\nlines", "good"), ("", "bad")]


def test_every_kind_of_file_gives_the_same_task(tmp_path):
    frame = pd.DataFrame(ROWS, columns=["text", "label"])
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_json(tmp_path / "b.jsonl", orient="records", lines=True)
    frame.to_json(tmp_path / "c.json", orient="records")
    frame.to_parquet(tmp_path / "d.parquet")
    frame.astype({"label": "category"}).to_parquet(tmp_path / "e.parquet")
    for path in sorted(tmp_path.iterdir()):
        data = own(path)
        assert data.spec.name == path.stem
        assert data.spec.labels == ("bad", "good")
        assert data.spec.metrics == ("accuracy", "matthews_correlation")
        assert data.dataset["text"][:] == [text for text, _ in ROWS]  # a blank text is a text
        assert data.dataset["label"][:] == [0, 1, 0]


def test_tsv_file_has_no_quoting(tmp_path):
    path = write(tmp_path / "rows.tsv", 'label\ttext\n1\tan "open quote\n0\tplain\n')
    assert own(path).dataset["text"][:] == ['an "open quote', "plain"]


def test_parquet_written_by_datasets_keeps_its_class_names(tmp_path):
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["z", "a"]))
    rows = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [0, 1]}, features=features)
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    assert own(tmp_path / "rows.parquet").spec.labels == ("z", "a")


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 2, 1], ("0", "1", "2")),
        (["0", "2", ""], ("0", "1", "2")),
        ([True, False], ("0", "1")),
        ([0.5, 1.0], ()),
        (["0.5", "1"], ()),
        (["b", "a", None], ("a", "b")),
        (["1", "a"], ("1", "a")),
    ],
)
def test_labels_are_inferred(values, labels):
    assert infer_labels(values) == labels


def test_a_column_of_ids_is_no_column_of_labels():
    with pytest.raises(TaskError, match="the labels go up to 123456789, which looks like a column of ids"):
        infer_labels([3, 123456789])


def test_label_names_are_the_same_for_all_splits(tmp_path):
    train = write(tmp_path / "train.csv", "text,label\na,no\nb,perhaps\nc,yes\n")
    dev = write(tmp_path / "dev.csv", "text,label\na,no\nb,yes\n")
    splits = load_task(
        train_file=train,
        validation_file=dev,
        text_columns=["text"],
        label_column="label",
        splits=("train", "validation"),
    )
    assert splits["validation"].spec.labels == ("no", "perhaps", "yes")
    assert splits["validation"].dataset["label"][:] == [0, 2]


def test_float_labels_and_an_empty_list_of_names_mean_regression(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\na,0.5\nb,3\n")
    data = own(path)
    assert data.spec.regression
    assert data.spec.metrics == ("pearson", "spearmanr")
    assert data.dataset["label"][:] == [0.5, 3.0]
    whole = write(tmp_path / "b.csv", "text,label\na,1\nb,3\n")
    assert not own(whole).spec.regression
    assert own(whole, labels=[]).dataset["label"][:] == [1.0, 3.0]


def test_label_names_given_set_the_order(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\na,good\nb,bad\n")
    assert own(path, labels=["good", "bad"]).dataset["label"][:] == [0, 1]
    assert own(path, labels=["bad", "so so", "good"]).dataset["label"][:] == [2, 0]
    numbered = write(tmp_path / "b.csv", "text,label\na,1\nb,0\n")
    assert own(numbered, labels=["bad", "good"]).spec.labels == ("bad", "good")
    assert own(numbered, labels=["bad", "good"]).dataset["label"][:] == [1, 0]
    fails("names 'Good' and 'good' are the same", validation_file=path, text_columns=["text"], label_column="label",
          labels=["Good", "good"])  # fmt: skip


def test_files_for_a_task_of_the_table(tmp_path):
    path = write(tmp_path / "a.csv", "sentence,label,review\nfine,Positive,x\npoor,0.0,y\n")
    data = load_task("sst2", validation_file=path)["validation"]
    assert data.dataset["label"][:] == [1, 0]
    renamed = load_task("sst2", validation_file=path, text_columns=["review"])["validation"]
    assert renamed.dataset.column_names == ["review", "label", "idx"]
    flipped = load_task("sst2", validation_file=path, labels=["positive", "negative"])["validation"]
    assert flipped.spec.labels == ("positive", "negative")
    assert flipped.dataset["label"][:] == [0, 1]  # by name, and numbers as the table numbers them
    other = load_task("sst2", validation_file=path, labels=["bad", "good"])["validation"]
    assert other.spec.labels == ("bad", "good")
    assert other.dataset["label"][:] == [1, 0]


def test_pairs_of_the_users_own(tmp_path):
    path = write(tmp_path / "a.csv", "left,right,same\na,b,1\nc,d,0\n")
    data = own(path, text_columns=("left", "right"), label_column="same")
    assert data.dataset.column_names == ["left", "right", "label", "idx"]


def test_max_samples_are_spread_over_the_data_and_said(tmp_path):
    lines = "".join(f"text {i},{i // 50}\n" for i in range(100))
    path = write(tmp_path / "a.csv", "text,label\n" + lines)
    data = own(path, max_samples={"validation": 10})
    assert len(data.dataset) == 10
    assert sum(data.dataset["label"][:]) == 5
    assert data.dataset["idx"][:] == list(range(10))
    assert data.source.endswith("(10 of 100 rows, evenly spaced)")
    assert len(own(path, max_samples={"validation": 1000}).dataset) == 100
    assert len(own(path, max_samples={"validation": 1}).dataset) == 1
    with pytest.raises(TaskError, match="max_samples for validation is 0; at least 1"):
        own(path, max_samples={"validation": 0})


BAD_FILES = {
    "a.csv": ("text,label\na,0\nb\n", r"a.csv:3: 1 fields where 2 were expected \(text, label\)"),
    "b.csv": ('text,label\n"open,0\n', r"b.csv:\d: not CSV: "),
    "c.csv": ("text,label\n", "holds no examples"),
    "d.csv": ("", "has no column 'text'"),
    "e.csv": ("text,label,text\na,0,b\n", "two columns 'text'"),
    "f.csv": ("texts,label\na,0\n", r"no column 'text', did you mean 'texts'\?; its columns are 'texts', 'label'"),
    "g.csv": ("text,label\na,0\nb,\nc,-1\n", "2 of 3 labels are missing .*first in data row 2"),
    "h.csv": ("text,label\na,nan\nb,1.5\n", r"label 'nan' in data row 1 is not a finite number"),
    "a.jsonl": ('{"text": "a", "label": 0}\n{"text": \n', r"a.jsonl:2: not a JSON object on one line: "),
    "b.jsonl": ('{"text": "a", "label": 0}\n[1]\n', "row 2 is a JSON list, not an object"),
    "c.jsonl": ('{"text": "a", "label": 0}\n{"label": 1}\n', "'text' has no value in 1 of 2 rows, first in data row 2"),
    "d.jsonl": ('{"text": 3, "label": 0}\n', "column 'text' holds 3 in data row 1, which is int, not text"),
    "e.jsonl": ('{"text": "a", "label": [0]}\n', r"label \[0\] in data row 1 is a list"),
    "f.json": ('[{"text": "a",', r"f.json:1: not JSON: "),
    "a.parquet": ("PAR1 not really", "cannot read .*a.parquet as Parquet"),
    "a.xlsx": ("x", r"cannot tell what a '.xlsx' file is; known are .csv, .tsv, .jsonl, .json, .parquet"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_gets_one_line_that_names_it(tmp_path, name):
    content, pattern = BAD_FILES[name]
    path = write(tmp_path / name, content)
    message = fails(pattern, validation_file=path, text_columns=["text"], label_column="label")
    assert name in message


def test_labels_outside_the_tasks_are_refused(tmp_path):
    path = write(tmp_path / "a.csv", "sentence,label\na,1\nb,2\nc,2\n")
    fails(r"label '2' in data row 2 is none of the task's labels, negative, positive, or their numbers 0 to 1 \(2 such",
          "sst2", validation_file=path)  # fmt: skip
    fails("label '1' in data row 1 is none", validation_file=path, text_columns=["sentence"], label_column="label",
          labels=["x"])  # fmt: skip


def test_contradictions_and_gaps_are_said(tmp_path):
    path = write(tmp_path / "good.csv", "review,stars,note\nsome words,1,x\n")
    fails(r"both data_dir .* and validation_file .* are given", "sst2", data_dir=tmp_path, validation_file=path)
    fails("no task: give task_name", splits=["validation"])
    message = fails("need text_columns and label_column", validation_file=path)
    assert "'review', 'stars', 'note'" in message
    labelled = write(tmp_path / "b.csv", "id,body,Label\n7,some words,1\n")
    fails("perhaps text_columns body and label_column Label", validation_file=labelled)
    fails(r"the train split is needed, but only validation_file .* was given; pass train_file too", "sst2",
          validation_file=path, splits=["train"])  # fmt: skip
    fails(r"god.csv does not exist, did you mean 'good.csv'\?", "sst2", validation_file=tmp_path / "god.csv")
    fails(r"is a folder, not a file", "sst2", validation_file=tmp_path)
    fails(r"3 text_columns given \(a, b, c\); expected one or two", validation_file=path, text_columns=list("abc"))
    fails(r"2 text_columns given \(a, b\); expected 1", "sst2", validation_file=path, text_columns=list("ab"))
    fails(r"cannot be called 'label'", validation_file=path, text_columns=["label"])
    fails(r"3 label names given \(a, b, c\), but task sst2 has 2: negative, positive", "sst2", labels=list("abc"),
          validation_file=path)  # fmt: skip
    fails("no split 'test' in your own data", validation_file=path, splits=["test"])


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs file permissions that hold for this user")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "a.csv"
    write(path, "text,label\na,1\n")
    path.chmod(0)
    fails("cannot read .*a.csv: Permission denied", validation_file=path, text_columns=["text"], label_column="label")


# The order of the labels


def task(labels, ids=(0, 1, 1), name="own"):
    spec = replace(GLUE_TASKS["sst2"], name=name, labels=tuple(labels))
    kind = "int64" if labels else "float32"
    features = datasets.Features(
        sentence=datasets.Value("string"), label=datasets.Value(kind), idx=datasets.Value("int64")
    )
    rows = {"sentence": ["x"] * len(ids), "label": list(ids), "idx": list(range(len(ids)))}
    data = load_task("reviews", max_samples={"validation": 1})["validation"]
    return replace(data, spec=spec, dataset=datasets.Dataset.from_dict(rows, features=features))


def test_equal_labels_stay_without_a_note():
    data = task(["negative", "positive"])
    assert align_labels(data, {0: "negative", 1: "positive"}) == (data, None)
    assert align_labels(data, {0: "NEGATIVE", 1: "Positive"}) == (data, None)
    assert align_labels(data, {"0": "negative", "1": "positive"}) == (data, None)


def test_labels_in_another_order_are_mapped_and_said():
    data, note = align_labels(task(["negative", "positive"]), {0: "Positive", 1: "Negative"})
    assert data.spec.labels == ("Positive", "Negative")
    assert data.dataset["label"][:] == [1, 0, 0]
    assert data.dataset["idx"][:] == [0, 1, 2]
    assert "negative 0 -> 1, positive 1 -> 0" in note
    three = task(["entailment", "neutral", "contradiction"], (0, 1, 2))
    mapped, note = align_labels(three, {0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"})
    assert mapped.dataset["label"][:] == [2, 1, 0]
    assert align_labels(mapped, {0: "contradiction", 1: "neutral", 2: "entailment"}) == (mapped, None)
    spelled, note = align_labels(task(["entailment", "not_entailment"]), {0: "Not-Entailment", 1: "Entailment"})
    assert spelled.dataset["label"][:] == [1, 0, 0]


def test_nameless_labels_keep_their_ids_and_it_is_said():
    data = task(["negative", "positive"])
    same, note = align_labels(data, {0: "LABEL_0", 1: "LABEL_1"})
    assert same is data
    assert "does not name its labels" in note
    assert "0 negative, 1 positive" in note
    named, note = align_labels(task(["0", "1"]), {0: "bad", 1: "good"})
    assert named.spec.labels == ("bad", "good")
    assert named.dataset["label"][:] == [0, 1, 1]
    assert "0 bad, 1 good" in note
    assert align_labels(task(["0", "1"]), {0: "LABEL_0", 1: "LABEL_1"})[1] is None


def test_own_data_may_lack_a_class_but_a_glue_task_may_not():
    model = {0: "negative", 1: "neutral", 2: "positive"}
    data, note = align_labels(task(["negative", "positive"]), model)
    assert data.spec.labels == ("negative", "neutral", "positive")
    assert data.dataset["label"][:] == [0, 2, 2]
    assert "no example has the model's neutral" in note
    with pytest.raises(TaskError, match="do not agree"):
        align_labels(task(["negative", "positive"], name="sst2"), model)


@pytest.mark.parametrize(
    ("labels", "model"),
    [
        (["negative", "positive"], ["ham", "spam"]),
        (["negative", "positive"], ["LABEL_0", "LABEL_1", "LABEL_2"]),
        (["0", "1"], ["a", "b", "c"]),
        (["a", "b", "c"], ["a", "b"]),
        (["negative", "positive"], ["positive", "Positive"]),
    ],
)
def test_labels_that_differ_are_refused_with_both_named(labels, model):
    with pytest.raises(TaskError, match="do not agree") as caught:
        align_labels(task(labels), dict(enumerate(model)))
    for name in (*labels, *model):
        assert name in str(caught.value)


def test_regression_and_classification_do_not_mix():
    data = task([], (0.5, 1.0))
    assert align_labels(data, {0: "LABEL_0"}) == (data, None)
    with pytest.raises(TaskError, match="is a regression, but the model has the 2 classes no, yes"):
        align_labels(data, {0: "no", 1: "yes"})
    with pytest.raises(TaskError, match="the model has one output, for regression"):
        align_labels(task(["negative", "positive"]), {0: "LABEL_0"})


def test_messages_stay_on_one_line_whatever_a_file_holds(tmp_path):
    rows = [{"te\nxt": "a", "label": "x\ny"}, {"te\nxt": "b", "label": "z"}]
    path = write(tmp_path / "a.json", json.dumps(rows))
    fails("no column 'text'", validation_file=path, text_columns=["text"], label_column="label")
    data = own(path, text_columns=["te\nxt"])
    with pytest.raises(TaskError) as caught:
        align_labels(data, {0: "a", 1: "b"})
    assert "\n" not in str(caught.value)
