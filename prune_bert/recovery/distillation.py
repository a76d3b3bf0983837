"""Learning from the unpruned model: its outputs, and its hidden states at the layers that both have."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from prune_bert.profiling import eval_mode
from prune_bert.recovery.settings import RecoverSettings, RecoveryError
from prune_bert.surgery import pruning_record
from prune_bert.training.losses import Batch, cross_entropies, squared_errors
from prune_bert.training.state import config_fingerprint, weights_fingerprint

LayerPairs = tuple[tuple[int, int], ...]  # positions of a layer in the student and in the teacher


@dataclass(frozen=True, eq=False)
class DistillationLoss:
    """The distance of a student's outputs from a teacher's, for every example.

    Classification: the Kullback-Leibler divergence of the student's softened distribution from the teacher's, times
    the temperature squared (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2).
    Regression, a model with one output: the squared error to the teacher's. Beside it, by ``label_weight``, the
    task's own loss, and by ``hidden_weight`` the distance of hidden states (Jiao et al. 2020, "TinyBERT", section
    3.1, here without a projection: the widths are equal).

    Attributes:
        teacher: In evaluation mode, on the student's device, not wrapped by accelerate.
        temperature: Divides both models' logits.
        label_weight: Share of the task's own loss, from 0 to 1.
        hidden_weight: Weight of the hidden states' distance.
        layers: Whose hidden states are matched; see `shared_layers`.
        autocast: The precision that the student runs in.
    """

    teacher: nn.Module
    temperature: float
    label_weight: float = 0.0
    hidden_weight: float = 0.0
    layers: LayerPairs = ()
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext

    @property
    def needs_labels(self) -> bool:
        """Whether a batch's labels are read."""
        return self.label_weight > 0

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the loss of every example, ``(batch,)``."""
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        wanted = {"output_hidden_states": True} if self.hidden_weight > 0 else {}
        student = model(**inputs, **wanted)
        with torch.no_grad(), self.autocast():
            known = {name: value for name, value in inputs.items() if name in _parameters(self.teacher)}
            taught = self.teacher(**known, **wanted)
        losses = self._outputs(student.logits.float(), taught.logits.float(), batch["labels"])
        if self.hidden_weight > 0:
            mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
            distance = hidden_distance(student.hidden_states, taught.hidden_states, self.layers, mask)
            losses = losses + self.hidden_weight * distance
        return losses

    def _outputs(self, logits: torch.Tensor, taught: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compare outputs, ``(batch, num_labels)``, with the teacher's and, where that counts, with the labels."""
        regression = logits.shape[-1] == 1
        if regression:
            losses = squared_errors(logits, taught.squeeze(-1))
        else:
            ours, theirs = (F.log_softmax(x / self.temperature, dim=-1) for x in (logits, taught))
            losses = F.kl_div(ours, theirs, log_target=True, reduction="none").sum(-1) * self.temperature**2
        if self.label_weight == 0:
            return losses
        own = (squared_errors if regression else cross_entropies)(logits, labels)
        return (1 - self.label_weight) * losses + self.label_weight * own

    def fingerprint(self) -> dict[str, Any]:
        """Return what this loss depends on, for the checkpoints of a run that minimises it."""
        return {
            "teacher": weights_fingerprint(self.teacher),
            "teacher config": config_fingerprint(self.teacher),
            "temperature": self.temperature,
            "label_weight": self.label_weight,
            "hidden_weight": self.hidden_weight,
            "matched layers": [list(pair) for pair in self.layers],
        }


def hidden_distance(
    ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor], layers: LayerPairs, mask: torch.Tensor
) -> torch.Tensor:
    """Return the mean squared error of normalised hidden states over layers and tokens, ``(batch,)``.

    Each token's vector is brought to mean 0 and variance 1, so that no layer counts by its scale.

    Args:
        ours: The student's hidden states: the embeddings, then every layer's output, ``(batch, seq, hidden)``.
        theirs: The teacher's.
        layers: Which of them belong together.
        mask: 1 where there is a token, ``(batch, seq)``.
    """
    tokens = mask.float()
    total = torch.zeros(len(mask), device=mask.device)
    for student, teacher in layers:
        pair = (states[layer + 1].float() for states, layer in ((ours, student), (theirs, teacher)))
        a, b = (F.layer_norm(states, states.shape[-1:]) for states in pair)
        total = total + (F.mse_loss(a, b, reduction="none").mean(-1) * tokens).sum(-1) / tokens.sum(-1)
    return total / len(layers)


def shared_layers(model: nn.Module, teacher: nn.Module) -> LayerPairs:
    """Pair the layers of a pruned model and its teacher that were one layer before pruning.

    Raises:
        RecoveryError: They were not of the same depth before pruning, or have no layer in common.
    """
    ours, theirs = (pruning_record(m.config) for m in (model, teacher))
    if ours.original_num_hidden_layers != theirs.original_num_hidden_layers:
        raise RecoveryError(
            f"the unpruned teacher has {theirs.original_num_hidden_layers} layers and the unpruned model "
            f"{ours.original_num_hidden_layers}, so their layers do not correspond; set hidden_weight to 0"
        )
    place = {original: now for now, original in enumerate(theirs.original_layer_indices)}
    pairs = [(now, place[o]) for now, o in enumerate(ours.original_layer_indices) if o in place]
    if not pairs:
        raise RecoveryError("the model and its teacher have no layer in common; set hidden_weight to 0")
    return tuple(pairs)


def chosen_teacher(model: nn.Module, teacher: nn.Module | None, settings: RecoverSettings) -> nn.Module | None:
    """Return the teacher that a recovery learns from: the one given, or for ``gradual`` a copy of the model.

    Raises:
        RecoveryError: There is none, one too many, or one that does not fit the model.
    """
    if settings.method == "fine_tuning":
        if teacher is not None:
            raise RecoveryError(
                "method 'fine_tuning' learns from the labels and takes no teacher; use method 'distillation'"
            )
        return None
    if teacher is None or teacher is model:
        if settings.schedule == "at_once":
            raise RecoveryError(
                "distillation needs a teacher beside the pruned model; give the model as it was before pruning, or use "
                "method 'fine_tuning'"
            )
        teacher = copy.deepcopy(model)
    check_teacher(model, teacher, settings.hidden_weight)
    if settings.hidden_weight > 0:
        shared_layers(model, teacher)
    return teacher


def check_teacher(model: nn.Module, teacher: nn.Module, hidden_weight: float) -> None:
    """Refuse a teacher that a model cannot learn from.

    Raises:
        RecoveryError: Labels, vocabulary or, where it matters, the hidden size differ.
    """
    ours, theirs = (m.config for m in (model, teacher))
    names = ["num_labels", "id2label", "vocab_size"] + (["hidden_size"] if hidden_weight > 0 else [])
    for name in names:
        own, other = getattr(ours, name, None), getattr(theirs, name, None)
        if own != other:
            raise RecoveryError(
                f"the teacher does not fit the model: its {name} is {other!r}, the model's is {own!r}; "
                "give the model as it was before pruning"
            )


@contextmanager
def teaching(teacher: nn.Module | None, device: torch.device) -> Iterator[None]:
    """Have a teacher on a device in evaluation mode; its modes and its place are put back."""
    if teacher is None:
        yield
        return
    home = next(teacher.parameters()).device
    with eval_mode(teacher):
        teacher.to(device)
        try:
            yield
        finally:
            teacher.to(home)


def _parameters(model: nn.Module) -> set[str]:
    return set(inspect.signature(model.forward).parameters)
