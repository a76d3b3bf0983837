"""One table: for each ``model_type``, where the layers and sublayers live, and where the residual and the norm sit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import nn

from prune_bert.errors import UserError
from prune_bert.plan import NormRule

Skipping = Literal["identity", "zero", "ignored"]


class ArchitectureError(UserError, ValueError):
    """A model whose layers cannot be found, or a sublayer that its family lacks."""


@dataclass(frozen=True)
class Part:
    """One module of a layer that a stand-in replaces.

    Attributes:
        path: Its dotted path within the layer.
        skipping: What stands in: its input (``"identity"``), zeros where the residual is added outside
            (``"zero"``), or its input unchecked where a later part ignores it (``"ignored"``).
        norm_path: The LayerNorm within the module that stays, or nothing.
        read_outside: Submodules that the family's code reads although it does not run the module.
    """

    path: str
    skipping: Skipping = "identity"
    norm_path: str = ""
    read_outside: tuple[str, ...] = ()


Sublayers = Mapping[tuple[str, NormRule], tuple[Part, ...]]


@dataclass(frozen=True)
class Architecture:
    """Where a family keeps its layers and how its sublayers are skipped.

    Attributes:
        layers_path: The dotted path of the layer list within the base model.
        sublayers: The parts to replace, for each sublayer and norm rule; empty where only layers are known.
        ffn_paths: Where an FFN's linear layers are: the first, whose rows are its neurons, and the second.
        attention_output_path: Where the linear layer is that ends an attention.
    """

    layers_path: str
    sublayers: Sublayers
    ffn_paths: tuple[str, str]
    attention_output_path: str


@dataclass(frozen=True)
class Encoder:
    """The encoder found in one model.

    Attributes:
        path: The dotted path of the layer list within the model.
        layers: The list itself.
        architecture: The family's entry, or None for an unknown family.
        model_type: The family's name.
        reads_all_layers: Linear layers outside of the list, by dotted path, whose inputs are the attention heads of
            all layers, in order.
    """

    path: str
    layers: nn.ModuleList
    architecture: Architecture | None
    model_type: str
    reads_all_layers: tuple[str, ...] = ()

    def parts(self, component: str, norm: NormRule) -> tuple[Part, ...]:
        """Return the parts of a layer that skip one of its sublayers, or the whole of it.

        Raises:
            ArchitectureError: If only whole layers of this family are known.
        """
        if component == "layer":
            return (Part("", read_outside=_READ_FROM_LAYERS.get(self.model_type, ())),)
        if self.architecture is None:
            raise ArchitectureError(
                f"the {component} sublayers of {self.model_type!r} are not known, only its whole layers; families "
                f"with sublayers: {', '.join(sorted(ARCHITECTURES))}"
            )
        return self.architecture.sublayers[component, norm]

    def ffn_linears(self, layer: int) -> tuple[nn.Linear, nn.Linear]:
        """Return the two linear layers of a layer's FFN.

        Raises:
            ArchitectureError: If only whole layers of this family are known.
        """
        if self.architecture is None:
            raise ArchitectureError(f"the linear layers of {self.model_type!r} are not known")
        first, second = (self.layers[layer].get_submodule(path) for path in self.architecture.ffn_paths)
        return cast(nn.Linear, first), cast(nn.Linear, second)

    def output_linear(self, component: str, layer: int) -> nn.Linear:
        """Return the linear layer that ends an attention or an FFN, right before the residual is added.

        Raises:
            ArchitectureError: If only whole layers of this family are known.
        """
        if component == "ffn":
            return self.ffn_linears(layer)[1]
        if self.architecture is None:
            raise ArchitectureError(f"the linear layers of {self.model_type!r} are not known")
        return cast(nn.Linear, self.layers[layer].get_submodule(self.architecture.attention_output_path))


def _post_ln(attention_norm: str) -> Sublayers:
    """BERT's form: the residual and the LayerNorm sit at the end of ``attention`` and of ``output``."""
    return {
        ("attention", "keep"): (Part("attention", norm_path=attention_norm),),
        ("attention", "skip"): (Part("attention"),),
        ("ffn", "keep"): (Part("intermediate", "ignored"), Part("output", norm_path="LayerNorm")),
        ("ffn", "skip"): (Part("intermediate", "ignored"), Part("output")),
    }


_FFN_PATHS = ("intermediate.dense", "output.dense")
_BERT = Architecture("encoder.layer", _post_ln("output.LayerNorm"), _FFN_PATHS, "attention.output.dense")
_MPNET = Architecture("encoder.layer", _post_ln("LayerNorm"), _FFN_PATHS, "attention.attn.o")
# The residual and the LayerNorm are the layer's own: removing a sublayer means adding zero to the residual.
_DISTILBERT = Architecture(
    "transformer.layer",
    {
        ("attention", "keep"): (Part("attention", "zero"),),
        ("attention", "skip"): (Part("attention", "zero"), Part("sa_layer_norm")),
        ("ffn", "keep"): (Part("ffn", "zero"),),
        ("ffn", "skip"): (Part("ffn", "zero"), Part("output_layer_norm")),
    },
    ("ffn.lin1", "ffn.lin2"),
    "attention.out_lin",
)

