"""Hostile flags and configurations: each is one line, exit code 2, quick, and leaves nothing on disk."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from hostile import base_flags, refusal, words

from prune_bert.cli.failures import one_line
from prune_bert.config import VERBS, ConfigError, load_config
from prune_bert.config.fields import type_hints
from prune_bert.config.values import element, without_null
from prune_bert.errors import UserError
from prune_bert.storage import output_directory

DEEP = "[" * 100_000
HUGE = "9" * 5000
SURROGATE = "caf\udce9"  # how Python reads a byte that is not UTF-8 from a command line
ESCAPE = "\x1b[31mred\x1b[0m\x07\u202e"
HUGE_NAME = "n" * 5000


@pytest.fixture
def root(tmp_path, tiny_checkpoint, data_dir):
    """A directory with all that a run needs."""
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    shutil.copytree(data_dir, tmp_path / "data")
    return tmp_path


OUTPUTS = {
    "root": "/",
    "nobody's home": "~nobody_of_that_name/x",
    "proc": "/proc/x/y",
    "proc itself": "/proc/1/x",
    "a device": "/dev/null",
    "below a device": "/dev/null/x",
    "a huge name": HUGE_NAME,
    "a huge path": "a/" * 5000,
    "a surrogate": SURROGATE,
    "escapes": f"/proc/{ESCAPE}",
    "empty": "",
    "blank": "  ",
    "here": ".",
    "above": "..",
    "a file": "ROOT/data/dev.tsv",
    "below a file": "ROOT/data/dev.tsv/x/y",
    "not empty": "ROOT/data",
    "null character": "a\0b",
    "home": "~",
}


EVERY_VERB = [(verb, case) for verb in VERBS for case in ("root", "nobody's home", "proc")]


@pytest.mark.parametrize(("verb", "case"), [*EVERY_VERB, *(("prune", case) for case in list(OUTPUTS)[3:])])
def test_an_output_directory_that_cannot_be(verb, case, root, capfd, monkeypatch):
    monkeypatch.chdir(root)
    if verb == "report":
        (root / "report.json").write_text("{}")
    flags = base_flags(verb, root) | {"output_dir": OUTPUTS[case].replace("ROOT", str(root))}
    refusal(words(verb, flags), root, capfd)


PLANS = {
    "a directory": "ROOT/data.json",
    "deep": "ROOT/deep.json",
    "deep mapping": "ROOT/deep_mapping.json",
    "huge number": "ROOT/huge.json",
    "huge exponent": "ROOT/exponent.json",
    "not a number": "ROOT/nan.json",
    "a list": "ROOT/list.json",
    "a surrogate inside": "ROOT/surrogate.json",
    "bytes": "ROOT/bytes.json",
    "empty file": "ROOT/empty.json",
    "a truth value": "ROOT/bool.json",
    "a mapping of sites": "ROOT/mapping.json",
    "many sites": "ROOT/many.json",
    "a device": "/dev/zero.json",
    "a pipe": "ROOT/pipe.json",
    "a loop": "ROOT/loop.json",
    "an endless file": "ROOT/zero.json",
    "norm of another type": "ROOT/norm.json",
    "a range of a million": "layer:0-999999",
    "many ranges": "ffn:" + ",".join(["0-999999"] * 50),
    "a huge layer": f"layer:{HUGE}",
    "a huge range": f"layer:0-{HUGE}",
    "a huge word": "x" * 100_000,
    "a huge part": "layer:" + "x" * 100_000,
    "many layers": "layer:" + ",".join(map(str, range(20_000))),
    "surrogate": f"layer:{SURROGATE}",
    "escapes": f"layer:{ESCAPE}",
    "escapes as component": f"{ESCAPE}:1",
    "other digits": "layer:\u0663",
    "negative": "layer:-1",
    "a fraction": "layer:1.5",
    "scientific": "layer:1e3",
    "hexadecimal": "layer:0x1",
    "norm twice": "layer:1 norm=keep norm=skip",
    "norm of nothing": "layer:1 norm=",
    "missing": "ROOT/missing.json",
    "huge file name": f"{HUGE_NAME}.json",
    "null": "layer:1\0",
    "one colon": ":",
    "commas": "layer:,,,",
}


def write_plans(root):
    (root / "data.json").mkdir()
    (root / "deep.json").write_text(DEEP)
    (root / "deep_mapping.json").write_text('{"sites":' * 100_000)
    (root / "huge.json").write_text(f'{{"sites": [{{"layer": {HUGE}, "component": "ffn"}}]}}')
    (root / "exponent.json").write_text('{"sites": [{"layer": 1e999, "component": "ffn"}]}')
    (root / "nan.json").write_text('{"sites": [{"layer": NaN, "component": "ffn"}]}')
    (root / "list.json").write_text("[1, 2]")
    (root / "surrogate.json").write_text('{"sites": [{"layer": 1, "component": "\\ud800"}]}')
    (root / "bytes.json").write_bytes(bytes(range(256)))
    (root / "empty.json").write_text("")
    (root / "bool.json").write_text('{"sites": [{"layer": true, "component": "ffn"}]}')
    (root / "mapping.json").write_text('{"sites": {"layer": 1, "component": "ffn"}}')
    sites = [{"layer": layer, "component": "ffn"} for layer in range(50_000)]
    (root / "many.json").write_text(json.dumps({"sites": sites}))
    (root / "norm.json").write_text('{"sites": [{"layer": 1, "component": "ffn"}], "norm": ["keep"]}')
    os.mkfifo(root / "pipe.json")
    (root / "loop.json").symlink_to(root / "loop.json")
    (root / "zero.json").symlink_to("/dev/zero")


@pytest.mark.parametrize("case", PLANS)
def test_a_plan_that_cannot_be(case, root, capfd):
    write_plans(root)
    flags = base_flags("benchmark", root) | {"plan": PLANS[case].replace("ROOT", str(root))}
    refusal(words("benchmark", flags), root, capfd)


CONFIGS = {
    "a directory": None,
    "deep list": f"plan: {DEEP}",
    "deep mapping": "plan: " + "{a: " * 50_000,
    "deep indentation": "\n".join(" " * depth + "a:" for depth in range(3000)),
    "huge number": f"seed: {HUGE}",
    "huge hexadecimal": f"seed: 0x{HUGE}",
    "huge exponent": "profile_rounds: 1e999999",
    "surrogate escape": 'plan: "\\ud800"',
    "surrogate in output_dir": 'output_dir: "\\udc80"',
    "aliases that multiply": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"b{i}: &b{i} [{','.join([f'*b{i - 1}' if i else '*a'] * 9)}]\n" for i in range(9))
    + "plan: *b8\n",
    "an alias of itself": "plan: &a [*a]",
    "a Python object": "plan: !!python/object/apply:os.system ['true']",
    "a tab": "plan:\n\t- x",
    "a null character": "plan: a\0b",
    "bytes": bytes(range(256)),
    "not a number": "profile_rounds: .nan",
    "infinite": "n_resamples: .inf",
    "key of escapes": f'"{chr(92)}e[31m": 1',
    "a huge key": f"{HUGE_NAME}: 1",
    "many unknown keys": "\n".join(f"unknown_{i}: 1" for i in range(5000)),
    "a list": "- 1",
    "a document too many": "seed: 1\n---\nseed: 2",
    "a key twice": "seed: 1\nseed: 2",
    "a mapping for a number": "seed: {a: b}",
    "a huge text": f"plan: {'x' * 1_000_000}",
    "a huge list": f"profile_batch_sizes: [{','.join(map(str, range(1, 100_000)))}]",
    "a date": "seed: 2020-01-01",
    "a merge key": "<<: {seed: 1}",
    "an unknown anchor": "seed: *nothing",
    "an unclosed text": 'plan: "abc',
    "a truth value for a number": "seed: true",
    "nested null": "profile_batch_sizes: [null]",
    "negative zero": "n_resamples: -0",
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_that_cannot_be(case, root, capfd):
    content, path = CONFIGS[case], root / "config.yaml"
    if content is None:
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content)
    flags = {name: value for name, value in base_flags("prune", root).items() if not str(content).startswith(name)}
    refusal([*words("prune", flags), "--config", str(path)], root, capfd)


@pytest.mark.parametrize("path", ["/dev/zero", "PIPE", HUGE_NAME, SURROGATE, "~nobody_of_that_name/x.yaml", "a\0b"])
def test_a_configuration_file_that_is_none(path, root, capfd):
    os.mkfifo(root / "pipe.yaml")
    refusal(["prune", "--config", path.replace("PIPE", str(root / "pipe.yaml"))], root, capfd)


NUMBERS = ["nan", "inf", "-inf", "-1", "1e400", "9" * 30, HUGE, "0x10", "1,5", "", ESCAPE, SURROGATE]


def numeric_fields():
    for verb, cls in VERBS.items():
        for field in dataclasses.fields(cls):
            if element(without_null(type_hints(cls)[field.name])[0]) in (int, float):
                yield pytest.param(verb, field.name, id=f"{verb}-{field.name}")


@pytest.mark.parametrize(("verb", "name"), list(numeric_fields()))
def test_no_field_takes_a_number_that_cannot_be(verb, name, tmp_path):
    """Through the reader of flags alone, which is quick; the line that comes of it is the next test's."""
    flags = {key: str(value) for key, value in base_flags(verb, tmp_path).items()}
    listed = ["profile_batch_sizes", "profile_sequence_lengths", "scorer"]
    given = {key: [value] if key in listed and verb != "search" else value for key, value in flags.items()}
    load_config(VERBS[verb], None, given)
    for number in NUMBERS:
        with pytest.raises(ConfigError, match=f"--{name}: "):
            load_config(VERBS[verb], None, given | {name: [number] if name in listed else number})


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("search", "max_accuracy_drop"),
        ("benchmark", "profile_batch_sizes"),
        ("train", "learning_rate"),
        ("prune", "seed"),
    ],
)
@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: ascii(number[:12]))
def test_a_number_that_cannot_be_is_one_line(verb, name, number, root, capfd):
    assert f"--{name}" in refusal(words(verb, base_flags(verb, root) | {name: number}), root, capfd)


