"""Scorers that look at no data: by position, and by the size of the weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from prune_bert.importance.calibration import Calibration
from prune_bert.importance.scores import Score, certain
from prune_bert.plan import Site
from prune_bert.search.orders import removal_order


def positional(calibration: Calibration) -> dict[Site, Score]:
    """Score by the place of the site's layer in a removal order, 0 for the first to go.

    Sajjad et al., "On the Effect of Dropping Layers of Pre-trained Transformer Models" (arXiv 2004.03844, 2020),
    section 3: top, bottom, alternate (odd, even) and symmetric; see `prune_bert.search.orders`. The two sublayers
    of a layer score as the layer does.
    """
    places = {
        layer: place for place, layer in enumerate(removal_order(calibration.name, len(calibration.encoder.layers)))
    }
    return {site: certain(float(places[site.layer])) for site in calibration.sites}


def magnitude(calibration: Calibration) -> dict[Site, Score]:
    """Score by the Euclidean norm of the site's weight matrices, without biases and LayerNorms.

    Li et al., "Pruning Filters for Efficient ConvNets" (ICLR 2017), in its l2 form and with whole sites for filters. An
    attention and a feed-forward sublayer differ in size, so their scores do not compare well with each other.
    """
    return {site: certain(_norm(_modules(calibration, site))) for site in calibration.sites}


def _modules(calibration: Calibration, site: Site) -> list[nn.Module]:
    layer = calibration.encoder.layers[site.layer]
    if site.component == "layer":
        return [layer]
    return [layer.get_submodule(part.path) for part in calibration.encoder.parts(site.component, "skip")]


@torch.no_grad()
def _norm(modules: list[nn.Module]) -> float:
    weights = {id(weight): weight for module in modules for weight in module.parameters() if weight.dim() > 1}
    squares = [weight.double().square().sum() for weight in weights.values()]
    return math.sqrt(float(torch.stack(squares).sum())) if squares else 0.0
