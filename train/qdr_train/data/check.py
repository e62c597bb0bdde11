"""What a data set holds and what is wrong with it, before a training run finds out."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from qdr_edge.decode import decode
from qdr_edge.errors import DatasetError, ImageError
from qdr_edge.labels import LabelSet
from qdr_edge.preprocess import PreprocessSpec
from qdr_edge.samples import MODALITIES, SPLITS, Sample, SampleSet
from qdr_train.data.cache import fingerprint
from qdr_train.data.read import read_unchecked, recognise
from qdr_train.data.splits import shared_patients

Progress = Callable[[int, int], None]
# Of one kind of problem so many are listed one by one.
_LISTED = 5
# Any: it only decides at which scale a JPEG is decoded.
_SIZE = 224


@dataclass(frozen=True)
class Report:
    """What was found.

    Args:
        layout: Name of the layout.
        samples: What was read.
        problems: What is wrong, one line each.
    """

    layout: str
    samples: SampleSet
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """The images of one modality and split.

    Args:
        modality: "fundus" or "oct".
        split: "train", "val", "test" or "" where there is none.
        images: Number of images.
        patients: Number of patients.
        eyes: Number of eyes, those of unknown side left out.
        unknown_eyes: Images whose eye is not known.
        labels: Images of each label, in the order of the vocabulary.
    """

    modality: str
    split: str
    images: int
    patients: int
    eyes: int
    unknown_eyes: int
    labels: tuple[int, ...]


def check_data(
    path: Path,
    labels: LabelSet | None = None,
    modalities: Sequence[str] = (),
    *,
    decoded: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Read a data set and look for what training would not notice.

    Args:
        path: As for `read_data`.
        labels: The vocabulary; None takes the data's own.
        modalities: As for `read_data`.
        decoded: Decode every image as well.
        progress: Called with (done, total).

    Raises:
        DatasetError: It cannot be read at all.
    """
    layout = recognise(path)
    samples = read_unchecked(layout, path, labels, modalities)
    problems = [
        f"patient {patient} is in {' and '.join(split or 'no split' for split in splits)}"
        for patient, splits in shared_patients(samples).items()
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hashes, unreadable = [], []
        looks = pool.map(lambda sample: _look(sample, decoded), samples)
        for done, (digest, problem) in enumerate(looks, start=1):
            hashes.append(digest)
            unreadable += [problem] if problem else []
            if progress is not None:
                progress(done, len(samples))
    lines = [*_shortened(problems), *_shortened(list(_twins(samples, hashes)))]
    return Report(layout.name, samples, (*lines, *_shortened(unreadable)))


def parts(samples: SampleSet) -> list[Part]:
    """Counts by modality and split."""
    found = []
    for modality in MODALITIES:
        for split in (*SPLITS, ""):
            part = samples.select(modality, split)
            if not len(part):
                continue
            known = [(s.patient, s.eye) for s in part if s.eye]
            found.append(
                Part(
                    modality,
                    split,
                    len(part),
                    len(set(part.patients())),
                    len(set(known)),
                    len(part) - len(known),
                    tuple(int(n) for n in part.targets().sum(axis=0)),
                )
            )
    return found


def _look(sample: Sample, decoded: bool) -> tuple[str, str]:
    """Hash of a file, and what is wrong with it."""
    try:
        digest = fingerprint(sample.file)
    except OSError as error:
        raise DatasetError(
            f"cannot read {sample.file}: {error.strerror}", fix="put the file back"
        ) from error
    if decoded:
        try:
            decode(sample.file, PreprocessSpec(sample.modality, _SIZE))
        except ImageError as error:
            return digest, str(error)
    return digest, ""


def _twins(samples: SampleSet, hashes: Sequence[str]) -> Iterator[str]:
    """Images of equal content that contradict each other or stand in two splits."""
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample, digest in zip(samples, hashes, strict=True):
        groups[digest].append(sample)
    for group in groups.values():
        first = group[0]
        for other in group[1:]:
            said = []
            if other.split != first.split:
                said.append(f"stand in {first.split or 'no split'} and {other.split or 'no split'}")
            if other.labels.tolist() != first.labels.tolist():
                codes = [samples.labels.decode(s.labels) for s in (first, other)]
                said.append(f"are labelled {codes[0]} and {codes[1]}")
            if other.patient != first.patient:
                said.append(f"belong to patients {first.patient} and {other.patient}")
            if said:
                yield f"{first.file} and {other.file} are the same image and {', '.join(said)}"


def _shortened(lines: Sequence[str]) -> list[str]:
    rest = len(lines) - _LISTED
    return [*lines[:_LISTED], f"… and {rest} more of this kind"] if rest > 0 else list(lines)
