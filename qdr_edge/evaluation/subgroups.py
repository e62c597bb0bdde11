"""Subgroups by a column of the table: who the figures are worse for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from qdr_edge.errors import DatasetError
from qdr_edge.evaluation.levels import Level
from qdr_edge.figures import Answers, figures
from qdr_edge.labels import LabelSet
from qdr_edge.metrics import Estimate, summarise
from qdr_edge.samples import SampleSet

EMPTY = "(empty)"
# A column of numbers with more distinct values than this is binned.
_MOST_VALUES = 6
_SHOWN = ("map", "auc", "sensitivity", "specificity", "f1", "chance_map")


@dataclass(frozen=True)
class Column:
    """A column that images are grouped by.

    Args:
        name: Of the column.
        edges: Where one bin of numbers ends and the next begins; () for values as they are.
        values: The group of each image.
        order: The groups, in the order to show them.
    """

    name: str
    edges: tuple[float, ...]
    values: tuple[str, ...]
    order: tuple[str, ...]


def read_column(samples: SampleSet, wanted: str) -> Column:
    """Group images by a column.

    Args:
        samples: The images.
        wanted: Name of the column, or NAME:EDGE,EDGE for bins of numbers. Without edges, numbers
            with more than six distinct values are binned at their quartiles.

    Raises:
        DatasetError: There is no such column, or edges were given for what are no numbers.
    """
    name, _, bins = wanted.partition(":")
    present = sorted({column for sample in samples for column in sample.extra})
    if name == "eye":
        raw = [sample.eye for sample in samples]
    elif name in present:
        raw = [sample.extra.get(name, "") for sample in samples]
    else:
        raise DatasetError(
            f"no column {name!r} to group by",
            where=samples.source,
            expected=f"one of {', '.join(['eye', *present])}",
            fix="add the column to the table, or correct --by",
        )
    numbers = [_number(text) for text in raw]
    known = sorted({x for x, text in zip(numbers, raw, strict=True) if text and x is not None})
    numeric = all(x is not None for x, text in zip(numbers, raw, strict=True) if text)
    if bins:
        edges = _edges(bins, wanted, samples.source)
        if not numeric:
            bad = next(t for x, t in zip(numbers, raw, strict=True) if t and x is None)
            raise DatasetError(
                f"{bad!r} in column {name!r} is no number",
                where=samples.source,
                expected="numbers, to put them into bins",
                fix=f"correct it, or write --by {name}",
            )
    elif numeric and len(known) > _MOST_VALUES:
        # Quartiles of the images, each an existing value.
        present_numbers = [x for x in numbers if x is not None]
        cuts = np.quantile(present_numbers, (0.25, 0.5, 0.75), method="nearest")
        edges = tuple(sorted({float(cut) for cut in cuts if cut > known[0]}))
    else:
        order = sorted({text for text in raw if text}, key=_natural)
        return Column(name, (), tuple(text or EMPTY for text in raw), (*order, EMPTY))
    names = bin_names(edges)
    values = tuple(
        EMPTY if x is None else names[int(np.searchsorted(edges, x, side="right"))] for x in numbers
    )
    return Column(name, edges, values, (*names, EMPTY))


def bin_names(edges: Sequence[float]) -> list[str]:
    """Names of the bins that edges make; an edge belongs to the bin it begins."""
    middle = [f"{low:g} to < {high:g}" for low, high in pairwise(edges)]
    return [f"< {edges[0]:g}", *middle, f">= {edges[-1]:g}"]


def subgroup_figures(level: Level, column: Column, labels: LabelSet, form: str) -> dict[str, Any]:
    """Figures of each group of graded units, and its mAP minus that of all others.

    The difference is over the labels that have positives and negatives in the group and outside
    it, on the same resamples of patients.

    Args:
        level: Answers and resamples.
        column: Groups of the images.
        labels: The vocabulary.
        form: "int8" or "float".
    """
    values = np.array(level.spread(column.values))[level.graded]
    targets = level.targets[level.graded]
    weights = level.weights.subset(level.graded)
    answers = level.answers[form]
    groups = []
    for value in (*column.order, *sorted(set(values) - set(column.order))):
        inside = values == value
        if not inside.any():
            continue
        group = figures(_part(answers, inside), targets[inside], labels, weights.subset(inside))
        summary = summarise(group, targets[inside], labels, weights.subset(inside)).to_dict()
        difference, common = None, []
        if not inside.all():
            rest = figures(
                Answers(answers.scores[~inside]), targets[~inside], labels, weights.subset(~inside)
            )
            common = [code for code in group.labels if code in rest.labels]
        if common:
            both = [
                figures(
                    Answers(answers.scores[rows]),
                    targets[rows],
                    labels,
                    weights.subset(rows),
                    only=common,
                ).whole["map"]
                for rows in (inside, ~inside)
            ]
            difference = Estimate.of(both[0] - both[1], int(inside.sum())).to_dict()
        groups.append(
            {
                "value": str(value),
                "n": int(inside.sum()),
                "patients": summary["patients"],
                **{name: summary[name] for name in _SHOWN},
                "skipped": summary["skipped"],
                "map_minus_rest": difference,
                "labels_compared": common,
            }
        )
    return {"column": column.name, "bin_edges": list(column.edges), "groups": groups}


def _part(answers: Answers, rows: Any) -> Answers:
    decisions, probabilities = answers.decisions, answers.probabilities
    return Answers(
        answers.scores[rows],
        None if decisions is None else decisions[rows],
        None if probabilities is None else probabilities[rows],
    )


def _edges(bins: str, wanted: str, source: str) -> tuple[float, ...]:
    edges = [_number(text) for text in bins.split(",")]
    found = tuple(edge for edge in edges if edge is not None)
    if len(found) != len(edges) or list(found) != sorted(set(found)):
        raise DatasetError(
            f"--by {wanted}: {bins!r} are no bin edges",
            where=source,
            expected="rising numbers, as in age:40,60,80",
            fix="correct --by",
        )
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _natural(text: str) -> tuple[float, str]:
    value = _number(text)
    return (math.inf if value is None else value, text)
