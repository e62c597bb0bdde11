"""Networks trained with several seeds: their figures, and how sure a difference is.

Every figure is a row [1 + B]: the value, then B resamples of patients, the same for every network,
so that differences are paired. Seeds are resampled on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qdr_bench.built import qdr_edge
from qdr_edge.bootstrap import Floats, PatientWeights
from qdr_edge.checkpoint import load_checkpoint
from qdr_edge.errors import BenchmarkError
from qdr_edge.figures import Answers, figures
from qdr_edge.metrics import Estimate
from qdr_edge.samples import SampleSet

PATIENTS, DATA_SEED, DATA_SIZE = 240, 3, 160
RESAMPLES = 2000


@dataclass(frozen=True)
class Trained:
    """One network of one seed: its mAP on the test split and on resamples of its patients.

    Args:
        int8: [1 + B]; None for a float network.
        float_twin: The same weights in float, [1 + B].
    """

    int8: Floats | None
    float_twin: Floats


def draw(out: Path, patients: int) -> str:
    """Synthetic eyes in `out`; returns their CSV."""
    table = out / f"data-{patients}" / "synthetic.csv"
    if not table.is_file():
        qdr_edge("data", "synth", str(table.parent), "--patients", str(patients),
                  "--seed", str(DATA_SEED), "--size", str(DATA_SIZE))  # fmt: skip
    return str(table)


def evaluated(stage: Path, samples: SampleSet, modality: str) -> Trained:
    """The test mAP of a trained stage, from the logits in its checkpoint."""
    checkpoint = load_checkpoint(stage)
    test = samples.select(modality, "test")
    # A probe holds the validation images, then the test images.
    begin = len(samples.select(modality, "val"))
    # One seed of the bootstrap for all: every network meets the same resamples of patients.
    weights = PatientWeights(len(test), [s.patient for s in test], RESAMPLES, seed=0)
    targets = test.targets().astype(float)

    def rows(name: str) -> Floats:
        answers = Answers(checkpoint.probe[name][begin:].astype(float))
        return figures(answers, targets, checkpoint.labels, weights).whole["map"]

    quantized = checkpoint.scheme is not None
    return Trained(rows("reference_logits") if quantized else None, rows("float_logits"))


def over_seeds(values: Sequence[Floats], over: Sequence[Floats] | None = None) -> dict[str, Any]:
    """Mean over seeds of rows [1 + B], or its quotient with that of `over`; seeds resampled too."""
    stacked = np.stack(values)
    drawn = np.random.default_rng(0).integers(0, len(stacked), (len(stacked), stacked.shape[1]))
    drawn[:, 0] = np.arange(len(stacked))

    def mean(of: Floats) -> Floats:
        means: Floats = np.take_along_axis(of, drawn, axis=0).mean(axis=0)
        return means

    rows, by_seed = mean(stacked), stacked[:, 0]
    if over is not None:
        rows, by_seed = rows / mean(np.stack(over)), by_seed / np.stack(over)[:, 0]
    found = Estimate.of(rows, len(stacked))
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "by_seed": by_seed.tolist(),
    }


def int8_rows(network: Trained) -> Floats:
    """The int8 figures of a quantized network, [1 + B]."""
    assert network.int8 is not None, "only quantized students are compared"
    return network.int8


def require_same_test(samples: Sequence[SampleSet], runs: Mapping[int, Path]) -> None:
    """A split that is made by seed would compare networks on different images."""
    tests = [[(s.file, s.labels.tolist()) for s in table if s.split == "test"] for table in samples]
    for test, run in zip(tests, runs.values(), strict=True):
        if test != tests[0]:
            raise BenchmarkError(
                "its test split is not that of the other seeds",
                where=str(run),
                expected="data that says which images are for testing",
                fix="add a split column",
            )


def points(estimate: Mapping[str, Any], *, signed: bool = False) -> str:
    """An estimate in points, with its interval."""
    form = "+.1f" if signed else ".1f"
    value, low, high = (format(100 * estimate[key], form) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
