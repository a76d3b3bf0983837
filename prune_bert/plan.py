"""What to remove, as a value: a set of sites and the norm rule, in text and in JSON."""

from __future__ import annotations

import difflib
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from prune_bert.errors import UserError

if TYPE_CHECKING:
    from prune_bert.display import Shown

Component = Literal["layer", "attention", "ffn"]
NormRule = Literal["keep", "skip"]

COMPONENTS: tuple[Component, ...] = get_args(Component)
NORM_RULES: tuple[NormRule, ...] = get_args(NormRule)

MOST_SITES = 3_000
"""That a plan read from text or a file may name: a thousand layers with their sublayers."""
PLAN_FILE = "plan.json"
_CONFIG_FILE, _RECORD = "config.json", "prune_bert"  # where a pruned checkpoint remembers its plan, and under which key

_EXAMPLE = "a plan looks like 'layer:9-11 attention:4 ffn:0,2 norm=skip'"


class PlanError(UserError, ValueError):
    """A plan that cannot be read, or that names what is not there."""


class PlanWarning(UserWarning):
    """A plan that says something twice."""


@dataclass(frozen=True)
class Site:
    """One prunable place: a layer, or the attention or feed-forward sublayer of one.

    Attributes:
        layer: The encoder layer, counted from 0.
        component: ``"layer"``, ``"attention"`` or ``"ffn"``.

    Raises:
        PlanError: If the layer is negative or not a whole number, or the component unknown.

    Examples:
        >>> Site(4, "attention")
        Site(4, 'attention')
        >>> str(Site(4, "attention"))
        'attention:4'
    """

    layer: int
    component: Component = "layer"

    def __post_init__(self) -> None:
        if isinstance(self.layer, bool) or not isinstance(self.layer, int) or self.layer < 0:
            raise PlanError(f"a layer is a whole number counted from 0, not {self.layer!r}")
        if self.component not in COMPONENTS:
            raise PlanError(_unknown("component", self.component, COMPONENTS))

    def __str__(self) -> str:
        return f"{self.component}:{self.layer}"

    def __repr__(self) -> str:
        return f"Site({self.layer}, {self.component!r})"

    def _repr_html_(self) -> str:
        """Return what notebooks show."""
        return f"<code>{self.component}:{self.layer}</code>"

    def __lt__(self, other: Site) -> bool:
        return self._forward_order() < other._forward_order()

    def _forward_order(self) -> tuple[int, int]:
        return self.layer, COMPONENTS.index(self.component)


