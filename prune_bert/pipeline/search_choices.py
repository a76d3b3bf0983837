"""What a search is asked to do, settled and checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prune_bert.compensation import CompensationSettings
from prune_bert.config import SearchConfig
from prune_bert.plan import Component
from prune_bert.search import Budget, SearchError

DEFAULT_SCORER = "block_influence"
_BEAM_WIDTH = 4


@dataclass(frozen=True)
class Choices:
    """A search's settings with nothing left open.

    Attributes:
        strategy: How to search.
        components: Which sites may go.
        width: The width of the beam, or None where there is none.
        racing: Whether plans race.
        scorer: What `one_shot` goes by.
        objective: What is kept up.
        compensation: How corrections are fitted; None where there are none.
        budget: What was asked for.
    """

    strategy: str
    components: tuple[Component, ...]
    width: int | None
    racing: bool
    scorer: str
    objective: str
    compensation: CompensationSettings | None
    budget: Budget

    @property
    def by_agreement(self) -> bool:
        """Whether accuracy means the agreement with the unpruned model: the share of predictions that stay.

        On a regression it is the correlation with its predictions.
        """
        return self.objective == "agreement"

    @property
    def needs_labels(self) -> bool:
        """Whether the objective looks at labels."""
        return self.objective in ("loss", "metric")

    @property
    def whole_layers(self) -> bool:
        """Whether only whole layers go."""
        return self.components == ("layer",)


def settle(config: SearchConfig) -> Choices:
    """Fill in what was left open, and refuse what contradicts itself.

    The default is `sublayer`: on a post-LN encoder half a layer at a time finds faster plans at the same accuracy than
    whole layers do, for some dozens of plans. Where a number of layers is asked for, it is `greedy` over layers.

    Raises:
        SearchError: It lists every contradiction.
    """
    budget = budget_of(config)
    budget.check()
    strategy = config.strategy or ("sublayer" if config.keep_layers is None else "greedy")
    components = config.components or (("attention", "ffn") if strategy == "sublayer" else ("layer",))
    width = config.beam_width or (_BEAM_WIDTH if strategy == "beam" else None)
    can_race = strategy == "exhaustive" or width is not None
    faults = list(_faults(config, strategy, components, can_race=can_race))
    if faults:
        raise SearchError(f"the settings do not fit together: {'; '.join(faults)}")
    compensated = config.compensation != "none"
    compensation = CompensationSettings.from_options(config) if compensated else None
    objective = config.objective or ("divergence" if compensated else "loss")
    scorer = config.scorer or DEFAULT_SCORER
    return Choices(strategy, components, width, bool(config.racing), scorer, objective, compensation, budget)


def task_notes(choices: Choices, *, regression: bool) -> tuple[str, ...]:
    """Check what depends on the kind of task: on a regression the agreement is a correlation over all rows.

    Returns:
        What a reader of the results should know.

    Raises:
        SearchError: Racing was asked for, and rows cannot be judged one by one.
    """
    if not regression or choices.objective != "agreement":
        return ()
    if choices.racing:
        raise SearchError(
            "racing compares plans row by row, and on a regression the agreement is a correlation over all rows: use "
            "--objective divergence, which is the squared difference from the unpruned model, or --racing false"
        )
    return ("agreement on a regression is Pearson's correlation with the unpruned model's predictions",)


def compensation_words(settings: CompensationSettings | None) -> str:
    """Say what is fitted, as a person would; nothing where nothing is."""
    if settings is None:
        return ""
    ranked = settings.form in ("low_rank", "neurons")
    rank = f"rank {settings.rank}" if settings.rank is not None else "a rank by cross-validation"
    neurons = f"{settings.neurons} neurons of an FFN" if settings.form == "neurons" else ""
    return ", ".join(filter(None, (f"compensation {settings.form}", rank if ranked else "", neurons)))


def budget_of(config: SearchConfig) -> Budget:
    """Take the budget from a config."""
    return Budget(
        max_accuracy_drop=config.max_accuracy_drop,
        respect_interval=config.respect_interval,
        min_speedup=config.min_speedup,
        max_latency_ms=config.max_latency_ms,
        max_parameters=config.max_parameters,
        keep_layers=config.keep_layers,
        batch_size=config.batch_size,
        sequence_length=config.sequence_length,
    )


def budget_words(budget: Budget) -> str:
    """Say a budget as a person would; nothing where nothing is asked for."""
    points = "point" if budget.max_accuracy_drop == 1 else "points"
    drop = "" if budget.max_accuracy_drop is None else f"at most {budget.max_accuracy_drop:g} {points} lost"
    if drop and budget.respect_interval:
        drop += " at the worse end of the interval"
    speedup = "" if budget.min_speedup is None else f"at least {budget.min_speedup:g} times as fast"
    latency = "" if budget.max_latency_ms is None else f"at most {budget.max_latency_ms:g} ms"
    parameters = "" if budget.max_parameters is None else f"at most {budget.max_parameters:,} parameters"
    layers = "" if budget.keep_layers is None else f"{budget.keep_layers} layers kept"
    return " and ".join(filter(None, (drop, speedup, latency, parameters, layers)))


def _faults(config: SearchConfig, strategy: str, components: tuple[Component, ...], *, can_race: bool) -> Iterator[str]:
    if strategy == "sublayer" and "layer" in components:
        yield "strategy sublayer takes the components attention and ffn; for layers use greedy or beam"
    if strategy == "exhaustive" and "layer" in components and len(components) > 1:
        yield "strategy exhaustive takes whole layers or sublayers, not both"
    if config.scorer is not None and strategy != "one_shot":
        yield f"scorer {config.scorer} is what one_shot goes by, and the strategy is {strategy}"
    if config.beam_width is not None and strategy not in ("beam", "sublayer"):
        yield f"beam_width is for the strategies beam and sublayer, not {strategy}"
    if config.racing and not can_race:
        yield f"racing is for beams and exhaustive, and the strategy is {strategy}"
    if config.racing and config.objective == "metric":
        yield "racing needs an objective that is a mean over examples: loss, agreement or divergence, not metric"
    if config.racing and config.compensation != "none":
        yield "racing is for searches without a compensation, where a plan is fitted before its first example is seen"
    if config.respect_interval and config.objective == "agreement":
        yield "respect_interval needs labels, and the objective agreement does without"
    if config.keep_layers is not None and "layer" not in components and config.norm == "keep":
        yield (
            f"keep_layers {config.keep_layers} counts whole layers, and the search removes sublayers whose LayerNorms "
            "stay: use --strategy greedy, or --components layer"
        )
