"""The model card: quantitative parts generated, intended use left to the maker and marked so."""

from __future__ import annotations

from typing import Any

from qdr_edge.labels import LabelSet
from qdr_edge.metrics import Estimate
from qdr_export.operating_point import OperatingPoint
from qdr_export.parity import UNAVAILABLE, ParityReport
from qdr_export.run_folder import Student

TO_FILL_IN = "**[To be filled in by the maker.]**"
SYNTHETIC = (
    "This model was trained on **synthetic images**. It is a demonstration of the toolchain and "
    "says nothing about any eye."
)
RESEARCH = (
    "Research software, not a medical device: it has no clearance, and no figure here is evidence "
    "of clinical performance."
)
OPTIMISTIC = (
    "The same images give the figures below, which are therefore optimistic. Figures of an "
    "untouched test split come from `qdr-edge bench`."
)
GOLDEN_IMAGES = (
    "The bundle holds a few validation images as golden vectors; if they are of patients, so is "
    "the bundle."
)
TENSORRT = (
    "TensorRT graphs were checked statically and executed by ONNX Runtime; they were not run on "
    "NVIDIA hardware before sealing."
)


def model_card(student: Student, point: OperatingPoint, parity: ParityReport, name: str) -> str:
    """The card as Markdown."""
    checkpoint = student.checkpoint
    evaluation = point.evaluation
    lines = [f"# {name}", ""]
    if checkpoint.synthetic:
        lines += [SYNTHETIC, ""]
    scheme = checkpoint.scheme.name if checkpoint.scheme else "float"
    weights = sum(t.size for n, t in checkpoint.tensors.items() if n.endswith(".weight"))
    fitted_on = f"{evaluation.images} validation images of {evaluation.patients} patients"
    lines += [
        RESEARCH,
        "",
        "## Model",
        f"- Architecture: {checkpoint.model.get('name', 'unknown')}, {weights:,} weights",
        f"- Input: one {checkpoint.modality} image, {checkpoint.preprocess.size} px, uint8",
        f"- Output: {_kind(checkpoint.labels)} labels {' '.join(checkpoint.labels.codes)}",
        f"- Numbers: scheme {scheme}, int8",
        "",
        "## Intended use",
        TO_FILL_IN,
        "",
        "## Data",
        f"- Trained on: {'synthetic images' if checkpoint.synthetic else TO_FILL_IN}",
        f"- Operating point fitted on: {fitted_on}. {OPTIMISTIC}",
        "",
        "## Figures on the validation split (int8, with 95 % intervals by patient)",
        f"- mAP {_text(evaluation.map)}; chance {evaluation.chance_map:.3f}",
        f"- AUC {_text(evaluation.auc)}",
        f"- int8 minus float mAP, paired: {_text(point.difference)}",
        f"- Labels without positives or negatives, left out: {' '.join(evaluation.skipped) or '-'}",
        f"- Thresholds fitted for: {point.fit.target.text}",
        f"- Target not shown, for want of positives: {_missed(point)}",
        "",
        "| label | positives | AP | sensitivity | specificity | logit threshold |",
        "|---|---|---|---|---|---|",
    ]
    thresholds = dict(zip(point.rule.labels.codes, point.rule.logit_thresholds, strict=True))
    lines += [
        f"| {x.code} | {x.positives} | {_text(x.ap)} | {_text(x.sensitivity)} "
        f"| {_text(x.specificity)} | {thresholds[x.code]:.4f} |"
        for x in evaluation.labels
    ]
    lines += [
        "",
        "## Parity with the reference interpreter (validation and test images)",
        "| form | runtime | bit-equal images | largest logit difference | decision flips |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.name} | unavailable | - | - | - |"
        if r.status == UNAVAILABLE
        else f"| {r.name} | {r.runtime} | {r.exact}/{r.images} | {r.largest:.3g} | {len(r.flips)} |"
        for r in parity.rungs
    ]
    lines += [
        "",
        "## Limits",
        f"- {GOLDEN_IMAGES}",
        f"- {TENSORRT}",
        f"- {TO_FILL_IN}",
        "",
    ]
    return "\n".join(lines)


def cyclonedx_card(student: Student, point: OperatingPoint) -> dict[str, Any]:
    """The card in CycloneDX's `modelCard` form."""
    checkpoint = student.checkpoint
    limits = ["research software, not a medical device"]
    if checkpoint.synthetic:
        limits.append("trained on synthetic images")
    metrics = [("mAP", point.evaluation.map), ("AUC", point.evaluation.auc)]
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": f"{_kind(checkpoint.labels)} labels, image classification",
            "architectureFamily": "convolutional neural network",
            "modelArchitecture": str(checkpoint.model.get("name", "unknown")),
            "inputs": [{"format": f"uint8 image, {checkpoint.preprocess.size} px"}],
            "outputs": [{"format": f"{len(checkpoint.labels)} float32 logits"}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {
                    "type": kind,
                    "value": f"{estimate.value:.6f}",
                    "slice": "val",
                    "confidenceInterval": {
                        "lowerBound": f"{estimate.low:.6f}",
                        "upperBound": f"{estimate.high:.6f}",
                    },
                }
                for kind, estimate in metrics
            ]
        },
        "considerations": {"technicalLimitations": limits},
    }


def _kind(labels: LabelSet) -> str:
    return "mutually exclusive" if labels.exclusive else "independent"


def _missed(point: OperatingPoint) -> str:
    shown = (
        f"{x.code} (n = {x.positives}, at best {x.lower_bound:.3f})"
        if x.positives
        else f"{x.code} (n = 0, never fires)"
        for x in point.missed
    )
    return ", ".join(shown) or "-"


def _text(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
