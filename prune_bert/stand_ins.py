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
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import nn

from prune_bert.corrections import Correction, FittedSite
from prune_bert.display import Displayed, Shown
from prune_bert.errors import UserError

Value = Literal["identity", "zero"]

# Modules of post-LN families that add the residual themselves call it this; skipping them means returning it.
RESIDUAL_ARGUMENT = "input_tensor"
ATTENTIONS_FLAG = "output_attentions"

# Under this name a layer of BigBird knows which attention it has; `set_attention_type` switches it.
ATTENTION_TYPE = "attention_type"
# By these names a layer knows its own index, under which it keeps its keys and values in a cache.
INDEX_NAMES = ("layer_idx", "layer_id")

# What nn.Module keeps for itself, and what big-model dispatch hangs on an instance: never copied to a stand-in.
_NOT_COPIED = {*vars(nn.Module()), "forward", "_old_forward", "_hf_hook"}


class CacheError(UserError, RuntimeError):
    """A cache of keys and values in which a stand-in cannot keep its place."""


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


Role = Literal["hidden", "attention", "none"] | Argument


@dataclass(frozen=True)
class ReturnForm:
    """The form of what a module returns.

    Attributes:
        container: The type that holds the items (``tuple``, ``list`` or a mapping such as a ``ModelOutput``), or
            None for a bare tensor.
        roles: What each item is: the hidden states, attention weights, None, or an argument that is passed on (T5's
            position bias).
        keys: The items' names, for a mapping.
        heads: The number of attention heads, for the ``"attention"`` role.
    """

    container: type | None = None
    roles: tuple[Role, ...] = ("hidden",)
    keys: tuple[str, ...] = ()
    heads: int = 1

    def wrap(self, hidden: torch.Tensor, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """Put hidden states of shape ``(batch, seq, hidden)`` into the form, for a call with the given arguments."""
        if self.container is None:
            return hidden
        items = [self._item(role, hidden, args, kwargs or {}) for role in self.roles]
        if self.keys:
            return self.container(**dict(zip(self.keys, items, strict=True)))
        return self.container(items)

    def _item(self, role: Role, hidden: torch.Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if isinstance(role, Argument):
            return role.pick(args, kwargs)
        if role == "hidden":
            return hidden
        return self_attention_weights(hidden, self.heads) if role == "attention" else None


def self_attention_weights(hidden: torch.Tensor, heads: int) -> torch.Tensor:
    """Return the attention weights of an identity: each token attends to itself alone.

    Args:
        hidden: Hidden states, ``(batch, seq, hidden)``.
        heads: The number of attention heads.

    Returns:
        A view of shape ``(batch, heads, seq, seq)``.
    """
    batch, length = hidden.shape[:2]
    eye = torch.eye(length, dtype=hidden.dtype, device=hidden.device)
    return eye.expand(batch, heads, length, length)


class Identity(nn.Module, Displayed):
    """Returns one of its arguments, whatever else it is given.

    On its own it is ``nn.Identity`` for callers that pass more than one argument. Surgery makes richer ones with
    ``stand_in_for``: with the return form of the module replaced, and a LayerNorm kept.

    Args:
        argument: Which argument to return; by default the first.

    Examples:
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
        self.identity_temporary = False
        self.identity_caches = False
        self.identity_switch: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the chosen argument, ``(batch, seq, hidden)``, in the form that the caller expects."""
        hidden = self.identity_argument.pick(args, kwargs)
        if hidden is None:
            raise TypeError(f"{type(self).__name__} was called without its argument {self.identity_argument.name!r}")
        for recorder in self.identity_recorders:
            getattr(self, recorder)(hidden)
        if self.identity_caches:
            self._count_in_caches(hidden, args, kwargs)
        return self._form(args, kwargs).wrap(self._value(hidden), args, kwargs)

    def _count_in_caches(self, hidden: torch.Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Count the tokens of ``(batch, seq, hidden)`` in each cache among the arguments, as the original would."""
        for cache in filter(is_cache, (*args, *kwargs.values())):
            if _count_tokens(cache, index_of(self), hidden):
                continue
            known = _UNCOUNTED.setdefault(cache, WeakSet())
            if self in known:
                raise CacheError(
                    f"{type(self).__name__} stands in for a layer, and a {type(cache).__name__} does not count the "
                    "tokens of a layer that keeps nothing: generate with the default cache or with use_cache=False, "
                    "or drop the layer instead of bypassing it"
                )
            known.add(self)

    def _value(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the identity's value, with the correction where there is one."""
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
        named = [self._role_name(role, kept) for role in roles]
        return f"returns {kept}" if self.identity_form.container is None else f"returns ({', '.join(named)})"

    @staticmethod
    def _role_name(role: Role, kept: str) -> str:
        if isinstance(role, Argument):
            return role.name
        return {"hidden": kept, "attention": "I", "none": "None"}[role]

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
    """Return the subclass of ``Identity`` and of ``base``, or ``Identity`` alone for torch's own modules.

    A ``Linear`` without a weight would break whoever looks for linear layers, and torch captures nothing by class.
    """
    if base.__module__.split(".")[0] == "torch" or issubclass(base, Identity):
        return Identity
    if base not in _CLASSES:
        body: dict[str, Any] = {
            "__module__": __name__,
            "identity_base": base,
            "__doc__": f"Stands in for {base.__name__}.",
        }
        if hasattr(base, "set_attention_type"):
            body["set_attention_type"] = _note_switch
        _CLASSES[base] = type(f"Identity{base.__name__}", (Identity, base), body)
    return _CLASSES[base]


def _note_switch(stand_in: Identity, value: str, *args: Any, **kwargs: Any) -> None:
    """In the place of BigBird's ``set_attention_type``, which its model calls on each layer: note it, to pass it on."""
    vars(stand_in)[ATTENTION_TYPE] = value
    stand_in.identity_switch = ((value, *args), kwargs)


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
    counts: bool = True,
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
        counts: Whether a cache that it is given counts its tokens, where modules inside it know their layer's index.
    """
    stand_in = cast(Identity, _blank(type(original)))
    nn.Module.__init__(stand_in)
    for name, attribute in vars(original).items():
        if name not in _NOT_COPIED:
            stand_in.__dict__[name] = attribute
    # One dictionary for both: a hook registered on either is on both, and leaves both when it is removed.
    stand_in._forward_hooks = original._forward_hooks
    flag = flag_argument(original)
    names = tuple(norm_path.split(".")) if norm_path else ()
    stand_in._set_up(argument, form, form_with_attentions, flag, value, names)
    if names:
        norm = original.get_submodule(norm_path)
        _graft(stand_in, names, norm if fitted is None else fitted.norm_like(norm))
    if fitted is not None:
        weight = next(original.parameters(), fitted.correction.bias)
        stand_in.add_module("correction", fitted.correction_like(weight))
    _add_recorders(stand_in, recorders)
    if counts:
        _keep_index(stand_in, original)
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


# Caches that do not count a stand-in's tokens, each with the stand-ins: right in one forward, not in a second.
_UNCOUNTED: WeakKeyDictionary[Any, WeakSet[nn.Module]] = WeakKeyDictionary()


def _keep_index(stand_in: Identity, original: nn.Module) -> None:
    """Let a stand-in know the index under which the attention inside the original used the cache."""
    for module in original.modules():
        index = index_of(module)
        if index is not None:
            stand_in.identity_caches = True
            vars(stand_in).setdefault(INDEX_NAMES[0], index)


def index_of(module: nn.Module) -> int | None:
    """Return the index of its layer that a module knows, for a cache."""
    values = [vars(module).get(name) for name in INDEX_NAMES]
    return next((value for value in values if type(value) is int), None)


def is_cache(value: object) -> bool:
    """Return whether an argument is a cache of keys and values of transformers."""
    return hasattr(value, "get_seq_length") and hasattr(value, "reorder_cache")


def cached_tokens(cache: Any, index: int | None) -> int | None:
    """Return how many tokens a layer's entry of a cache holds; None where the entry has no such number."""
    own = getattr(cache, "self_attention_cache", cache)
    try:
        return None if index is None else int(own.get_seq_length(index))
    except (AttributeError, IndexError, TypeError, ValueError):
        return None


def _count_tokens(cache: Any, index: int | None, hidden: torch.Tensor) -> bool:
    """Note tokens in a layer's entry of a cache, with keys and values of one head of width 1 in the place of its own.

    Code outside the layer asks the entry of layer 0 how many tokens the cache holds, for positions and masks.

    Returns:
        Whether the cache counts them.
    """
    before = cached_tokens(cache, index)
    if before is None or hidden.dim() != 3:
        return False
    marks = hidden.new_ones(hidden.shape[0], 1, hidden.shape[1], 1)
    try:
        getattr(cache, "self_attention_cache", cache).update(marks, marks, index)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return False
    return cached_tokens(cache, index) == before + hidden.shape[1]


def _graft(stand_in: nn.Module, path: tuple[str, ...], kept: nn.Module) -> None:
    """Hang the kept module at its old path, so that its weights keep their names."""
    for name in path[:-1]:
        holder = nn.Module()
        stand_in.add_module(name, holder)
        stand_in = holder
    stand_in.add_module(path[-1], kept)


def flag_argument(original: nn.Module) -> Argument | None:
    """Return the flag by which a caller asks a module for attention weights, if it takes one."""
    names = forward_parameters(original)
    return Argument(names.index(ATTENTIONS_FLAG), ATTENTIONS_FLAG) if ATTENTIONS_FLAG in names else None


def forward_parameters(module: nn.Module) -> list[str]:
    """Name the parameters of a module's ``forward``, in order."""
    return list(inspect.signature(type(module).forward).parameters)[1:]
