"""One real forward of a batch, cut at the layers: how each is called, and what the model does between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prune_bert.evaluation.encoding import SharedWorkError
from prune_bert.evaluation.inference import logits_of
from prune_bert.evaluation.replay import Replay, ReplayError, Tape
from prune_bert.stand_ins import Argument, Identity
from prune_bert.surgery.probe import Call
from prune_bert.surgery.swaps import hidden_argument, hidden_of


@dataclass(frozen=True)
class LayerCall:
    """How the encoder calls one layer.

    Attributes:
        argument: Which argument the hidden states are.
        args: The positional arguments, such as the mask, with nothing in the place of the hidden states.
        kwargs: The keyword arguments likewise.
    """

    argument: Argument
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def with_hidden(self, hidden: torch.Tensor | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with hidden states of ``(batch, seq, hidden)`` in their place."""
        position = self.argument.position
        if position < len(self.args):
            return (*self.args[:position], hidden, *self.args[position + 1 :]), dict(self.kwargs)
        return self.args, {**self.kwargs, self.argument.name: hidden}

    def run(self, layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """Call a layer on hidden states, and give those that come out."""
        args, kwargs = self.with_hidden(hidden)
        return hidden_of(layer(*args, **kwargs))


@dataclass(frozen=True)
class Recording:
    """What one forward of a batch told.

    Attributes:
        calls: How each layer was called.
        states: ``(batch, seq, hidden)`` what went into each layer.
        gaps: For each layer, the way from its output to what goes into the next, or to the logits from the last.
        logits: ``(batch, num_outputs)``.
    """

    calls: list[LayerCall]
    states: list[torch.Tensor]
    gaps: list[Replay]
    logits: torch.Tensor


def record_forward(model: nn.Module, layers: Sequence[nn.Module], batch: Mapping[str, torch.Tensor]) -> Recording:
    """Run the model on a batch and listen.

    Raises:
        SharedWorkError: If the layers do not run one after the other, each on what the one before gave.
    """
    recorder = _Recorder(type(model).__name__)
    handles = []
    try:
        with recorder.listening:
            for layer in layers:
                handles += [
                    layer.register_forward_pre_hook(recorder.before, prepend=True, with_kwargs=True),
                    layer.register_forward_hook(recorder.after),
                ]
            logits = logits_of(model(**batch))
    finally:
        for handle in handles:
            handle.remove()
    recorder.close_gap(logits)
    if recorder.order != list(layers):
        raise recorder.unshareable()
    return Recording(recorder.calls, recorder.states, recorder.gaps, logits)


class _Recorder:
    """Two hooks of every layer and what they have heard."""

    def __init__(self, model_name: str) -> None:
        self.listening = ExitStack()
        self.order: list[nn.Module] = []
        self.calls: list[LayerCall] = []
        self.states: list[torch.Tensor] = []
        self.gaps: list[Replay] = []
        self._model_name = model_name
        self._tape: Tape | None = None

    def before(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note how a layer is called, and close the gap in front of it."""
        if isinstance(layer, Identity):
            argument = layer.identity_argument
        else:
            argument = hidden_argument(layer, Call(args, kwargs, None))
        hidden = argument.pick(args, kwargs)
        if self.order:
            self.close_gap(hidden)
        # A stand-in returns its very input. Under another name it is not taken for what the encoder still holds of
        # the input, as DeBERTa-v2 does for the convolution after its first layer.
        hidden = hidden.view_as(hidden)
        call = LayerCall(argument, args, kwargs)
        self.calls.append(LayerCall(argument, *call.with_hidden(None)))
        self.order.append(layer)
        self.states.append(hidden)
        return call.with_hidden(hidden)

    def after(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Start to listen."""
        self._tape = self.listening.enter_context(Tape(hidden_of(output)))

    def close_gap(self, end: torch.Tensor) -> None:
        """Stop listening: the next layer is about to run on this tensor, or it is the logits."""
        self.listening.close()
        try:
            if self._tape is None:
                raise ReplayError
            self.gaps.append(self._tape.replay(end))
        except ReplayError as error:
            raise self.unshareable() from error
        self._tape = None

    def unshareable(self) -> SharedWorkError:
        """Say that plans cannot share work in this model."""
        return SharedWorkError(
            f"the layers of {self._model_name} do not run one after the other, each on what the one before gave, so "
            "plans cannot share work: evaluate them one at a time, `with bypass(model, plan): evaluate(model, ...)`"
        )
