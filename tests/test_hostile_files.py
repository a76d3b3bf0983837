"""Hostile data files, checkpoints and reports: each is one line, exit code 2, quick, and leaves nothing on disk."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hostile import base_flags, refusal, words

DEEP = "[" * 100_000
HUGE = "9" * 5000
ESCAPE = "\x1b[31mred\x1b[0m\x07\u202e"


@pytest.fixture
def root(tmp_path, tiny_checkpoint, data_dir):
    """A directory with all that a run needs."""
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    shutil.copytree(data_dir, tmp_path / "data")
    return tmp_path


def parquet(metadata: dict[str, str], **columns: object) -> pyarrow.Table:
    table = pyarrow.table(columns or {"text": ["a film", "a plot"], "label": [0, 1]})
    return table.replace_schema_metadata(metadata)


def features(**kinds: object) -> dict[str, str]:
    return {"huggingface": json.dumps({"info": {"features": kinds}})}


STRING, CLASSES = {"dtype": "string", "_type": "Value"}, {"names": ["no", "yes"], "_type": "ClassLabel"}
TEXTS = {"text": ["a film", "a plot"]}
DATA = {
    "label of 1e39.csv": "text,label\na film,1.5\na plot,1e39\n",
    "label of nan.csv": "text,label\na film,1.5\na plot,nan\n",
    "label of inf.csv": "text,label\na film,1.5\na plot,inf\n",
    "label of minus inf.jsonl": '{"text": "a", "label": 0.5}\n{"text": "b", "label": -Infinity}\n',
    "label of nan.jsonl": '{"text": "a", "label": 0.5}\n{"text": "b", "label": NaN}\n',
    "label of 1e400.jsonl": '{"text": "a", "label": 0.5}\n{"text": "b", "label": 1e400}\n',
    "label of 400 digits.jsonl": f'{{"text": "a", "label": {HUGE[:400]}}}\n',
    "label of 5000 digits.jsonl": f'{{"text": "a", "label": {HUGE}}}\n',
    "label of 5000 digits.csv": f"text,label\na film,{HUGE}\n",
    "huge id.csv": "text,label\na film,0\na plot,99999999999\n",
    "label of a list.jsonl": '{"text": "a", "label": [1]}\n',
    "label of a mapping.jsonl": '{"text": "a", "label": {"a": 1}}\n',
    "label of escapes.csv": f"text,label\na film,{ESCAPE}\na plot,b\n",
    "labels of escapes.csv": f"text,label\na film,{ESCAPE}a\na plot,{ESCAPE}b\na line,{ESCAPE}c\n",
    "label of a surrogate.jsonl": '{"text": "a", "label": "\\ud800"}\n{"text": "b", "label": "x"}\n',
    "text of a surrogate.jsonl": '{"text": "a \\udc80 b", "label": 1}\n',
    "text of null.jsonl": '{"text": null, "label": 1}\n',
    "text of a number.jsonl": '{"text": 12, "label": 1}\n',
    "text of a huge number.jsonl": f'{{"text": {HUGE[:4200]}, "label": 1}}\n',
    "text of a deep list.jsonl": f'{{"text": {"[" * 900}{"]" * 900}, "label": 1}}\n',
    "column of a surrogate.jsonl": '{"\\ud800": "a", "label": 1}\n',
    "deep.jsonl": f'{{"text": {DEEP}\n',
    "deep.json": f'[{{"text": {DEEP}\n',
    "no object.jsonl": "[1]\n",
    "numbers.jsonl": "1\n2\n",
    "half.jsonl": '{"text": "a", "lab',
    "empty.csv": "",
    "empty.jsonl": "",
    "empty.parquet": b"",
    "empty.tsv": "",
    "header alone.csv": "text,label\n",
    "quote without end.csv": 'text,label\n"a film,1\n',
    "huge field.csv": f"text,label\n{'x' * 200_000},1\n",
    "null characters.csv": "text,label\na\0b,1\nc,\0\n",
    "two columns of one name.csv": "text,text,label\na,b,1\n",
    "a thousand columns.csv": ",".join(f"column_{i}" for i in range(5000)) + "\n" + "1," * 4999 + "1\n",
    "bytes.csv": bytes(range(256)),
    "utf-16.csv": "text,label\na film,1\n".encode("utf-16"),
    "bytes.parquet": b"PAR1" + bytes(range(256)) + b"PAR1",
    "too short.parquet": b"PAR1PAR1",
    "a length too long.parquet": b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1",
    "metadata no JSON.parquet": parquet({"huggingface": "{"}),
    "metadata a list.parquet": parquet({"huggingface": "[1, 2]"}),
    "metadata deep.parquet": parquet({"huggingface": DEEP}),
    "metadata of an unknown type.parquet": parquet(features(text=STRING, label={"_type": "Nothing"})),
    "metadata with ids outside.parquet": parquet(features(text=STRING, label=CLASSES), **TEXTS, label=[0, 7]),
    "metadata without names.parquet": parquet(features(text=STRING, label={"_type": "ClassLabel"})),
    "metadata no features.parquet": parquet({"huggingface": '{"info": {"features": 3}}'}),
    "metadata another dtype.parquet": parquet(features(text={"dtype": "int64", "_type": "Value"}, label=CLASSES)),
    "text of bytes.parquet": parquet({}, text=[b"\xff\xfe", b"a"], label=[0, 1]),
    "labels of lists.parquet": parquet({}, **TEXTS, label=[[0], [1]]),
    "labels all null.parquet": parquet({}, **TEXTS, label=pyarrow.array([None, None], pyarrow.int64())),
    "a directory.csv": None,
    "a pipe.csv": "PIPE",
    "a device.csv": Path("/dev/zero"),
    "a loop.csv": Path("a loop.csv"),
    f"{'n' * 300}.csv": "MISSING",
    "unknown.xyz": "text,label\n",
}


def write_data(path: Path, content: object) -> None:
    if content is None:
        path.mkdir()
    elif content == "PIPE":
        os.mkfifo(path)
    elif isinstance(content, Path):
        path.symlink_to(content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, pyarrow.Table):
        pyarrow.parquet.write_table(content, path)
    elif content != "MISSING":
        path.write_text(str(content), newline="")


@pytest.mark.parametrize("name", DATA, ids=lambda name: name[:40])
def test_data_that_cannot_be(name, root, capfd):
    path = root / name
    write_data(path, DATA[name])
    flags = base_flags("evaluate", root) | {"task_name": None, "data_dir": None, "validation_file": path}
    flags |= {"text_columns": "text", "label_column": "label"}
    if name.startswith("label of"):
        flags["label_names"] = []  # a regression
    refusal(words("evaluate", flags), root, capfd)


def set_key(file: str, **changes: object):
    """Return a function that changes keys of a JSON file; a value of `...` takes one out."""

    def change(model: Path) -> None:
        data = json.loads((model / file).read_text())
        data |= changes
        data = {key: value for key, value in data.items() if value is not ...}
        (model / file).write_text(json.dumps(data))

    return change


def write(file: str, content: str | bytes):
    """Return a function that writes a file of a model."""

    def change(model: Path) -> None:
        (model / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def config(**changes: object):
    return set_key("config.json", **changes)


MODELS = {
    "config deep": write("config.json", DEEP),
    "config deep mapping": write("config.json", '{"a":' * 100_000),
    "config of a huge number": write("config.json", f'{{"hidden_size": {HUGE}}}'),
    "config a list": write("config.json", "[]"),
    "config null": write("config.json", "null"),
    "config empty": write("config.json", ""),
    "config bytes": write("config.json", bytes(range(256))),
    "no model type": config(model_type=...),
    "model type a number": config(model_type=5),
    "model type unknown": config(model_type="nothing"),
    "model type of escapes": config(model_type=ESCAPE),
    "model type a list": config(model_type=["bert"]),
    "id2label of numbers": config(id2label={"0": 0, "1": 1}),
    "id2label of null": config(id2label={"0": None, "1": None}),
    "id2label of lists": config(id2label={"0": ["a"], "1": ["b"]}),
    "id2label a list": config(id2label=["a", "b"]),
    "id2label a text": config(id2label="ab"),
    "id2label with words for ids": config(id2label={"a": "x", "b": "y"}),
    "id2label with a gap": config(id2label={"0": "x", "7": "y"}),
    "id2label negative": config(id2label={"0": "x", "-1": "y"}),
    "id2label of a surrogate": config(id2label={"0": "\ud800", "1": "b"}),
    "id2label of escapes": config(id2label={"0": ESCAPE, "1": "b"}),
    "id2label huge": config(id2label={str(i): f"class {i}" for i in range(3000)}),
    "id2label twice the same": config(id2label={"0": "positive", "1": "positive"}),
    "vocabulary of 0": config(vocab_size=0),
    "vocabulary negative": config(vocab_size=-1),
    "vocabulary huge": config(vocab_size=10**15),
    "vocabulary a text": config(vocab_size="many"),
    "vocabulary too small": config(vocab_size=3),
    "width of 0": config(hidden_size=0),
    "width negative": config(hidden_size=-32),
    "width huge": config(hidden_size=10**12),
    "width a fraction": config(hidden_size=32.5),
    "width a text": config(hidden_size="wide"),
    "width null": config(hidden_size=None),
    "heads of 0": config(num_attention_heads=0),
    "heads that do not divide": config(num_attention_heads=5),
    "layers a text": config(num_hidden_layers="four"),
    "layers null": config(num_hidden_layers=None),
    "layers huge": config(num_hidden_layers=10**9),
    "activation unknown": config(hidden_act="nothing"),
    "activation a number": config(hidden_act=3),
    "positions of 0": config(max_position_embeddings=0),
    "feed-forward of 0": config(intermediate_size=0),
    "dropout of 2": config(hidden_dropout_prob=2.0),
    "epsilon a text": config(layer_norm_eps="small"),
    "type vocabulary negative": config(type_vocab_size=-2),
    "padding outside": config(pad_token_id=10**6),
    "dtype unknown": config(dtype="float7", torch_dtype="float7"),
    "weights empty": write("model.safetensors", b""),
    "weights a header too long": write("model.safetensors", b"\xff" * 8 + b"{}"),
    "weights a header of 0": write("model.safetensors", b"\0" * 8),
    "weights a deep header": write("model.safetensors", len(DEEP).to_bytes(8, "little") + DEEP.encode()),
    "tokenizer deep": write("tokenizer.json", DEEP),
    "tokenizer null": write("tokenizer.json", "null"),
    "tokenizer empty": write("tokenizer.json", ""),
    "tokenizer bytes": write("tokenizer.json", bytes(range(256))),
    "tokenizer of no model": set_key("tokenizer.json", model=...),
    "tokenizer config deep": write("tokenizer_config.json", DEEP),
    "tokenizer config a list": write("tokenizer_config.json", "[]"),
    "pad token null": set_key("tokenizer_config.json", pad_token=None),
    "pad token a number": set_key("tokenizer_config.json", pad_token=7),
    "pad token a list": set_key("tokenizer_config.json", pad_token=["[PAD]"]),
    "tokenizer class a number": set_key("tokenizer_config.json", tokenizer_class=3),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_cannot_be(case, root, capfd):
    MODELS[case](root / "model")
    refusal(words("evaluate", base_flags("evaluate", root)), root, capfd)


REPORTS = {
    "deep": DEEP,
    "deep mapping": '{"a":' * 100_000,
    "huge number": f'{{"schema_version": {HUGE}}}',
    "version a list": '{"schema_version": [1]}',
    "version infinite": '{"schema_version": Infinity}',
    "version of escapes": json.dumps({"schema_version": ESCAPE}),
    "a surrogate": '{"schema_version": "\\ud800"}',
    "rows a number": '{"schema_version": 1, "rows": 3}',
    "key of escapes": json.dumps({"schema_version": 1, "rows": {ESCAPE: 1}}),
    "bytes": bytes(range(256)),
    "empty": "",
    "a directory": None,
    "a pipe": "PIPE",
    "a device": Path("/dev/zero"),
    "missing": "MISSING",
}


@pytest.mark.parametrize("case", REPORTS)
def test_a_report_that_cannot_be(case, root, capfd):
    write_data(root / "report.json", REPORTS[case])
    refusal(words("report", base_flags("report", root)), root, capfd)
