"""A pruned model in the form of a plain one: zeros where a sublayer went, spare neurons where a correction stands.

``f(z) - f(-z) = z`` for GELU in all its forms, SiLU and ReLU. So ``up(down(x)) + bias`` is, exactly, an FFN of
twice ``rank`` neurons: the rows of ``down`` and of ``-down`` go in, and the columns of ``up`` and of ``-up`` come out.
A bias alone is the bias of the linear layer that ends the sublayer, an attention's as well as an FFN's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from transformers import PreTrainedModel

from prune_bert.architectures import Encoder, ffn_activation, ffn_width, find_encoder
from prune_bert.corrections import Correction, CorrectionSpec, FittedSite
from prune_bert.plan import Site
from prune_bert.surgery.record import pruning_record
from prune_bert.surgery.seal import sealed

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

State = dict[str, torch.Tensor]


def portable_obstacle(model: PreTrainedModel) -> tuple[str, str] | None:
    """Say why a model has no portable form: the site with the reason, and what to do instead; None where it has one."""
    record = pruning_record(model.config)
    removed = record.current_stand_ins()
    if removed and removed.norm == "skip":
        return f"{removed} has no portable form: a plain layer cannot leave out its LayerNorm", "prune with norm=keep"
    for site, spec in record.current_corrections().items():
        reason = _obstacle(model, site, spec)
        if reason:
            instead = "compensate ffn sites alone, with low_rank or neurons before the LayerNorm"
            return f"{site} has no portable form: {reason}", instead
    return None


def plain_form(
    model: PreTrainedModel, state: Mapping[str, torch.Tensor] | None = None
) -> tuple[PreTrainedModel, State]:
    """Build the plain model that computes what the pruned one does.

    Args:
        model: A model whose stand-ins have a portable form; it is not changed.
        state: Its tensors, by name, where they are kept elsewhere, as in sharded training; what is not in it is
            taken from the model.

    Returns:
        A plain model with a config of its own, sealed; and the tensors that belong into its checkpoint.
    """
    config = sealed(model.config)
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are all replaced
        plain = type(model)(config)
    nn.Module.to(plain, dtype=model.dtype)
    kept = {**model.state_dict(), **(state or {})}
    blank = plain.state_dict()
    plain.load_state_dict({name: kept.get(name, torch.zeros_like(tensor)) for name, tensor in blank.items()})
    encoder, record = find_encoder(plain), pruning_record(config)
    corrections = record.current_corrections()
    dead: tuple[str, ...] = ()
    for site in record.current_stand_ins():
        parts = encoder.parts(site.component, record.plan.norm)
        dead += tuple(f"{encoder.path}.{site.layer}.{part.path}." for part in parts)
        if site in corrections:
            tensors = _correction_tensors(model, site, kept)
            with torch.no_grad():
                encoder.output_linear(site.component, site.layer).bias.copy_(tensors["bias"])
                if site.component == "ffn":
                    _write_neurons(corrections[site], tensors, *encoder.ffn_linears(site.layer))
    if hasattr(model, "generation_config"):
        plain.generation_config = model.generation_config
    plain.train(model.training)
    # A head or a pooler that the model was built without is not in its checkpoint.
    return plain, {name: t for name, t in plain.state_dict().items() if name in kept or name.startswith(dead)}


def plain_model(model: PreTrainedModel) -> PreTrainedModel:
    """Return the plain model that computes what the pruned one does: itself, where there are no stand-ins."""
    return plain_form(model)[0] if pruning_record(model.config).current_stand_ins() else model


def _write_neurons(spec: CorrectionSpec, tensors: State, first: nn.Linear, second: nn.Linear) -> None:
    """Write a correction into a plain FFN: the neurons of its linear map, and after them those that it keeps."""
    start = 2 * (spec.rank or 0)
    if start:
        down, up = tensors["down.weight"], tensors["up.weight"]
        first.weight[:start] = torch.cat((down, -down))
        second.weight[:, :start] = torch.cat((up, -up), dim=1)
    if spec.neurons:
        kept = slice(start, start + spec.neurons)
        first.weight[kept], first.bias[kept] = tensors["inner.weight"], tensors["inner.bias"]
        second.weight[:, kept] = tensors["outer.weight"]


def read_corrections(model: PreTrainedModel) -> dict[Site, FittedSite]:
    """Read the corrections out of a plain model's weights, which become zero.

    What is left there belongs to no correction. A plain model that was trained afterwards has moved biases, which are
    corrections of rank 0, and neurons that no longer mirror each other, which are kept as neurons; both exactly.
    """
    encoder = find_encoder(model)
    record = pruning_record(model.config)
    specs, found = record.current_corrections(), {}
    for site in record.current_stand_ins():
        spec = specs.get(site)
        if site.component == "layer":  # no plain layer holds a correction
            continue
        with torch.no_grad():
            correction = _read_site(model, encoder, site, spec)
        if spec is not None or correction.bias.count_nonzero():
            found[site] = FittedSite(correction)
    return found


def blank_corrections(model: PreTrainedModel) -> dict[Site, FittedSite]:
    """Make corrections of the shapes that the config remembers, for weights that are loaded afterwards."""
    width, specs = int(model.config.hidden_size), pruning_record(model.config).current_corrections()
    return {site: FittedSite(Correction(width, spec)) for site, spec in specs.items()}


def _read_site(model: PreTrainedModel, encoder: Encoder, site: Site, spec: CorrectionSpec | None) -> Correction:
    """Take one site's correction out of the plain weights; a bias alone where none is recorded."""
    last = encoder.output_linear(site.component, site.layer)
    width = int(model.config.hidden_size)
    if spec is None or site.component == "attention" or spec.rank is None:
        correction = Correction(width, CorrectionSpec(0)).to(last.bias)
    else:
        first, _ = encoder.ffn_linears(site.layer)
        correction = Correction(width, _readable(spec, first, last, ffn_activation(model.config))).to(last.bias)
        _read_neurons(correction, first, last)
    correction.bias.copy_(last.bias)
    last.bias.zero_()
    return correction


