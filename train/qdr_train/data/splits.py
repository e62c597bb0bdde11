"""Splits between patients: made where the data has none, checked where it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qdr_edge.errors import DatasetError
from qdr_edge.samples import SPLITS, SampleSet
from qdr_train.recipe import Data

_CANDIDATE_SPLITS = 256


def split_samples(samples: SampleSet, data: Data, seed: int) -> tuple[SampleSet, str]:
    """Make the splits that are missing, always between patients.

    Args:
        samples: As read; `split` is empty for all or for none.
        data: The recipe's rules.
        seed: Of the random assignment.

    Returns:
        Samples with every split filled in, and one line that says what was done and what the
        reader noted ("" if nothing).

    Raises:
        DatasetError: Only some rows have a split, or there are too few patients.
    """
    done, note = _fill(samples, data, seed)
    return done, "; ".join([*samples.notes, *([note] if note else [])])


def _fill(samples: SampleSet, data: Data, seed: int) -> tuple[SampleSet, str]:
    present = {sample.split for sample in samples}
    if present == {""}:
        return _assign(samples, data.shares, SPLITS, seed), (
            "no split in the data: patients were divided into "
            + ", ".join(f"{s} {share:.0%}" for s, share in zip(SPLITS, data.shares, strict=True))
        )
    if "" in present:
        bare = next(sample for sample in samples if not sample.split)
        raise DatasetError(
            f"{bare.file.name} has no split, other rows have one",
            where=samples.source,
            expected="a split in every row, or in none",
        )
    if "train" in present and present != {"train"} and data.hold_out and len(present) == 2:
        return _hold_out(samples, data, seed)
    return samples, ""


def shared_patients(samples: SampleSet) -> dict[str, tuple[str, ...]]:
    """Patients that stand in several splits, and in which."""
    splits: dict[str, set[str]] = {}
    for sample in samples:
        splits.setdefault(sample.patient, set()).add(sample.split)
    return {p: tuple(sorted(where)) for p, where in splits.items() if len(where) > 1}


def require_disjoint(samples: SampleSet) -> None:
    """Check that no patient stands in two splits.

    Raises:
        DatasetError: One does; all are counted, the first is named.
    """
    shared = shared_patients(samples)
    if not shared:
        return
    patient, where = next(iter(shared.items()))
    more = f", and {len(shared) - 1} more patients like it" if len(shared) > 1 else ""
    raise DatasetError(
        f"patient {patient} is in {' and '.join(s or 'no split' for s in where)}{more}",
        where=samples.source,
        expected="all images of a patient in one split",
        fix=f"qdr-edge data split {samples.source} --anew --out split.csv makes one by patient",
    )


def thin_out(samples: SampleSet, limit: int | None) -> SampleSet:
    """At most `limit` images of each modality and split, evenly spread over the table."""
    if limit is None:
        return samples
    groups: dict[tuple[str, str], list[int]] = {}
    for row, sample in enumerate(samples):
        groups.setdefault((sample.modality, sample.split), []).append(row)
    kept: set[int] = set()
    for rows in groups.values():
        spread = np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(int)
        kept.update(rows[position] for position in spread)
    return replace(samples, samples=tuple(samples[row] for row in sorted(kept)))


def require_splits(samples: SampleSet, modality: str) -> None:
    """Check that a modality can be trained and selected.

    Raises:
        DatasetError: No training or no validation images.
    """
    for split in ("train", "val"):
        if not len(samples.select(modality, split)):
            raise DatasetError(
                f"no {modality} image has split {split!r}",
                where=samples.source,
                expected="training and validation images of every modality in the recipe",
                fix=f"add rows, or use a recipe without {modality} stages",
            )


def _hold_out(samples: SampleSet, data: Data, seed: int) -> tuple[SampleSet, str]:
    """The one split beside train becomes test; val is taken from the training patients."""
    train = samples.select(split="train")
    share = data.shares[1] / (data.shares[0] + data.shares[1])
    divided = iter(_assign(train, (1 - share, share), ("train", "val"), seed))
    rows = [next(divided) if s.split == "train" else replace(s, split="test") for s in samples]
    return replace(samples, samples=tuple(rows)), (
        "no test split in the data: its validation images became the test split, and "
        f"{share:.0%} of the training patients the validation split"
    )


def _assign(
    samples: SampleSet, shares: Sequence[float], names: Sequence[str], seed: int
) -> SampleSet:
    """Divide patients at random such that each split's label counts are near its share."""
    patients, owner = np.unique(np.array(samples.patients()), return_inverse=True)
    if len(patients) < sum(share > 0 for share in shares):
        raise DatasetError(
            f"{len(patients)} patients",
            where=samples.source,
            expected=f"at least one for each of {', '.join(names)}",
        )
    # What must be shared out fairly: images, and positives of each label in each modality.
    traits = _traits(samples)
    totals = np.zeros((len(patients), traits.shape[1]))
    np.add.at(totals, owner, traits)
    wanted = np.asarray(shares)[:, None] * totals.sum(0)
    # Cut points by number of patients; no split that has a share stays empty.
    cuts = np.round(np.cumsum(shares) * len(patients)).astype(int)[:-1]
    cuts = np.clip(cuts, np.arange(1, len(shares)), None) if min(shares) > 0 else cuts
    rng = np.random.default_rng([seed, 0x5917])
    best, best_error = np.zeros(len(patients), dtype=int), np.inf
    for _ in range(_CANDIDATE_SPLITS):
        part = np.zeros(len(patients), dtype=int)
        for number, members in enumerate(np.split(rng.permutation(len(patients)), cuts)):
            part[members] = number
        got = np.stack([totals[part == number].sum(0) for number in range(len(shares))])
        # Relative to the expected count, so that rare labels are heard.
        error = float((((got - wanted) ** 2) / (wanted + 1)).sum())
        if error < best_error:
            best, best_error = part, error
    rows = (
        replace(sample, split=names[best[patient]])
        for sample, patient in zip(samples, owner, strict=True)
    )
    return replace(samples, samples=tuple(rows))


def _traits(samples: SampleSet) -> NDArray[np.float64]:
    """One row a sample: 1 for the image, then its labels in the columns of its modality."""
    targets = samples.targets().astype(np.float64)
    fundus = np.array([sample.modality == "fundus" for sample in samples])[:, None]
    return np.hstack([np.ones((len(targets), 1)), targets * fundus, targets * ~fundus])
