"""What a compensation is: a fitted correction for each site, and how it came about."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prune_bert.architectures import find_encoder
from prune_bert.compensation.settings import CompensationError
from prune_bert.corrections import Correction, CorrectionSpec, FittedSite
from prune_bert.display import Displayed, Shown, number
from prune_bert.plan import PruningPlan, Site
from prune_bert.storage import write_bytes, write_text
from prune_bert.surgery.fitted import FittedCorrections

WEIGHTS_FILE, FACTS_FILE = "compensation.safetensors", "compensation.json"

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


class Compensation(Displayed, FittedCorrections):
    """The corrections of a plan, by site: what ``bypass`` and ``drop`` take beside the plan.

    Args:
        plan: The plan.
        corrections: What was fitted. The earlier layers of a run of adjacent ones have none: the last carries it.
        fits: How.
        notes: What a reader of the results should know.
        num_hidden_layers: The depth of the model that it was fitted to; None where that is not known.

    Examples:
        >>> fitted = compensate(model, "ffn:3", rows, tokenizer)
        >>> file = fitted.save_pretrained(output_dir)
        >>> fitted = Compensation.from_pretrained(output_dir, model)
        >>> with bypass(model, "ffn:3", fitted):
        ...     score = evaluate(model, rows, tokenizer)
    """

    def __init__(
        self,
        plan: PruningPlan,
        corrections: Mapping[Site, FittedSite],
        fits: Mapping[Site, SiteFit],
        notes: tuple[str, ...] = (),
        *,
        num_hidden_layers: int | None = None,
    ) -> None:
        self.plan = plan
        self.fits = dict(fits)
        self.notes = notes
        self.num_hidden_layers = num_hidden_layers
        self._corrections = dict(corrections)

    def __getitem__(self, site: Site) -> FittedSite:
        """Return the correction of a site."""
        return self._corrections[site]

    def __iter__(self) -> Iterator[Site]:
        """Go through the sites that carry a correction."""
        return iter(self._corrections)

    def __len__(self) -> int:
        """Count the corrections."""
        return len(self._corrections)

    @property
    def hidden_size(self) -> int | None:
        """The width of the hidden states that it was fitted to; None where there is no correction."""
        return next((one.correction.width for one in self.values()), None)

    def check_fits(self, model: nn.Module, plan: PruningPlan | str | None = None) -> None:
        """Refuse a model, or a plan, that it was not fitted for.

        Raises:
            CompensationError: Hidden size, depth or plan are others; the message has both sides.
        """
        config: Any = model.config
        ours, theirs = self.plan, self.plan if plan is None else PruningPlan.of(plan)
        facts = [
            ("hidden size", self.hidden_size, int(config.hidden_size)),
            ("number of layers", self.num_hidden_layers, len(find_encoder(model).layers)),
            ("plan", str(ours), str(theirs)),
        ]
        faults = [f"{name} {own!r}, not {other!r}" for name, own, other in facts if own not in (None, other)]
        if faults:
            raise CompensationError(
                f"the compensation does not belong here: it was fitted for {' and '.join(faults)}; give that model and "
                "plan, or fit one for these with compensate"
            )

    def save(self, path: str | Path) -> Path:
        """Write it to a safetensors file."""
        # save_file would leave a file that only its owner can read
        write_bytes(Path(path), self._as_bytes())
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
            return cls._of(facts, tensors)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CompensationError(f"{str(path)!r} holds no compensation: {reason}") from error

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write ``compensation.safetensors``, and what is known of it as ``compensation.json``, to a directory.

        Returns:
            The directory, which is made if need be.

        Raises:
            CompensationError: It cannot be written.
        """
        folder = Path(directory).expanduser()
        text = json.dumps(_plain(self._facts()), indent=2, allow_nan=False) + "\n"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FACTS_FILE).unlink(missing_ok=True)  # a killed save leaves the old weights or the new ones, alone
            write_bytes(folder / WEIGHTS_FILE, self._as_bytes())
            write_text(folder / FACTS_FILE, text)
        except OSError as error:
            raise CompensationError(f"cannot write to {str(folder)!r}: {error.strerror or error}") from error
        return folder

    @classmethod
    def from_pretrained(cls, directory_or_file: str | Path, model: nn.Module | None = None) -> Compensation:
        """Read what `save_pretrained` wrote, or a run with a compensation; the corrections are bit-equal.

        Args:
            directory_or_file: The directory, or its safetensors file.
            model: The model that it is for, to be told at once where they do not belong together.

        Raises:
            CompensationError: There is none, its two files differ, or it was fitted to another kind of model.
        """
        path = Path(directory_or_file).expanduser()
        file = path / WEIGHTS_FILE if path.is_dir() else path
        if not file.is_file():
            raise CompensationError(f"{str(path)!r} holds no compensation: there is no file {str(file)!r}")
        found, described = cls.load(file), file.with_name(FACTS_FILE)
        if path.is_dir() and described.is_file() and _read_json(described) != _plain(found._facts()):
            raise CompensationError(
                f"{str(path)!r}: {FACTS_FILE} is of another compensation than {WEIGHTS_FILE}; fit anew"
            )
        if model is not None:
            found.check_fits(model)
        return found

    def _facts(self) -> dict[str, Any]:
        depth = {} if self.num_hidden_layers is None else {"num_hidden_layers": self.num_hidden_layers}
        return {
            "plan": str(self.plan),
            "specs": {str(site): one.correction.spec.to_json() for site, one in self.items()},
            "fits": {str(site): asdict(fit) for site, fit in self.fits.items()},
            "notes": list(self.notes),
            "hidden_size": self.hidden_size,
            **depth,
        }

    def _as_bytes(self) -> bytes:
        from safetensors.torch import save

        tensors = {f"{site}/{name}": tensor for site, one in self.items() for name, tensor in _tensors(one).items()}
        return save(tensors, metadata={"compensation": json.dumps(self._facts())})

    @classmethod
    def _of(cls, facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Compensation:
        plan = PruningPlan.parse(facts["plan"])
        named = {str(site): site for site in plan}
        corrections = {
            named[text]: _fitted(CorrectionSpec.from_json(spec), _of_site(text, tensors))
            for text, spec in facts["specs"].items()
        }
        fits = {named[text]: SiteFit(**fit) for text, fit in facts["fits"].items()}
        return cls(plan, corrections, fits, tuple(facts["notes"]), num_hidden_layers=facts.get("num_hidden_layers"))

    def _shown(self) -> Shown:
        title = f"plan {str(self.plan)!r}, {len(self)} correction{'' if len(self) == 1 else 's'}"
        facts = [("hidden size", str(self.hidden_size or "")), ("layers", str(self.num_hidden_layers or ""))]
        rows = []
        for site in self:
            fit, spec = self.fits.get(site), self[site].correction.spec
            known = ("", "", "") if fit is None else (number(fit.ridge), number(fit.error), f"{fit.tokens:,}")
            rows.append((str(site), "full" if spec.rank is None else str(spec.rank), str(spec.neurons), *known))
        return Shown(title, facts, ("site", "rank", "neurons", "ridge", "error", "tokens"), rows)


def _plain(value: Any) -> Any:
    """Write nan, which JSON does not have, as null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CompensationError(f"cannot read {str(file)!r}: {error}") from error


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