def _readable(spec: CorrectionSpec, first: nn.Linear, last: nn.Linear, activation: str | None) -> CorrectionSpec:
    """Return the shape in which a correction can be read: all neurons, where its pairs mirror each other no more."""
    rank = spec.rank or 0
    pairs = first.weight[: 2 * rank], last.weight.T[: 2 * rank]
    mirrored = all(torch.equal(rows[:rank], -rows[rank:]) for rows in pairs)
    if mirrored and not first.bias[: 2 * rank].count_nonzero():
        return spec
    return CorrectionSpec(0, spec.placement, 2 * rank + spec.neurons, activation or spec.activation)


def _read_neurons(correction: Correction, first: nn.Linear, last: nn.Linear) -> None:
    """Undo `_write_neurons`."""
    rank, neurons = correction.spec.rank or 0, correction.spec.neurons
    if rank:
        correction.down.weight.copy_(first.weight[:rank])
        correction.up.weight.copy_(last.weight[:, :rank])
    if neurons:
        kept = slice(2 * rank, 2 * rank + neurons)
        correction.inner.weight.copy_(first.weight[kept])
        correction.inner.bias.copy_(first.bias[kept])
        correction.outer.weight.copy_(last.weight[:, kept])
    for taken in (first.weight, first.bias, last.weight.T):
        taken[: 2 * rank + neurons].zero_()


def _correction_tensors(model: PreTrainedModel, site: Site, kept: Mapping[str, torch.Tensor]) -> State:
    """Return the tensors of a site's correction, by their names within it."""
    encoder = find_encoder(model)
    for part in encoder.parts(site.component, pruning_record(model.config).plan.norm):
        prefix = f"{encoder.path}.{site.layer}.{part.path}.correction."
        found = {name.removeprefix(prefix): tensor for name, tensor in kept.items() if name.startswith(prefix)}
        if found:
            return found
    raise KeyError(f"{site} has no correction in the model, though its config says so")


def _obstacle(model: PreTrainedModel, site: Site, spec: CorrectionSpec) -> str:
    """Say why a correction cannot be written as weights of a plain sublayer; nothing where it can."""
    if site.component == "layer":
        return "a plain layer is no linear map"
    if spec.placement == "after":
        return "its correction comes after the LayerNorm, where a plain layer adds nothing"
    if site.component == "attention" and (spec.rank != 0 or spec.neurons):
        return "plain attention is no map of single tokens"
    if spec.rank is None:
        return "a full map is not of low rank"
    activation, width = ffn_activation(model.config), ffn_width(model.config)
    if spec.rank and activation not in _ACTIVATIONS:
        return f"the activation {activation!r} does not make the identity of two neurons"
    if spec.neurons and activation != spec.activation:
        return f"its neurons have the activation {spec.activation!r}, and the model's FFNs {activation!r}"
    needed = 2 * spec.rank + spec.neurons
    return f"it takes {needed} neurons, and an FFN here has {width}" if needed > width else ""
