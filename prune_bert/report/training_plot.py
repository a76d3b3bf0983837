"""The training curve of a recovery: the loss on the rows trained on, and on those set aside."""

from __future__ import annotations

from matplotlib.figure import Figure

from prune_bert.report.model import PruningReport
from prune_bert.report.plots import BLUE, GREEN, MUTED, WIDTH_INCHES, plot_style


def training_plot(report: PruningReport) -> Figure | None:
    """Draw the losses over the steps, with the step whose weights were kept; None where nothing was trained."""
    recovery = report.recovery
    if recovery is None or not recovery.losses:
        return None
    with plot_style():
        figure = Figure(figsize=(WIDTH_INCHES, 3.1), layout="constrained")
        axes = figure.subplots()
        lines = ((recovery.losses, BLUE, "", "training"), (recovery.selection_losses, GREEN, "o", "set aside"))
        for points, colour, marker, label in lines:
            if points:
                steps, losses = zip(*points, strict=True)
                axes.plot(steps, losses, color=colour, marker=marker, markersize=4, linewidth=1.6, label=label)
        if recovery.best_step is not None:
            axes.axvline(recovery.best_step, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="kept")
        axes.set_xlabel("optimiser steps")
        axes.set_ylabel("loss")
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside upper left", ncols=3, fontsize=10, columnspacing=1.0)
        return figure