@dataclass(frozen=True, repr=False)
class PruningPlan:
    """An immutable set of sites and the norm rule for the sublayers among them.

    A ``layer`` site swallows the sublayer sites of the same layer, with a ``PlanWarning``.

    Attributes:
        sites: The sites to remove, kept in forward order and free of duplicates.
        norm: For sublayer sites of post-LN encoders: ``"keep"`` leaves the residual and its LayerNorm,
            ``LN(x)``; ``"skip"`` is the exact identity, ``x``. A layer site is always an exact identity.

    Raises:
        PlanError: If the norm rule is unknown or a site is not a ``Site``.

    Examples:
        >>> plan = PruningPlan.parse("layer:1 ffn:2,3")
        >>> plan | PruningPlan.parse("attention:0")
        PruningPlan.parse('layer:1 attention:0 ffn:2-3')
        >>> file = plan.save_pretrained(output_dir)
        >>> PruningPlan.from_pretrained(output_dir) == plan
        True
    """

    sites: tuple[Site, ...] = field(default=())
    norm: NormRule = "keep"

    def __post_init__(self) -> None:
        if self.norm not in NORM_RULES:
            raise PlanError(_unknown("norm rule", self.norm, NORM_RULES))
        sites = set(self.sites)
        strangers = [site for site in sites if not isinstance(site, Site)]
        if strangers:
            raise PlanError(f"a plan holds Site objects, not {strangers[0]!r}; for text use PruningPlan.parse")
        whole = {site.layer for site in sites if site.component == "layer"}
        swallowed = sorted(site for site in sites if site.component != "layer" and site.layer in whole)
        if swallowed:
            names = ", ".join(map(str, swallowed))
            warnings.warn(f"{names}: already removed with the whole layer", PlanWarning, stacklevel=3)
        object.__setattr__(self, "sites", tuple(sorted(sites - set(swallowed))))

    @classmethod
    def parse(cls, text: str) -> PruningPlan:
        """Read the text form, such as ``"layer:9-11 attention:4 ffn:0,2 norm=skip"``.

        Raises:
            PlanError: If the text is not a plan; the message names the word at fault.
        """
        if not isinstance(text, str):
            raise PlanError(f"a plan is text, not {type(text).__name__} {text!r}; {_EXAMPLE}")
        sites: list[Site] = []
        norm: NormRule | None = None
        for word in text.split():
            if "=" in word:
                if norm is not None:
                    raise PlanError(f"{word!r}: the norm rule is given twice")
                norm = _parse_norm(word)
            else:
                sites += _parse_sites(word, MOST_SITES - len(sites))
        return cls(tuple(sites), norm or "keep")

    @classmethod
    def of(cls, plan: PruningPlan | str) -> PruningPlan:
        """Return a plan that is given as one or as its text form.

        Raises:
            PlanError: If it is neither.
        """
        return plan if isinstance(plan, PruningPlan) else cls.parse(plan)

    @classmethod
    def many(cls, plans: Iterable[PruningPlan | str]) -> list[PruningPlan]:
        """Return plans that are given as such or as their text forms.

        Raises:
            PlanError: If one is neither, or a single plan is given in the place of several.
        """
        if isinstance(plans, (str, PruningPlan)):
            raise PlanError(f"several plans are expected, not the one {str(plans)!r}; give a list: [{str(plans)!r}]")
        return [cls.of(plan) for plan in plans]

    @classmethod
    def from_json(cls, data: Any) -> PruningPlan:
        """Read what ``to_json`` wrote.

        Raises:
            PlanError: If the mapping is not a plan's.
        """
        try:
            if len(data["sites"]) > MOST_SITES:
                raise PlanError(f"the plan names over {MOST_SITES:,} sites, more than any model has")
            sites = tuple(Site(site["layer"], site["component"]) for site in data["sites"])
            return cls(sites, data.get("norm", "keep"))
        except (KeyError, TypeError, AttributeError) as error:
            raise PlanError(
                'a plan in JSON looks like {"sites": [{"layer": 4, "component": "attention"}], "norm": "keep"}'
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON-able data."""
        sites = [{"layer": site.layer, "component": site.component} for site in self.sites]
        return {"sites": sites, "norm": self.norm}

    def file_text(self) -> str:
        """Return the content of a ``plan.json``."""
        return json.dumps({"text": str(self), **self.to_json()}, indent=2) + "\n"

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write the plan to ``plan.json`` in a directory, which is made if need be.

        Returns:
            The file, which `from_pretrained` and ``--plan`` read.

        Raises:
            PlanError: If the file cannot be written.
        """
        file = Path(directory).expanduser() / PLAN_FILE
        _write(file, self.file_text())
        return file

    @classmethod
    def from_pretrained(cls, directory_or_file: str | Path) -> PruningPlan:
        """Read a plan from what `save_pretrained`, a run of ``prune`` or ``search``, or ``save_pruned`` wrote.

        A pruned checkpoint's ``config.json`` remembers its plan in the numbering of the unpruned model.

        Args:
            directory_or_file: A directory with a ``plan.json`` or a pruned checkpoint, or a file such as
                ``chosen_plan.json``.

        Raises:
            PlanError: If there is no plan, or a directory holds two that differ.
        """
        path = Path(directory_or_file).expanduser()
        if not path.is_dir():
            return _read_plan(path)
        files = [path / name for name in (PLAN_FILE, _CONFIG_FILE) if (path / name).is_file()]
        if not files:
            there = ", ".join(sorted(file.name for file in path.glob("*.json"))) or "no JSON file"
            raise PlanError(
                f"{str(path)!r} holds neither {PLAN_FILE} nor a pruned checkpoint, but {there}; name the file"
            )
        if len(files) == 1 or not _remembers_plan(files[1]):
            return _read_plan(files[0])
        saved, remembered = map(_read_plan, files)
        if saved != remembered:
            both = f"{PLAN_FILE} has {str(saved)!r} and {_CONFIG_FILE} {str(remembered)!r}"
            raise PlanError(f"{str(path)!r} holds two plans: {both}; name the file")
        return saved

    def __str__(self) -> str:
        words = [
            f"{component}:{_compress([site.layer for site in self.sites if site.component == component])}"
            for component in COMPONENTS
            if any(site.component == component for site in self.sites)
        ]
        return " ".join(words + (["norm=skip"] if self.norm == "skip" else []))

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    def __contains__(self, site: object) -> bool:
        return site in self.sites

    def __or__(self, other: PruningPlan) -> PruningPlan:
        return self._combined(other, set(self.sites) | set(other.sites))

    def __and__(self, other: PruningPlan) -> PruningPlan:
        return self._combined(other, set(self.sites) & set(other.sites))

    def __sub__(self, other: PruningPlan) -> PruningPlan:
        return self._combined(other, set(self.sites) - set(other.sites))

    def layers(self) -> tuple[int, ...]:
        """Return the whole layers removed, ascending."""
        return tuple(site.layer for site in self.sites if site.component == "layer")

    def sublayers(self) -> tuple[Site, ...]:
        """Return the sublayer sites, in forward order."""
        return tuple(site for site in self.sites if site.component != "layer")

    def __repr__(self) -> str:
        return f"PruningPlan.parse({str(self)!r})"

    def _repr_html_(self) -> str:
        """Return the table that notebooks show."""
        from prune_bert.display import html_of

        return html_of(self)

    def _shown(self) -> Shown:
        from prune_bert.display import Shown

        layers = {part: [site.layer for site in self.sites if site.component == part] for part in COMPONENTS}
        facts = [(part, _compress(numbers)) for part, numbers in layers.items() if numbers]
        return Shown("removes" if facts else "removes nothing", [*facts, ("norm", self.norm)])

    def _combined(self, other: PruningPlan, sites: Iterable[Site]) -> PruningPlan:
        if self.norm != other.norm and self.sublayers() and other.sublayers():
            raise PlanError(f"plans with norm={self.norm} and norm={other.norm} do not combine")
        return PruningPlan(tuple(sites), self.norm if self.sublayers() else other.norm)


def _read_plan(file: Path) -> PruningPlan:
    """Read a file of `PruningPlan.save_pretrained`, or the ``config.json`` of a pruned checkpoint.

    Raises:
        PlanError: If it is not there, or holds no plan.
    """
    data = _read_json(file)
    of_model = isinstance(data, dict) and "sites" not in data and file.name == _CONFIG_FILE
    record = data.get(_RECORD) if of_model else None
    if of_model and not (isinstance(record, dict) and "plan" in record):
        raise PlanError(f"{str(file)!r} is of a model that is not pruned: it remembers no plan")
    try:
        return PruningPlan.from_json(data) if record is None else PruningPlan.parse(record["plan"])
    except PlanError as error:
        raise PlanError(f"{str(file)!r}: {error}") from error


def _remembers_plan(config_file: Path) -> bool:
    data = _read_json(config_file)
    return isinstance(data, dict) and isinstance(data.get(_RECORD), dict)


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        reason = "there is no such file or directory" if isinstance(error, FileNotFoundError) else error.strerror
        raise PlanError(f"cannot read a plan from {str(file)!r}: {reason}") from error
    except ValueError as error:
        raise PlanError(f"{str(file)!r} is not JSON: {error}") from error


def _write(file: Path, text: str) -> None:
    """Write a file that is there in full or not at all.

    Raises:
        PlanError: If it cannot be written.
    """
    from prune_bert.storage import write_text

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise PlanError(f"cannot write {str(file)!r}: {error.strerror or error}") from error


def _parse_norm(word: str) -> NormRule:
    key, _, value = word.partition("=")
    if key != "norm":
        raise PlanError(f"{word!r}: {_unknown('option', key, ('norm',))}; {_EXAMPLE}")
    if value not in NORM_RULES:
        raise PlanError(f"{word!r}: {_unknown('norm rule', value, NORM_RULES)}")
    return value


def _parse_sites(word: str, at_most: int) -> list[Site]:
    component, colon, indices = word.partition(":")
    if not colon:
        raise PlanError(f"{word!r} has no ':' between the component and its layers; {_EXAMPLE}")
    if component not in COMPONENTS:
        raise PlanError(f"{word!r}: {_unknown('component', component, COMPONENTS)}")
    spans = [_span(word, part) for part in indices.split(",")]
    if sum(map(len, spans)) > at_most:
        raise PlanError(f"{word!r}: the plan names over {MOST_SITES:,} sites, more than any model has")
    return [Site(layer, component) for span in spans for layer in span]


def _span(word: str, part: str) -> range:
    """Read one layer number or one range of them."""
    if not part:
        raise PlanError(f"{word!r}: a layer number is missing; {_EXAMPLE}")
    match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", part)
    if match is None:
        raise PlanError(f"{word!r}: {part!r} is neither a layer number nor a range such as 9-11; layers count from 0")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise PlanError(f"{word!r}: the range {part} runs backwards; write {last}-{first}")
    return range(first, last + 1)


def _compress(layers: Sequence[int]) -> str:
    """Write ``[0, 2, 3, 4]`` as ``"0,2-4"``."""
    runs = []
    for _, group in groupby(enumerate(layers), key=lambda pair: pair[1] - pair[0]):
        run = [layer for _, layer in group]
        runs.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(runs)


def _unknown(kind: str, given: object, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(str(given), known, n=1, cutoff=0.4)
    guess = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown {kind} {given!r}, expected {' | '.join(known)}{guess}"
