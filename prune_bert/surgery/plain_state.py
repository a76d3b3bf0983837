"""``load_state_dict`` of a model with stand-ins takes the tensors of its portable form, too.

A trainer that saves its checkpoints with ``save_pretrained`` loads them with ``load_state_dict`` when it resumes.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from prune_bert.architectures import find_encoder
from prune_bert.plan import Site
from prune_bert.surgery.plain_form import State, plain_form, portable_obstacle, read_corrections
from prune_bert.surgery.record import pruning_record


def accept_plain_state(model: PreTrainedModel) -> None:
    """Make a model's ``load_state_dict`` turn the tensors of the portable form into those of the stand-ins."""
    untyped: Any = model
    untyped.register_load_state_dict_pre_hook(_take_in)


def _take_in(model: Any, state: State, prefix: str, *rest: Any) -> None:
    """Replace the tensors of removed sublayers in a state dict by those of the corrections that they hold."""
    errors: list[str] = rest[-1]
    own = {prefix + name for name in model.state_dict()}
    if all(name in own for name in state if name.startswith(prefix)) or portable_obstacle(model) is not None:
        return
    plain, whole = plain_form(model)
    dead = {name for name in whole if prefix + name not in own}
    given = {name: state.pop(prefix + name) for name in dead if prefix + name in state}
    expected = pruning_record(model.config).current_corrections()
    if not given:
        return
    if expected and len(given) < len(dead):
        errors.append("a pruned model with corrections takes a portable checkpoint whole, not shard by shard")
        return
    plain.load_state_dict(given, strict=False)
    corrections = read_corrections(plain)
    left = plain.state_dict()
    trained = sorted(name for name in given if left[name].count_nonzero())
    found = {site: fitted.correction.spec for site, fitted in corrections.items()}
    if trained or found != expected:
        what = trained[0] if trained else str(next(site for site in found if found[site] != expected.get(site)))
        errors.append(f"{what} was removed from this model and is not zero in the state: use prune_bert.load_pruned")
    for site, fitted in corrections.items():
        path = prefix + _correction_path(model, site)
        state.update({path + name: tensor for name, tensor in fitted.correction.state_dict().items()})


def _correction_path(model: PreTrainedModel, site: Site) -> str:
    """Return the path of a site's correction, with a dot at its end."""
    encoder = find_encoder(model)
    part = next(p for p in encoder.parts(site.component, "keep") if p.skipping != "ignored")
    return f"{encoder.path}.{site.layer}.{part.path}.correction."
