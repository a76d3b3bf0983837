"""The gate before weights: what transformers would read is what is checked, in a directory and in the hub's cache."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from prune_bert import PruningPlan, drop, load_model, load_pruned, save_pruned
from prune_bert.checkpoint import CheckpointError

HUB_NAME = "prune-bert-tests/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "fedcba9876543210fedcba9876543210fedcba98"


class Bomb:
    """Its unpickling raises: a test in which it goes off has opened the pickle."""

    def __reduce__(self):
        return exec, ("raise SystemExit('the pickle was opened')",)


@pytest.fixture
def copied(tmp_path, tiny_checkpoint):
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def pickled(directory, name="pytorch_model.bin"):
    """Put a pickle that goes off in the place of a checkpoint's weights."""
    (directory / "model.safetensors").unlink()
    torch.save(Bomb(), directory / name)


def index(directory, names, name="model.safetensors.index.json"):
    (directory / name).write_text(json.dumps({"metadata": {}, "weight_map": names}))


def test_a_stray_safetensors_file_opens_no_pickle(copied):
    pickled(copied)
    save_file({"x": torch.zeros(1)}, copied / "notes.safetensors")
    with pytest.raises(CheckpointError, match=r"only pickled weights \(pytorch_model\.bin\).*--allow_pickle true"):
        load_model(str(copied))


@pytest.mark.parametrize("index_name", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_an_index_that_names_a_pickle_is_refused(copied, index_name):
    pickled(copied, "evil.bin")
    index(copied, {"classifier.bias": "evil.bin"}, index_name)
    with pytest.raises(CheckpointError, match="--allow_pickle true"):
        load_model(str(copied))


@pytest.mark.parametrize("way", ["parent", "absolute", "link"])
def test_an_index_that_leaves_the_directory_is_refused(copied, tmp_path, way):
    outside = tmp_path / "outside.safetensors"
    (copied / "model.safetensors").rename(outside)
    if way == "link":
        (copied / "inner.safetensors").symlink_to(outside)
    name = {"parent": "../outside.safetensors", "absolute": str(outside), "link": "inner.safetensors"}[way]
    index(copied, {"classifier.bias": name})
    with pytest.raises(CheckpointError, match="names weights outside the directory"):
        load_model(str(copied))


def test_an_index_whose_files_are_missing_or_that_is_none(copied):
    (copied / "model.safetensors").unlink()
    index(copied, {"classifier.bias": "gone.safetensors"})
    with pytest.raises(CheckpointError, match=r"names 'gone\.safetensors', which is not there"):
        load_model(str(copied))
    for text in ("{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', '{"weight_map": []}'):
        (copied / "model.safetensors.index.json").write_text(text)
        with pytest.raises(CheckpointError, match="copy or download the model again"):
            load_model(str(copied))


def test_shards_load_and_a_damaged_one_is_named(copied, tiny_bert):
    tiny_bert.save_pretrained(copied, max_shard_size="20KB")
    (copied / "model.safetensors").unlink(missing_ok=True)
    shards = sorted(copied.glob("model-*.safetensors"))
    assert len(shards) > 1
    state = load_model(str(copied)).model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in tiny_bert.state_dict().items())
    shards[0].write_bytes(shards[0].read_bytes()[:100])
    with pytest.raises(CheckpointError, match=rf"{shards[0].name}.*corrupted or truncated"):
        load_model(str(copied))


@pytest.mark.parametrize("named", ["adapter_model.bin", "../copy/model.safetensors", 3])
def test_a_config_that_names_other_weights_is_refused(copied, named):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"transformers_weights": named}))
    torch.save(Bomb(), copied / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"transformers_weights|outside the directory"):
        load_model(str(copied), allow_pickle=True)


def test_a_link_to_the_weights_is_the_users_own(copied, tmp_path):
    (copied / "model.safetensors").rename(tmp_path / "big.safetensors")
    (copied / "model.safetensors").symlink_to(tmp_path / "big.safetensors")
    assert load_model(str(copied)).model.num_labels == 2


@pytest.mark.parametrize("pruned", [False, True])
def test_an_adapter_beside_the_weights_is_not_applied_without_a_word(tmp_path, tiny_bert, tiny_tokenizer, pruned):
    if pruned:
        drop(tiny_bert, PruningPlan.parse("ffn:1"))
    save_pruned(tiny_bert, tmp_path / "out", tiny_tokenizer)
    (tmp_path / "out" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(CheckpointError, match=r"LoRA adapter \(adapter_config\.json\) beside.*merge it"):
        load_model(str(tmp_path / "out"))
    if pruned:
        with pytest.raises(CheckpointError, match="LoRA adapter"):
            load_pruned(tmp_path / "out")


def hub_cache(cache, checkpoint, commit, branch="main", labels=None):
    """Lay out a directory as the hub's cache keeps a model: snapshots of links to blobs."""
    repository = cache / f"models--{HUB_NAME.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir(exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / branch).write_text(commit)
    for file in checkpoint.iterdir():
        blob = repository / "blobs" / f"{commit[:4]}{file.name}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(blob)
    return snapshot


@pytest.fixture
def cache(tmp_path, monkeypatch):
    import huggingface_hub.constants

    folder = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    return folder


def test_a_model_of_the_hub_comes_with_its_commit_and_the_tokenizer_of_its_revision(cache, tmp_path, tiny_checkpoint):
    hub_cache(cache, tiny_checkpoint, COMMIT)
    older = shutil.copytree(tiny_checkpoint, tmp_path / "older")
    tokenizer = json.loads((older / "tokenizer_config.json").read_text())
    (older / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"model_max_length": 17}))
    hub_cache(cache, older, OTHER_COMMIT, "older")
    new, old = load_model(HUB_NAME), load_model(HUB_NAME, revision="older")
    assert (new.name, new.commit, old.commit) == (HUB_NAME, COMMIT, OTHER_COMMIT)
    assert (new.tokenizer.model_max_length, old.tokenizer.model_max_length) == (64, 17)
    named = load_model(HUB_NAME, tokenizer_name=HUB_NAME, revision=OTHER_COMMIT)
    assert named.tokenizer.model_max_length == 17


def test_shards_in_the_hubs_cache_are_links_that_load(cache, tmp_path, tiny_bert, tiny_tokenizer):
    tiny_bert.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    tiny_tokenizer.save_pretrained(tmp_path / "sharded")
    hub_cache(cache, tmp_path / "sharded", COMMIT)
    assert load_model(HUB_NAME).commit == COMMIT


@pytest.mark.parametrize("way", ["alone", "stray", "index"])
def test_the_hubs_cache_passes_the_same_gate(cache, tmp_path, copied, way):
    pickled(copied)
    if way == "stray":
        save_file({"x": torch.zeros(1)}, copied / "notes.safetensors")
    if way == "index":
        index(copied, {"classifier.bias": "pytorch_model.bin"})
    hub_cache(cache, copied, COMMIT)
    with pytest.raises(CheckpointError, match="--allow_pickle true"):
        load_model(HUB_NAME)


def test_a_pruned_model_of_the_hub_comes_with_its_stand_ins(cache, tmp_path, tiny_bert, tiny_tokenizer):
    drop(tiny_bert, PruningPlan.parse("ffn:1 attention:2"))
    for number, form in enumerate(("portable", "compact")):
        save_pruned(tiny_bert, tmp_path / form, tiny_tokenizer, format=form)
        hub_cache(cache, tmp_path / form, COMMIT if number else OTHER_COMMIT)
        loaded = load_model(HUB_NAME).model
        assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in tiny_bert.parameters())
