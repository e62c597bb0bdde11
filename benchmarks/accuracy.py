"""Two models' accuracy on the same test images: ``python benchmarks/accuracy.py A.qdr B.qdr``.

The int8 artefacts inside the bundles are run as they ship, each with its own preprocessing, on the
images of one table; the difference in mAP is paired by image and its interval clustered by patient.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from qdr_bench.evaluation_data import find_table
from qdr_edge.bundle import Bundle, read_bundle
from qdr_edge.decision import label_scores
from qdr_edge.errors import BenchmarkError, QdrError
from qdr_edge.keys import TrustStore
from qdr_edge.metrics import Estimate, evaluate, paired_map_difference
from qdr_edge.preprocess import PreprocessSpec, load_image
from qdr_edge.runtime import choose_target, open_bundle
from qdr_edge.samples import SampleSet, read_csv


def main() -> None:
    """Print both models' mAP, what chance gives, and the paired difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path, help="bundle")
    parser.add_argument("second", type=Path, help="bundle to compare it with")
    parser.add_argument("--data", type=Path, help="CSV; default: data.csv of the first one's run")
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    try:
        compare(arguments.first, arguments.second, arguments.data, arguments.split)
    except QdrError as error:
        sys.exit(f"error: {error}")


def compare(first: Path, second: Path, data: Path | None, split: str) -> None:
    """Evaluate two bundles on the same images and print a table.

    Raises:
        QdrError: A bundle or the table cannot be used, or the bundles differ in modality or labels.
    """
    bundles = [read_bundle(path, trust=TrustStore.local()) for path in (first, second)]
    a, b = (bundle.manifest for bundle in bundles)
    if (a.modality, a.labels.codes) != (b.modality, b.labels.codes):
        raise BenchmarkError(
            f"{a.modality} {' '.join(a.labels.codes)} and {b.modality} {' '.join(b.labels.codes)}",
            expected="two bundles of the same modality and labels",
        )
    table = data or find_table(first)
    if table is None:
        raise BenchmarkError("no data.csv above it", where=str(first), fix="name a table: --data")
    labels = a.labels.label_set()
    samples = read_csv(table, labels).select(a.modality, split)
    targets, patients = samples.targets(), [sample.patient for sample in samples]
    answers = [label_scores(infer(bundle, samples), labels) for bundle in bundles]
    output = Table("bundle", "n", "patients", "mAP [95 %]", "AUC [95 %]", "mAP of chance")
    for path, scores in zip((first, second), answers, strict=True):
        result = evaluate(scores, targets, labels, groups=patients)
        output.add_row(
            path.stem,
            str(len(samples)),
            str(len(set(patients))),
            _percent(result.map),
            _percent(result.auc),
            f"{100 * result.chance_map:.1f}",
        )
    difference = paired_map_difference(*answers, targets, patients)
    console = Console()
    console.print(output)
    console.print(f"{first.stem} − {second.stem}: {_percent(difference, signed=True)} mAP points")


def infer(bundle: Bundle, samples: SampleSet) -> NDArray[np.float32]:
    """Logits of every image, [N, K]."""
    spec = PreprocessSpec.from_dict(dict(bundle.manifest.preprocess.spec))
    session = open_bundle(bundle, choose_target(bundle))
    try:
        return session.infer(np.stack([load_image(sample.file, spec) for sample in samples]))
    finally:
        session.close()


def _percent(estimate: Estimate, *, signed: bool = False) -> str:
    form = "+.1f" if signed else ".1f"
    low, value, high = (
        format(100 * v, form) for v in (estimate.low, estimate.value, estimate.high)
    )
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    main()
