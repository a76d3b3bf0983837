"""Identities that fit where ``nn.Identity`` does not.

``nn.Identity`` takes one argument and returns one tensor. A transformer layer is called with a mask, a cache and
flags, and returns a bare tensor, a tuple, or a tuple whose length depends on a flag: by family and by version of
transformers. An ``Identity`` here takes whatever the caller passes and returns the form that the caller expects.

Where it replaces a module of transformers it is a parameter-free subclass of that module's class, since
transformers 5 captures hidden states and attentions by hooks on a layer's class.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn

from prune_bert.corrections import Correction, FittedSite
from prune_bert.display import Displayed, Shown
from prune_bert.errors import UserError

Role = Literal["hidden", "attention", "none"]
Value = Literal["identity", "zero"]

# Modules of post-LN families that add the residual themselves call it this; skipping them means returning it.
RESIDUAL_ARGUMENT = "input_tensor"
ATTENTIONS_FLAG = "output_attentions"

# What nn.Module keeps for itself, and what big-model dispatch hangs on an instance: never copied to a stand-in.
_NOT_COPIED = {*vars(nn.Module()), "forward", "_old_forward", "_hf_hook"}


class FormError(UserError, TypeError):
    """A module returns something that no identity can imitate."""


@dataclass(frozen=True)
class Argument:
    """Where a caller puts one argument.

    Attributes:
        position: Its place among the positional arguments.
        name: Its keyword.
    """

    position: int = 0
    name: str = "hidden_states"

    def pick(self, args: Sequence[Any], kwargs: Mapping[str, Any], default: Any = None) -> Any:
        """Take the argument from a call, by position or by name."""
        return args[self.position] if len(args) > self.position else kwargs.get(self.name, default)


@dataclass(frozen=True)
class ReturnForm:
    """The form of what a module returns.

    Attributes:
        container: The type that holds the items (``tuple``, ``list`` or a mapping such as a ``ModelOutput``), or
            None for a bare tensor.
        roles: What each item is: the hidden states, attention weights, or None.
        keys: The items' names, for a mapping.
        heads: The number of attention heads, for the ``"attention"`` role.
    """

    container: type | None = None
    roles: tuple[Role, ...] = ("hidden",)
    keys: tuple[str, ...] = ()
    heads: int = 1

    def wrap(self, hidden: torch.Tensor) -> Any:
        """Put hidden states of shape ``(batch, seq, hidden)`` into the form."""
        if self.container is None:
            return hidden
        items = [self._item(role, hidden) for role in self.roles]
        if self.keys:
            return self.container(**dict(zip(self.keys, items, strict=True)))
        return self.container(items)

    def _item(self, role: Role, hidden: torch.Tensor) -> torch.Tensor | None:
        if role == "hidden":
            return hidden
        return self_attention_weights(hidden, self.heads) if role == "attention" else None


def self_attention_weights(hidden: torch.Tensor, heads: int) -> torch.Tensor:
    """Give the attention weights of an identity: each token attends to itself alone.

    Args:
        hidden: Hidden states, ``(batch, seq, hidden)``.
        heads: The number of attention heads.

    Returns:
        A view of shape ``(batch, heads, seq, seq)``.
    """
    batch, length = hidden.shape[:2]
    eye = torch.eye(length, dtype=hidden.dtype, device=hidden.device)
    return eye.expand(batch, heads, length, length)


def learn_form(owner: str, output: Any, shape: torch.Size) -> ReturnForm:
    """Learn the form of a module's output, given the shape of the hidden states in it.

    Raises:
        FormError: If the output holds no tensor of that shape, or more than an identity can make up.
    """
    items: list[Any]
    keys: tuple[str, ...] = ()
    container: type | None = None
    if isinstance(output, torch.Tensor):
        items = [output]
    elif isinstance(output, Mapping):
        items, keys, container = list(output.values()), tuple(output), type(output)
    elif isinstance(output, (tuple, list)):
        items, container = list(output), tuple if isinstance(output, tuple) else list
    else:
        raise FormError(
            f"{owner} returns {type(output).__name__}; an identity can return a tensor, a tuple or a mapping"
        )
    roles = _roles(owner, items, shape)
    heads = next((item.shape[1] for item, role in zip(items, roles, strict=True) if role == "attention"), 1)
    return ReturnForm(container, roles, keys, heads)


def _roles(owner: str, items: Sequence[Any], shape: torch.Size) -> tuple[Role, ...]:
    roles: list[Role] = []
    for item in items:
        tensor = isinstance(item, torch.Tensor)
        if tensor and item.shape == shape and "hidden" not in roles:
            roles.append("hidden")
        elif tensor and len(shape) == 3 and item.dim() == 4 and item.shape[2:] == (shape[1], shape[1]):
            roles.append("attention")
        elif item is None:
            roles.append("none")
        else:
            what = f"a tensor of shape {tuple(item.shape)}" if tensor else type(item).__name__
            wanted = f"the shape {tuple(shape)} of its input"
            raise FormError(f"{owner} returns {what}, where an identity can return only {wanted}: it cannot stand in")
    if "hidden" not in roles:
        raise FormError(f"{owner} returns no tensor of the shape {tuple(shape)} of its input: it cannot be an identity")
    return tuple(roles)


class Identity(nn.Module, Displayed):
    """Returns one of its arguments, whatever else it is given.

    On its own it is ``nn.Identity`` for callers that pass more than one argument. Surgery makes richer ones with
    ``stand_in_for``: with the return form of the module replaced, and a LayerNorm kept.

    Args:
        argument: Which argument to return; by default the first.

    Example:
        >>> Identity()(torch.ones(2), "a mask", output_attentions=False)
        tensor([1., 1.])
    """

    def __init__(self, argument: Argument | None = None) -> None:
        nn.Module.__init__(self)
        self._set_up(argument or Argument(), ReturnForm())

    def _set_up(
        self,
        argument: Argument,
        form: ReturnForm,
        form_with_attentions: ReturnForm | None = None,
        flag: Argument | None = None,
        value: Value = "identity",
        norm_path: tuple[str, ...] = (),
    ) -> None:
        self.identity_argument = argument
        self.identity_form = form
        self.identity_form_with_attentions = form_with_attentions
        self.identity_flag = flag
        self.identity_value = value
        self.identity_norm_path = norm_path
        self.identity_recorders: tuple[str, ...] = ()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the chosen argument, ``(batch, seq, hidden)``, in the form that the caller expects."""
        hidden = self.identity_argument.pick(args, kwargs)
        if hidden is None:
            raise TypeError(f"{type(self).__name__} was called without its argument {self.identity_argument.name!r}")
        for recorder in self.identity_recorders:
            getattr(self, recorder)(hidden)
        return self._form(args, kwargs).wrap(self._value(hidden))

    def _value(self, hidden: torch.Tensor) -> torch.Tensor:
        """Give the identity's value, with the correction where there is one."""
        correction = cast("Correction | None", self._modules.get("correction"))
        if self.identity_value == "zero":
            return torch.zeros_like(hidden) if correction is None else correction(hidden)
        early = correction is not None and (correction.spec.placement == "before" or not self.identity_norm_path)
        value = hidden + correction(hidden) if correction is not None and early else hidden
        if self.identity_norm_path:
            norm: Any = self
            for name in self.identity_norm_path:
                norm = getattr(norm, name)
            value = norm(value)
        return value if correction is None or early else value + correction(hidden)

    def _form(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ReturnForm:
        if self.identity_form_with_attentions is None or self.identity_flag is None:
            return self.identity_form
        wanted = self.identity_flag.pick(args, kwargs, default=False)
        return self.identity_form_with_attentions if wanted else self.identity_form

    def extra_repr(self) -> str:
        """Say what is returned, for ``print(model)``."""
        if self.identity_value == "zero" and "correction" not in self._modules:
            return "returns zeros: the residual outside is all that remains"
        kept = f"LayerNorm({self.identity_argument.name})" if self.identity_norm_path else self.identity_argument.name
        roles = self.identity_form.roles
        named = [kept if role == "hidden" else "I" if role == "attention" else "None" for role in roles]
        return f"returns {kept}" if self.identity_form.container is None else f"returns ({', '.join(named)})"

    def _shown(self) -> Shown:
        base = getattr(type(self), "identity_base", None)
        facts = [("in the place of", "" if base is None else base.__name__)]
        facts += [(name, type(child).__name__) for name, child in self.named_children()]
        return Shown(self.extra_repr(), facts)

    def __reduce_ex__(self, protocol: Any) -> Any:
        base = getattr(type(self), "identity_base", None)
        if base is None:
            return super().__reduce_ex__(protocol)
        return _blank, (base,), self.__dict__


_CLASSES: dict[type, type] = {}


def _class_for(base: type) -> type:
    """Give the subclass of ``Identity`` and of ``base``, or ``Identity`` alone for torch's own modules.

    A ``Linear`` without a weight would break whoever looks for linear layers, and torch captures nothing by class.
    """
    if base.__module__.split(".")[0] == "torch" or issubclass(base, Identity):
        return Identity
    if base not in _CLASSES:
        body = {"__module__": __name__, "identity_base": base, "__doc__": f"Stands in for {base.__name__}."}
        _CLASSES[base] = type(f"Identity{base.__name__}", (Identity, base), body)
    return _CLASSES[base]


def _blank(base: type) -> nn.Module:
    """Make an empty stand-in, without running the constructor of the class it imitates."""
    cls = _class_for(base)
    return cast(nn.Module, object.__new__(cls))


def stand_in_for(
    original: nn.Module,
    argument: Argument,
    form: ReturnForm,
    form_with_attentions: ReturnForm | None = None,
    value: Value = "identity",
    norm_path: str = "",
    recorders: Sequence[nn.Module] = (),
    fitted: FittedSite | None = None,
) -> Identity:
    """Make a fresh stand-in for one module.

    Args:
        original: The module to replace; it is not changed. Its plain attributes are copied, since callers read
            some of them (ModernBERT reads ``layer.attention_type``), and its forward hooks are shared.
        argument: Which argument of a call to return.
        form: The form to return it in.
        form_with_attentions: The form where the caller asks for attention weights with a flag.
        value: ``"identity"``, or ``"zero"`` where the residual is added outside the module.
        norm_path: The LayerNorm within ``original`` that stays, by dotted path, or nothing.
        recorders: Stand-ins of attention modules inside ``original`` that the capture hooks must still see.
        fitted: The correction of a compensated site, and its LayerNorm's refit; copies go into the stand-in.
    """
    stand_in = cast(Identity, _blank(type(original)))
    nn.Module.__init__(stand_in)
    for name, attribute in vars(original).items():
        if name not in _NOT_COPIED:
            stand_in.__dict__[name] = attribute
    # One dictionary for both: a hook registered on either is on both, and leaves both when it is removed.
    stand_in._forward_hooks = original._forward_hooks
    flag = _flag_argument(original)
    names = tuple(norm_path.split(".")) if norm_path else ()
    stand_in._set_up(argument, form, form_with_attentions, flag, value, names)
    if names:
        norm = original.get_submodule(norm_path)
        _graft(stand_in, names, norm if fitted is None else fitted.norm_like(norm))
    if fitted is not None:
        weight = next(original.parameters(), fitted.correction.bias)
        stand_in.add_module("correction", fitted.correction_like(weight))
    _add_recorders(stand_in, recorders)
    stand_in.training = original.training
    return stand_in


def _add_recorders(stand_in: Identity, recorders: Sequence[nn.Module]) -> None:
    """Hang the recorders in; only those that have weights to show (eager attention) are called in a forward."""
    called = []
    for index, recorder in enumerate(recorders):
        name = f"recorder_{index}"
        stand_in.add_module(name, recorder)
        if isinstance(recorder, Identity) and "attention" in recorder.identity_form.roles:
            called.append(name)
    stand_in.identity_recorders = tuple(called)


def _graft(stand_in: nn.Module, path: tuple[str, ...], kept: nn.Module) -> None:
    """Hang the kept module at its old path, so that its weights keep their names."""
    for name in path[:-1]:
        holder = nn.Module()
        stand_in.add_module(name, holder)
        stand_in = holder
    stand_in.add_module(path[-1], kept)


def _flag_argument(original: nn.Module) -> Argument | None:
    names = forward_parameters(original)
    return Argument(names.index(ATTENTIONS_FLAG), ATTENTIONS_FLAG) if ATTENTIONS_FLAG in names else None


def forward_parameters(module: nn.Module) -> list[str]:
    """Name the parameters of a module's ``forward``, in order."""
    return list(inspect.signature(type(module).forward).parameters)[1:]
