"""What a compensation is: a fitted correction for each site, and how it came about."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from prune_bert.compensation.settings import CompensationError
from prune_bert.corrections import Correction, CorrectionSpec, FittedSite
from prune_bert.plan import PruningPlan, Site
from prune_bert.storage import write_bytes

_NORM = ("norm_weight", "norm_bias")


@dataclass(frozen=True)
class SiteFit:
    """How one correction was fitted.

    Attributes:
        rank: Its rank; None for a full map.
        neurons: How many neurons of the FFN it keeps.
        ridge: The strength of the ridge, times the mean square of an input channel.
        error: The cross-validated squared error, as a share of that of a correction by the mean alone.
        tokens: How many tokens it was fitted to.
    """

    rank: int | None
    neurons: int
    ridge: float
    error: float
    tokens: int


class Compensation(Mapping[Site, FittedSite]):
    """The corrections of a plan, by site: what ``bypass`` and ``drop`` take beside the plan.

    Args:
        plan: The plan.
        corrections: What was fitted. The earlier layers of a run of adjacent ones have none: the last carries it.
        fits: How.
        notes: What a reader of the results should know.
    """

    def __init__(
        self,
        plan: PruningPlan,
        corrections: Mapping[Site, FittedSite],
        fits: Mapping[Site, SiteFit],
        notes: tuple[str, ...] = (),
    ) -> None:
        self.plan = plan
        self.fits = dict(fits)
        self.notes = notes
        self._corrections = dict(corrections)

    def __getitem__(self, site: Site) -> FittedSite:
        """Give the correction of a site."""
        return self._corrections[site]

    def __iter__(self) -> Iterator[Site]:
        """Go through the sites that carry a correction."""
        return iter(self._corrections)

    def __len__(self) -> int:
        """Count the corrections."""
        return len(self._corrections)

    def save(self, path: str | Path) -> Path:
        """Write it to a safetensors file."""
        from safetensors.torch import save

        tensors = {f"{site}/{name}": tensor for site, one in self.items() for name, tensor in _tensors(one).items()}
        facts = {
            "plan": str(self.plan),
            "specs": {str(site): one.correction.spec.to_json() for site, one in self.items()},
            "fits": {str(site): asdict(fit) for site, fit in self.fits.items()},
            "notes": list(self.notes),
        }
        # save_file would leave a file that only its owner can read
        write_bytes(Path(path), save(tensors, metadata={"compensation": json.dumps(facts)}))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Compensation:
        """Read what `save` wrote.

        Raises:
            CompensationError: It is not there, or something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                facts: dict[str, Any] = json.loads((file.metadata() or {})["compensation"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise CompensationError(f"{str(path)!r} holds no compensation: {error}") from error
        plan = PruningPlan.parse(facts["plan"])
        named = {str(site): site for site in plan}
        corrections = {
            named[text]: _fitted(CorrectionSpec.from_json(spec), _of_site(text, tensors))
            for text, spec in facts["specs"].items()
        }
        fits = {named[text]: SiteFit(**fit) for text, fit in facts["fits"].items()}
        return cls(plan, corrections, fits, tuple(facts["notes"]))


def _tensors(fitted: FittedSite) -> dict[str, torch.Tensor]:
    found = dict(fitted.correction.state_dict())
    found |= {name: getattr(fitted, name) for name in _NORM if getattr(fitted, name) is not None}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def _of_site(site: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{site}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{site}/")}


def _fitted(spec: CorrectionSpec, tensors: dict[str, torch.Tensor]) -> FittedSite:
    norm = [tensors.pop(name, None) for name in _NORM]
    correction = Correction(len(tensors["bias"]), spec)
    correction.load_state_dict(tensors)
    return FittedSite(correction, *norm)
