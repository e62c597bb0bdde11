"""All figures of one subject as a JSON document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

from qdr_edge import __version__
from qdr_edge.bootstrap import mean_over_labels, rates
from qdr_edge.evaluation.levels import Level, make_level
from qdr_edge.evaluation.subgroups import Column, read_column, subgroup_figures
from qdr_edge.evaluation.subject import FLOAT, INT8, Subject
from qdr_edge.figures import Answers, Figures, figures
from qdr_edge.labels import LabelSet
from qdr_edge.metrics import Estimate, summarise

FORMAT, VERSION = "qdr-evaluation", 1


def evaluate_subject(
    subject: Subject,
    levels: Sequence[str],
    by: Sequence[str] = (),
    *,
    resamples: int = 1000,
    seed: int = 0,
    step: Callable[[str], None] = lambda _line: None,
) -> dict[str, Any]:
    """Evaluate a subject.

    Args:
        subject: Answers and labels.
        levels: Any of "image", "eye", "patient".
        by: Columns to group by, see `subgroups.read_column`.
        resamples: Bootstrap resamples of patients; 0 leaves intervals out.
        seed: Of the bootstrap.
        step: Called with what is being computed.

    Returns:
        A JSON object; docs/evaluation.md explains its parts. What is undefined is null.

    Raises:
        DatasetError: Eye ids or a column are missing.
    """
    columns = [read_column(subject.samples, wanted) for wanted in by]
    # All levels first: a missing id is to be told before minutes of resampling.
    made = [make_level(subject, name, resamples=resamples, seed=seed) for name in levels]
    found = {}
    for level in made:
        step(f"{level.name} level")
        found[level.name] = _of_level(subject, level, columns)
    samples = subject.samples
    return {
        "name": subject.name,
        "subject": dict(subject.facts),
        "artefact_sha256": subject.artefact_sha256,
        "data": {
            "table": samples.source,
            "split": subject.split,
            "sha256": samples.sha256,
            "images": len(samples),
            "patients": len(set(samples.patients())),
        },
        "labels": samples.labels.to_dict(),
        "operating_point": dict(subject.point),
        "gate": {
            "asked": subject.gated,
            "graded": int(subject.graded.sum()),
            "rejected": dict(Counter(r.outcome for r in subject.rejections)),
            "rejections": [asdict(rejection) for rejection in subject.rejections],
        },
        "intervals": {"level": 0.95, "unit": "patient", "resamples": resamples, "seed": seed},
        "levels": found,
        "notes": list(subject.notes),
    }


def as_file(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of a JSON file of evaluations."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "tool_version": __version__,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "evaluations": list(documents),
    }


def _of_level(subject: Subject, level: Level, columns: Sequence[Column]) -> dict[str, Any]:
    labels = subject.samples.labels
    targets = level.targets[level.graded]
    weights = level.weights.subset(level.graded)
    forms = {
        form: figures(answers, targets, labels, weights) for form, answers in level.answers.items()
    }
    shipped = INT8 if INT8 in forms else FLOAT
    n = len(targets)
    return {
        "n": len(level.targets),
        "graded": n,
        "patients": weights.clusters,
        "shown": shipped,
        **{
            form: summarise(found, targets, labels, weights).to_dict()
            for form, found in forms.items()
        },
        "int8_minus_float": _difference(forms[INT8], forms[FLOAT], n) if len(forms) > 1 else None,
        "rejected_as_referred": (
            None if level.graded.all() else _referred(level, labels, level.answers[shipped])
        ),
        "subgroups": [subgroup_figures(level, column, labels, shipped) for column in columns],
    }


def _difference(a: Figures, b: Figures, n: int) -> dict[str, Any]:
    """Every figure of one form minus the other's, on the same resamples."""
    names = [name for name in a.whole if name not in ("chance_map", "majority")]
    found: dict[str, Any] = {
        "accuracy" if name == "top1" else name: Estimate.of(
            a.whole[name] - b.whole[name], n
        ).to_dict()
        for name in names
    }
    found["labels"] = [
        {
            "code": code,
            **{
                name: Estimate.of(values - b.labels[code][name], n).to_dict()
                for name, values in a.labels[code].items()
                if name != "prevalence"
            },
        }
        for code in a.labels
    ]
    return found


def _referred(level: Level, labels: LabelSet, answers: Answers) -> dict[str, Any]:
    """Sensitivity and specificity where a unit without an answer counts as called positive."""
    called = np.ones_like(level.targets)
    if answers.decisions is not None:
        called[level.graded] = answers.decisions
    n = len(called)
    by_label = {
        code: rates(called[:, k], level.targets[:, k], level.weights)
        for k, code in enumerate(labels.codes)
        if 0 < level.targets[:, k].sum() < n
    }
    shown = ("sensitivity", "specificity")
    return {
        "n": n,
        "rejected": int((~level.graded).sum()),
        **{
            name: Estimate.of(
                mean_over_labels(np.stack([found[name] for found in by_label.values()])), n
            ).to_dict()
            for name in shown
            if by_label
        },
        "labels": [
            {
                "code": code,
                "positives": int(level.targets[:, labels.codes.index(code)].sum()),
                **{name: Estimate.of(found[name], n).to_dict() for name in shown},
            }
            for code, found in by_label.items()
        ],
    }
