"""``bypass``: stand-ins in place for the length of a ``with`` block."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from torch import nn

from prune_bert.display import Displayed, Shown
from prune_bert.plan import PruningPlan
from prune_bert.stand_ins import ATTENTION_TYPE, Identity
from prune_bert.surgery.fitted import check_corrections
from prune_bert.surgery.probe import SurgeryError
from prune_bert.surgery.snapshot import all_or_nothing
from prune_bert.surgery.swaps import Corrections, Swap, put, swaps_for

_CHECKPOINTING = ("gradient_checkpointing", "_gradient_checkpointing_func")


class Bypass(Displayed, AbstractContextManager[nn.Module]):
    """Stand-ins for one plan, ready to be put in place and taken out again, as often as wanted.

    Making it runs one small forward; entering and leaving only move references. Two of them nest when their
    sites differ.
    """

    def __init__(self, model: nn.Module, plan: PruningPlan, corrections: Corrections | None = None) -> None:
        self._model = model
        self._plan = plan
        self._swaps = swaps_for(model, plan, corrections)
        for swap in self._swaps:
            swap.stand_in.identity_temporary = True
        self._entered: list[tuple[Swap, nn.Module, bool]] = []  # each with its parent, and the original's mode
        self._placement: tuple[object, object] | None = None

    def __enter__(self) -> nn.Module:
        """Put the stand-ins in place and return the model; if anything fails, it is as it was."""
        if self._entered:
            raise SurgeryError("this bypass is in place already; make a second one to nest")
        for swap in self._swaps:
            if self._model.get_submodule(swap.path) is not swap.original:
                raise SurgeryError(f"{swap.path!r} has changed since this bypass was made; make a new one")
        self._placement = _placement(self._model)
        entered = []
        for swap in self._swaps:
            _share_state(swap.original, swap.stand_in)
            if self._placement is not None:
                _follow(swap.stand_in, *self._placement)
            parent = self._model.get_submodule(swap.path.rpartition(".")[0])
            entered.append((swap, parent, swap.original.training))
        with all_or_nothing(*(parent for _, parent, _ in entered), deep=False):
            for swap in self._swaps:
                put(self._model, swap.path, swap.stand_in)
            self._entered = entered
        return self._model

    def _shown(self) -> Shown:
        place = "in place" if self._entered else "not in place"
        facts = [("plan", repr(str(self._plan))), ("stand-ins", str(len(self._swaps)))]
        rows = [(swap.path, type(swap.original).__name__) for swap in self._swaps]
        return Shown(f"{type(self._model).__name__}, {place}", facts, ("module", "class"), rows)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Put the originals back, and pass on what was changed on the whole model meanwhile."""
        entered, placement = self._entered, None
        try:
            placement = _placement(self._model)
        finally:
            for swap, parent, _ in entered:
                parent._modules[swap.path.rpartition(".")[2]] = swap.original
            self._entered = []
        for swap, _, was_training in entered:
            if swap.stand_in.training != was_training:
                swap.original.train(swap.stand_in.training)
            _pass_on_state(swap.stand_in, swap.original)
            if placement != self._placement and placement is not None:
                device, dtype = placement
                swap.original.to(device=device, dtype=dtype)  # type: ignore[call-overload]


def bypass(model: nn.Module, plan: PruningPlan | str, corrections: Corrections | None = None) -> Bypass:
    """Skip the sites of a plan while a ``with`` block runs.

    ``with bypass(model, plan):`` restores the model bit-exactly on leaving, also after an exception. Modes,
    devices and dtypes set on the model inside the block reach the modules that were out of it, too.

    Args:
        model: A model of transformers, not wrapped by DDP or ``torch.compile``.
        plan: What to skip, also as text such as ``"ffn:3"``; an empty plan changes nothing.
        corrections: What ``compensate`` fitted for the plan's sites, if it did.

    Raises:
        SurgeryError: If a site is not there, is pruned already, or cannot be imitated.
        ArchitectureError: If the model's layers cannot be found, or its family lacks a component.
        PlanError: If the text is not a plan.
        CompensationError: If the corrections were fitted for another model or plan.

    Examples:
        >>> with bypass(model, "layer:2 ffn:3"):
        ...     score = evaluate(model, rows, tokenizer)
    """
    plan = PruningPlan.of(plan)
    check_corrections(model, plan, corrections)
    return Bypass(model, plan, corrections)


def is_bypassed(model: nn.Module) -> bool:
    """Return whether a bypass is in place on this model."""
    return any(isinstance(module, Identity) and module.identity_temporary for module in model.modules())


def _share_state(original: nn.Module, stand_in: nn.Module) -> None:
    stand_in.training = original.training
    for name in (*_CHECKPOINTING, ATTENTION_TYPE):
        if name in vars(original):
            vars(stand_in)[name] = vars(original)[name]


def _pass_on_state(stand_in: Identity, original: Any) -> None:
    """Do to an original what was done to its stand-in: checkpointing, and BigBird's switch to another attention."""
    for name in _CHECKPOINTING:
        if name in vars(stand_in):
            vars(original)[name] = vars(stand_in)[name]
    if stand_in.identity_switch is not None:
        args, kwargs = stand_in.identity_switch
        original.set_attention_type(*args, **kwargs)
        stand_in.identity_switch = None


def _follow(stand_in: nn.Module, device: object, dtype: object) -> None:
    """Bring a correction and its LayerNorm to where the model is; a LayerNorm that stays is there already."""
    if "correction" in stand_in._modules:
        stand_in.to(device=device, dtype=dtype)  # type: ignore[call-overload]


def _placement(model: nn.Module) -> tuple[object, object] | None:
    parameter = next(model.parameters(), None)
    return None if parameter is None else (parameter.device, parameter.dtype)
