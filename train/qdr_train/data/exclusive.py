"""Whether the labels of a data set exclude each other, by its own word or by the recipe's."""

from __future__ import annotations

from dataclasses import replace

from qdr_edge.errors import DatasetError
from qdr_edge.samples import SampleSet


def with_exclusive(samples: SampleSet, wanted: bool | None) -> SampleSet:
    """The samples under a vocabulary whose labels exclude each other, or do not.

    Args:
        samples: Any.
        wanted: What the recipe says; None keeps what the data set declares.

    Raises:
        DatasetError: Labels shall exclude each other, and an image has several.
    """
    if wanted is None or wanted == samples.labels.exclusive:
        return samples
    if wanted:
        for sample in samples:
            if sample.labels.sum() != 1:
                raise DatasetError(
                    f"{sample.file.name} has the labels {samples.labels.decode(sample.labels)}, "
                    "and the recipe says data.exclusive",
                    where=samples.source,
                    expected="one label for each image",
                    fix="set data.exclusive to false, or correct the row",
                )
    return replace(samples, labels=replace(samples.labels, exclusive=wanted))