ARCHITECTURES: Mapping[str, Architecture] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "electra": _BERT,
    "deberta-v2": _BERT,
    "mpnet": _MPNET,
    "distilbert": _DISTILBERT,
}


# Families of which only whole layers are known, and what of their code looks into the list of layers.
_READERS_OF_ALL_LAYERS: Mapping[str, tuple[str, ...]] = {"esm": ("contact_head.regression",)}
_READ_FROM_LAYERS: Mapping[str, tuple[str, ...]] = {"xmod": ("output",)}  # its adapters, for their languages
_SHARED_LAYERS = "num_hidden_groups"  # ALBERT's


def find_encoder(model: nn.Module) -> Encoder:
    """Find the encoder layers of a model of transformers.

    A family of the table is found by its path; of any other, the one list of modules that is as long as
    ``config.num_hidden_layers`` says.

    Raises:
        ArchitectureError: If there is no such list, more than one, or one that contradicts the config; or if the
            model is wrapped.
    """
    if {"_orig_mod", "module"} & set(model._modules):
        raise ArchitectureError(
            f"the model is wrapped in {type(model).__name__}, which renames every path: do surgery before "
            "accelerator.prepare or torch.compile, or pass the model inside"
        )
    config = getattr(model, "config", None)
    depth = getattr(config, "num_hidden_layers", None)
    if depth is None:
        raise ArchitectureError(
            f"{type(model).__name__} has no config.num_hidden_layers, so its layers cannot be found; "
            "for any other network use replace_with_identity(model, name)"
        )
    model_type = str(getattr(config, "model_type", type(model).__name__))
    architecture = ARCHITECTURES.get(model_type)
    if architecture is None:
        path, layers = _guess(model, model_type, depth)
        return Encoder(path, layers, None, model_type, _readers_of_all_layers(model, model_type))
    path = _prefix(model) + architecture.layers_path
    layers = _module_list(model, path)
    if len(layers) != depth:
        raise ArchitectureError(
            f"{path} holds {len(layers)} layers but config.num_hidden_layers says {depth}: a layer was deleted "
            "without the config, and the model would reload with random weights; set the config right first"
        )
    return Encoder(path, layers, architecture, model_type)


def ffn_activation(config: Any) -> str | None:
    """Name the activation of a model's FFNs, as its config does; None where it is no name."""
    name = getattr(config, "hidden_act", None) or getattr(config, "activation", None)
    return name if isinstance(name, str) else None


def ffn_width(config: Any) -> int:
    """Return the number of neurons of a model's FFNs."""
    width: int = getattr(config, "intermediate_size", 0) or getattr(config, "hidden_dim", 0)
    return width


def _prefix(model: nn.Module) -> str:
    prefix = str(getattr(model, "base_model_prefix", ""))
    return f"{prefix}." if prefix and hasattr(model, prefix) else ""


def _module_list(model: nn.Module, path: str) -> nn.ModuleList:
    try:
        layers: Any = model.get_submodule(path)
    except AttributeError:
        layers = None
    if not isinstance(layers, nn.ModuleList):
        raise ArchitectureError(f"{type(model).__name__} has no layer list at {path!r}, where its family keeps it")
    return layers


def _readers_of_all_layers(model: nn.Module, model_type: str) -> tuple[str, ...]:
    paths = (_prefix(model) + path for path in _READERS_OF_ALL_LAYERS.get(model_type, ()))
    present = {name for name, _ in model.named_modules()}
    return tuple(path for path in paths if path in present)


def _guess(model: nn.Module, model_type: str, depth: int) -> tuple[str, nn.ModuleList]:
    groups = int(getattr(model.config, _SHARED_LAYERS, 1) or 1)
    if groups > 1:
        raise ArchitectureError(
            f"{model_type!r} shares {groups} groups of weights among its {depth} layers, and which one a layer uses "
            "follows from its number: no layer can be taken out alone"
        )
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and not any(isinstance(item, nn.ModuleList) for item in module)
    }
    long_enough = {name: layers for name, layers in lists.items() if len(layers) == depth}
    inside = tuple(f"{name}." for name in long_enough)  # what a layer is made of is no list of layers
    fitting = {name: layers for name, layers in long_enough.items() if not name.startswith(inside)}
    if len(fitting) == 1:
        return next(iter(fitting.items()))
    found = ", ".join(f"{name} ({len(layers)})" for name, layers in list(lists.items())[:8]) or "none"
    raise ArchitectureError(
        f"model type {model_type!r} is not one of {', '.join(sorted(ARCHITECTURES))}, and its layers cannot be told: "
        f"looked for exactly one nn.ModuleList of config.num_hidden_layers = {depth} modules, "
        f"found {len(fitting)} among the lists: {found}"
    )
