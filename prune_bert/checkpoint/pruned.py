"""``load_pruned``: a pruned checkpoint with its stand-ins in place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from prune_bert.checkpoint.completeness import check_complete, readable_errors
from prune_bert.checkpoint.sources import CheckpointError, read_config
from prune_bert.checkpoint.weight_files import stored_tensors, weight_files
from prune_bert.checkpoint.weight_types import check_types, stored_type
from prune_bert.corrections import CorrectionSpec
from prune_bert.plan import Site
from prune_bert.surgery import CONFIG_KEY, RecordError, install_stand_ins, pruning_record, quiet_transformers
from prune_bert.surgery.plain_form import blank_corrections, portable_obstacle, read_corrections
from prune_bert.surgery.saving_whole import COMPACT_MODEL_TYPE, save_whole_from_now_on
from prune_bert.surgery.seal import check_seal


def load_pruned(directory: str | Path, *, dtype: torch.dtype | None = None, **settings: Any) -> PreTrainedModel:
    """Load what ``save_pruned`` wrote, in either format, with its stand-ins in place and so at its full speed.

    A portable checkpoint that plain transformers has trained since is loaded exactly where the training moved no more
    than the biases that end the removed sublayers, and the neurons of compensated FFNs.

    Args:
        directory: The checkpoint's directory.
        dtype: The type of the weights; by default as saved.
        **settings: Passed on to ``from_pretrained``, such as ``attn_implementation``.

    Returns:
        The model in evaluation mode, of the class that was saved.

    Raises:
        CheckpointError: If the directory holds no pruned checkpoint, a file is damaged, a weight is missing or has no
            place, the config was edited so that the model would compute something else, or other weights of a
            removed sublayer than its last bias are no longer zero (they were trained or edited after it was pruned).

    Examples:
        >>> directory = save_pruned(drop(model, "layer:1 ffn:3"), output_dir, format="compact")
        >>> load_pruned(directory).config.num_hidden_layers
        3
    """
    directory = Path(directory)
    data = read_config(directory)
    if data.get(CONFIG_KEY) is None:
        weight_files(directory, data, allow_pickle=False)
        raise CheckpointError(f"{str(directory)!r} was not written by save_pruned; load it with from_pretrained")
    return load_with_stand_ins(directory, data, dtype=dtype, settings=settings)


def load_with_stand_ins(
    directory: Path,
    data: Mapping[str, Any],
    *,
    classifier: bool = False,
    head: Mapping[str, Any] | None = None,
    require_head: bool = True,
    dtype: torch.dtype | None = None,
    settings: Mapping[str, Any],
) -> PreTrainedModel:
    """Load a pruned checkpoint of either format.

    Args:
        directory: The checkpoint's directory.
        data: Its ``config.json``, with a record of pruning.
        classifier: Load it as a sequence classifier, and not as the class that was saved.
        head: Config values of a head to train from scratch, which then may be missing; None where there is one.
        require_head: The head may not be missing.
        dtype: The type of the weights; by default as stored.
        settings: Passed on to ``from_pretrained``.

    Raises:
        CheckpointError: As `load_pruned` says.
    """
    name = str(directory)
    files = weight_files(directory, dict(data), allow_pickle=False)
    compact = data.get("model_type") == COMPACT_MODEL_TYPE
    try:
        with readable_errors(name), quiet_transformers():
            stored = stored_tensors(files)
            config = _config(data, head or {})
            pruning_record(config)  # before a model of that depth is built
            cls = _classifier_class(config, name) if classifier else _model_class(data, name)
            settings = {**settings, "dtype": dtype or stored_type(stored)}
            model, info = (
                _build_compact(cls, config, files, settings)
                if compact
                else _load_plain(cls, directory, {**settings, **(head or {})})
            )
        if compact:
            _check_plan_fits(name, info)
        check_complete(name, model, info, new_head=head is not None, require_head=require_head, strict=True)
        check_types(name, model, stored)
        check_seal(model.config)
        if not compact:
            _take_stand_ins(name, model)
    except RecordError as error:
        raise CheckpointError(f"{name!r}: {error}") from error
    save_whole_from_now_on(model)
    return model


def _config(data: Mapping[str, Any], changes: Mapping[str, Any]) -> PretrainedConfig:
    """Build the config of a checkpoint of either format."""
    compact = data.get("model_type") == COMPACT_MODEL_TYPE
    values = {key: value for key, value in data.items() if key not in ("model_type", "base_model_type", "dtype")}
    model_type = data["base_model_type"] if compact else data["model_type"]
    config: PretrainedConfig = transformers.AutoConfig.for_model(model_type, **{**values, **changes})
    return config


def _load_plain(cls: Any, directory: Path, settings: Mapping[str, Any]) -> tuple[PreTrainedModel, dict[str, Any]]:
    model, info = cls.from_pretrained(
        directory,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # told by `check_complete`, which names the tensors
        use_safetensors=True,
        **settings,
    )
    return model, info


def _build_compact(
    cls: type[PreTrainedModel], config: PretrainedConfig, files: list[Path], settings: Mapping[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are all replaced
        # The one way to build from a config with a dtype and an attention implementation; it carries no types.
        build: Any = cls._from_config
        model: PreTrainedModel = build(config, **settings)
    install_stand_ins(model, pruning_record(model.config).current_stand_ins(), blank_corrections(model))
    model.train(False)
    return model, _fill(model, files)


def _fill(model: nn.Module, files: list[Path]) -> dict[str, Any]:
    """Load tensors into a model; return what ``from_pretrained`` returns as loading info."""
    from safetensors.torch import load_file

    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    own = model.state_dict()
    fitting = {name: tensor for name, tensor in tensors.items() if name in own and tensor.shape == own[name].shape}
    model.load_state_dict(fitting, strict=False)
    filled = {own[name].data_ptr() for name in fitting}  # tied weights are stored under one of their names
    return {
        "missing_keys": {name for name in own.keys() - tensors.keys() if own[name].data_ptr() not in filled},
        "unexpected_keys": tensors.keys() - own.keys(),
        "mismatched_keys": {
            (name, tuple(tensors[name].shape), tuple(own[name].shape))
            for name in (tensors.keys() & own.keys()) - fitting.keys()
        },
    }


def _check_plan_fits(name: str, info: Mapping[str, Any]) -> None:
    """Refuse compact weights of another plan, which have some names too many and lack others."""
    if info["missing_keys"] and info["unexpected_keys"]:
        names = ", ".join(sorted([*info["missing_keys"], *info["unexpected_keys"]])[:4])
        raise CheckpointError(f"{name!r}: the weights do not fit the plan in config.json ({names})")


def _take_stand_ins(name: str, model: PreTrainedModel) -> None:
    """Turn a plain model into the pruned one of which it is the portable form."""
    record = pruning_record(model.config)
    obstacle = portable_obstacle(model)
    if obstacle is not None:
        raise RecordError(f"the record of pruning does not fit a portable checkpoint: {obstacle[0]}")
    corrections = read_corrections(model)
    specs: dict[Site, CorrectionSpec] = {site: fitted.correction.spec for site, fitted in corrections.items()}
    before = model.state_dict()
    install_stand_ins(model, record.current_stand_ins(), corrections)
    _check_zero(name, before, model)
    if specs != record.current_corrections():
        setattr(model.config, CONFIG_KEY, record.with_corrections(specs).to_json())


def _model_class(data: Mapping[str, Any], name: str) -> type[PreTrainedModel]:
    names = data.get("architectures")
    first = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    found = getattr(transformers, first, None) if first else None
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise CheckpointError(f"{name!r}: config.json names no model class of transformers ({str(names)[:60]})")
    return found


def _classifier_class(config: PretrainedConfig, name: str) -> type[PreTrainedModel]:
    found: Any = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if found is None:
        raise CheckpointError(f"{name!r}: transformers has no sequence classifier of the type {config.model_type!r}")
    cls: type[PreTrainedModel] = found[0] if isinstance(found, tuple) else found
    return cls


def _check_zero(name: str, before: dict[str, torch.Tensor], model: nn.Module) -> None:
    """A portable checkpoint holds zeros where sublayers were removed, unless somebody has changed it since."""
    for key in sorted(before.keys() - model.state_dict().keys()):
        if before[key].count_nonzero():
            raise CheckpointError(
                f"{name!r}: {key} belongs to a removed sublayer but is not zero (trained after it was pruned?); of "
                "such a sublayer only the last bias can be kept; load it with from_pretrained, which gives the trained "
                "model at the unpruned speed"
            )
