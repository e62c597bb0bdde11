"""Networks of a stage: made, loaded, and in the forms that a checkpoint proves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from qdr_edge.labels import LabelSet
from qdr_train.adopt.build import build_own, require_fits
from qdr_train.engine.ranks import ALONE, Ranks
from qdr_train.engine.state import load_state
from qdr_train.models import Classifier, build
from qdr_train.quant import qat
from qdr_train.recipe import Recipe, Stage

BEST_FLOAT = "best-float"
BEST_QAT = "best-qat"


def new_network(stage: Stage, recipe: Recipe, labels: LabelSet) -> Classifier:
    """A stage's network with random weights."""
    options = stage.model
    if options.own is not None:
        require_fits(options.own, size=recipe.size, classes=len(labels))
        network = build_own(options.own)
    else:
        network = build(
            options.name,
            len(labels),
            in_size=recipe.size,
            width=options.width,
            dropout=options.dropout,
        )
    # A fifth faster in float on CPUs (measured on a step of ResNet-18), no slower prepared.
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def load_teacher(
    folder: Path, stage: Stage, recipe: Recipe, labels: LabelSet, ranks: Ranks = ALONE
) -> Classifier:
    """The selected network of a finished teacher stage, read by the first process for all."""
    network = new_network(stage, recipe, labels)
    network.load_state_dict(ranks.from_writer(lambda: load_state(folder, BEST_FLOAT)[0]))
    return network.eval()


def forms(network: Classifier) -> Mapping[str, nn.Module]:
    """A selected network in the forms whose logits a checkpoint proves.

    Returns:
        "float" for a float network; "reference", "qat" and "float" for a quantized one.
    """
    if not qat.is_prepared(network):
        return {"float": network}
    return {
        "reference": qat.reference_form(network),
        "qat": network,
        "float": qat.float_form(network),
    }
