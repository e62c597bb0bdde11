"""Images, eyes and patients: who belongs together is what the table says, never a file name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qdr_edge.bootstrap import Floats, PatientWeights
from qdr_edge.errors import DatasetError
from qdr_edge.evaluation.subject import Subject
from qdr_edge.figures import Answers
from qdr_edge.samples import SampleSet

LEVELS = ("image", "eye", "patient")
SEVERAL = "(several)"


@dataclass(frozen=True, eq=False)
class Level:
    """One split at one level.

    Args:
        name: "image", "eye" or "patient".
        unit: Number of each image's unit [N].
        targets: 0/1 [U, K]: the labels of any image of the unit, graded or not.
        graded: Units with at least one graded image, bool [U].
        answers: By form, of the graded units in order: each label's maximum over their images.
        weights: Resamples of all units by patient.
    """

    name: str
    unit: NDArray[np.int_]
    targets: Floats
    graded: NDArray[np.bool_]
    answers: Mapping[str, Answers]
    weights: PatientWeights

    def spread(self, values: Sequence[str]) -> tuple[str, ...]:
        """A column's value of each image as one of each unit; `SEVERAL` where images differ."""
        found: list[set[str]] = [set() for _ in range(len(self.targets))]
        for unit, value in zip(self.unit.tolist(), values, strict=True):
            found[unit].add(value)
        return tuple(next(iter(s)) if len(s) == 1 else SEVERAL for s in found)


def make_level(subject: Subject, name: str, *, resamples: int, seed: int) -> Level:
    """Bring a subject's answers to a level.

    Args:
        subject: The answers.
        name: "image", "eye" or "patient".
        resamples: Bootstrap resamples; 0 leaves intervals out.
        seed: Of the bootstrap.

    Raises:
        DatasetError: An image has no eye id, and eyes were asked for.
    """
    samples = subject.samples
    keys = _keys(samples, name)
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    unit = np.array([numbers[key] for key in keys])
    targets = np.zeros((len(numbers), len(samples.labels)))
    np.maximum.at(targets, unit, samples.targets().astype(np.float64))
    graded = np.zeros(len(numbers), bool)
    graded[unit[subject.graded]] = True
    # Number of each graded image's unit among the graded units.
    among = (np.cumsum(graded) - 1)[unit[subject.graded]]
    patient = dict(zip(unit.tolist(), samples.patients(), strict=True))
    return Level(
        name=name,
        unit=unit,
        targets=targets,
        graded=graded,
        answers={
            form: Answers.of(logits, subject.rule).merged(among)
            for form, logits in subject.logits.items()
        },
        weights=PatientWeights(
            len(numbers), [patient[number] for number in range(len(numbers))], resamples, seed
        ),
    )


def _keys(samples: SampleSet, name: str) -> list[tuple[str, ...]]:
    if name == "image":
        return [(str(row),) for row in range(len(samples))]
    if name == "patient":
        return [(sample.patient,) for sample in samples]
    bare = [sample for sample in samples if not sample.eye]
    if bare:
        raise DatasetError(
            f"{len(bare)} of {len(samples)} images have no eye id, first {bare[0].file.name}",
            where=samples.source,
            expected="column eye filled in for every image, to evaluate eyes",
            fix="fill it in (file names are never parsed), or choose --level image or patient",
        )
    return [(sample.patient, sample.eye) for sample in samples]