ABSURD = {
    "benchmark": ["profile_batch_sizes", "profile_sequence_lengths", "profile_rounds", "profile_warmup", "num_threads"],
    "prune": ["max_seq_length", "per_device_eval_batch_size", "n_resamples", "num_threads", "profile_batch_sizes"],
    "evaluate": ["max_seq_length", "per_device_eval_batch_size", "n_resamples", "num_threads"],
    "score": ["max_seq_length", "per_device_eval_batch_size"],
    "train": ["lora_rank", "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps"],
    "recover": ["lora_rank", "learning_rate", "num_train_epochs", "n_resamples", "profile_rounds"],
    "search": ["batch_size", "sequence_length", "max_accuracy_drop", "keep_layers", "n_resamples", "profile_rounds"],
}


@pytest.mark.parametrize(("verb", "name"), [(verb, name) for verb, names in ABSURD.items() for name in names])
@pytest.mark.parametrize("number", [10**6 + 1, 10**12])
def test_an_absurd_number(verb, name, number, root, capfd):
    message = refusal(words(verb, base_flags(verb, root) | {name: number}), root, capfd)
    assert name in message


def test_a_rank_over_the_width(root, capfd):
    flags = base_flags("train", root) | {"lora_rank": 10_000}
    assert "lora_rank 10000 is over the full rank" in refusal(words("train", flags), root, capfd)


@pytest.mark.parametrize(
    "text", ["x" * 100_000, SURROGATE * 5000, "a b " * 10_000, ESCAPE * 300, "\x85\u2028\n" * 99, ""]
)
def test_whatever_a_message_holds_it_becomes_one_short_printable_line(text):
    line = one_line(UserError(text))
    assert line.isprintable()
    assert 0 < len(line) <= 640
    assert len(one_line(UserError(f"{text[:1] * 9999}: choose a shorter one"))) <= 160
    line.encode()


def test_processes_that_check_one_output_directory_at_once_do_not_meet(tmp_path):
    """As the processes of one run do: what one of them makes to try is no obstacle to another."""
    with ThreadPoolExecutor(8) as pool:
        checks = [pool.submit(output_directory, tmp_path / "a" / "out") for _ in range(400)]
        assert {check.result().path for check in checks} == {(tmp_path / "a" / "out").resolve()}
    assert not list(tmp_path.iterdir())
