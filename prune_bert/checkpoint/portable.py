"""A pruned model in the form of a plain one: zeros where a sublayer went, spare neurons where a correction stands.

``f(z) - f(-z) = z`` for GELU in all its forms, SiLU and ReLU. So ``up(down(x)) + bias`` is, exactly, an FFN of
twice ``rank`` neurons: the rows of ``down`` and of ``-down`` go in, and the columns of ``up`` and of ``-up`` come out.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from prune_bert.architectures import ffn_activation, ffn_width, find_encoder
from prune_bert.checkpoint.sources import CheckpointError
from prune_bert.corrections import Correction, CorrectionSpec, FittedSite
from prune_bert.plan import Site
from prune_bert.surgery import pruning_record

# f(z) - f(-z) = z
_ACTIVATIONS = (
    "gelu",
    "gelu_new",
    "gelu_fast",
    "gelu_python",
    "gelu_pytorch_tanh",
    "quick_gelu",
    "silu",
    "swish",
    "relu",
)


def check_portable(model: PreTrainedModel) -> None:
    """Refuse a model whose stand-ins no plain model can imitate.

    Raises:
        CheckpointError: It names the first site that has no portable form, and why.
    """
    record = pruning_record(model.config)
    removed = record.current_stand_ins()
    if removed and removed.norm == "skip":
        raise _no_form(removed, "a plain layer cannot leave out its LayerNorm", "prune with norm=keep")
    for site, spec in record.current_corrections().items():
        reason = _obstacle(model, site, spec)
        if reason:
            raise _no_form(site, reason, "compensate ffn sites alone, with low_rank or neurons before the LayerNorm")


def plain_model(model: PreTrainedModel) -> PreTrainedModel:
    """Build the plain model that computes what the pruned one does."""
    record = pruning_record(model.config)
    if not record.current_stand_ins():
        return model
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are all replaced
        plain = type(model)(model.config)
    nn.Module.to(plain, dtype=model.dtype)
    kept = model.state_dict()
    plain.load_state_dict({name: kept.get(name, torch.zeros_like(blank)) for name, blank in plain.state_dict().items()})
    encoder = find_encoder(plain)
    for site in record.current_corrections():
        correction = _correction_at(model, site)
        first, second = encoder.ffn_linears(site.layer)
        with torch.no_grad():
            second.bias.copy_(correction.bias)
            _write_neurons(correction, first, second)
    return plain


def _write_neurons(correction: Correction, first: nn.Linear, second: nn.Linear) -> None:
    """Write a correction into a plain FFN: the neurons of its linear map, and after them those that it keeps."""
    start = 2 * (correction.spec.rank or 0)
    if start:
        down, up = correction.down.weight, correction.up.weight
        first.weight[:start] = torch.cat((down, -down))
        second.weight[:, :start] = torch.cat((up, -up), dim=1)
    if correction.spec.neurons:
        kept = slice(start, start + correction.spec.neurons)
        first.weight[kept], first.bias[kept] = correction.inner.weight, correction.inner.bias
        second.weight[:, kept] = correction.outer.weight


def read_corrections(model: PreTrainedModel) -> dict[Site, FittedSite]:
    """Read the corrections out of the plain model's weights, which become zero.

    What is left there shows whether somebody has trained the checkpoint since.
    """
    encoder = find_encoder(model)
    found = {}
    for site, spec in pruning_record(model.config).current_corrections().items():
        first, second = encoder.ffn_linears(site.layer)
        correction = Correction(int(model.config.hidden_size), spec).to(second.bias)
        with torch.no_grad():
            correction.bias.copy_(second.bias)
            second.bias.zero_()
            _read_neurons(correction, first, second)
        found[site] = FittedSite(correction)
    return found


def blank_corrections(model: PreTrainedModel) -> dict[Site, FittedSite]:
    """Make corrections of the shapes that the config remembers, for weights that are loaded afterwards."""
    width, specs = int(model.config.hidden_size), pruning_record(model.config).current_corrections()
    return {site: FittedSite(Correction(width, spec)) for site, spec in specs.items()}


def _read_neurons(correction: Correction, first: nn.Linear, second: nn.Linear) -> None:
    """Undo `_write_neurons`."""
    rank = correction.spec.rank or 0
    if rank:
        correction.down.weight.copy_(first.weight[:rank])
        correction.up.weight.copy_(second.weight[:, :rank])
        _take_out(first.weight, rank)
        _take_out(second.weight.T, rank)
    if correction.spec.neurons:
        kept = slice(2 * rank, 2 * rank + correction.spec.neurons)
        correction.inner.weight.copy_(first.weight[kept])
        correction.inner.bias.copy_(first.bias[kept])
        correction.outer.weight.copy_(second.weight[:, kept])
        for left in (first.weight[kept], first.bias[kept], second.weight[:, kept]):
            left.zero_()


def _take_out(rows: torch.Tensor, rank: int) -> None:
    """Leave zero where the second half of the neurons mirrors the first."""
    rows[rank : 2 * rank] += rows[:rank].clone()
    rows[:rank] = 0


def _correction_at(model: PreTrainedModel, site: Site) -> Correction:
    layer = find_encoder(model).layers[site.layer]
    return next(
        module
        for part in find_encoder(model).parts(site.component, pruning_record(model.config).plan.norm)
        for module in layer.get_submodule(part.path).children()
        if isinstance(module, Correction)
    )


def _obstacle(model: PreTrainedModel, site: Site, spec: CorrectionSpec) -> str:
    """Say why a correction cannot be written as weights of a plain sublayer; nothing where it can."""
    if site.component == "layer":
        return "a plain layer is no linear map"
    if spec.placement == "after":
        return "its correction comes after the LayerNorm, where a plain layer adds nothing"
    if site.component == "attention":
        return "plain attention is no map of single tokens"
    if spec.rank is None:
        return "a full map is not of low rank"
    activation, width = ffn_activation(model.config), ffn_width(model.config)
    if activation not in _ACTIVATIONS:
        return f"the activation {activation!r} does not make the identity of two neurons"
    needed = 2 * spec.rank + spec.neurons
    return f"it takes {needed} neurons, and an FFN here has {width}" if needed > width else ""


def _no_form(what: object, reason: str, instead: str) -> CheckpointError:
    return CheckpointError(
        f"{what} has no portable form: {reason}; save it with format 'compact' (--checkpoint_format compact), "
        f"or {instead}"
    )
