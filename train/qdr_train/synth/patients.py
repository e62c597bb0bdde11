"""Who is in the data set: conditions, labels of both eyes, image counts, patient-level split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qdr_edge.labels import TOPCON_MM

from .streams import stream, uniform

CODES = TOPCON_MM.codes
SPLITS = ("train", "val", "test")
SPLIT_SHARES = {"train": 0.60, "val": 0.15, "test": 0.25}

# One block of patients holds each condition this often. Blocks, rather than independent draws, keep
# the rare conditions present in small data sets.
BLOCK = (
    ("NOR", 4),
    ("AMD", 3),
    ("WAMD", 4),
    ("DR", 3),
    ("CSC", 3),
    ("MEM", 2),
    ("RVO", 3),
    ("PED", 1),
    ("CNV", 1),
)
BLOCK_SIZE = sum(count for _, count in BLOCK)

# Signs that accompany a condition in the same eye, with their probability. Retinal fluid is what
# detaches the macula in central serous disease, so there it always accompanies.
COMPANIONS: dict[str, dict[str, float]] = {
    "NOR": {},
    "AMD": {"PED": 0.25, "MEM": 0.08},
    "WAMD": {"CNV": 0.70, "FLD": 0.75, "PED": 0.50, "EXU": 0.40, "AMD": 0.15, "MEM": 0.05},
    "DR": {"EXU": 0.60, "FLD": 0.50, "MEM": 0.12},
    "CSC": {"FLD": 1.00, "PED": 0.35},
    "MEM": {"FLD": 0.18},
    "RVO": {"FLD": 0.70, "EXU": 0.45, "MEM": 0.08},
    "PED": {"FLD": 0.30, "AMD": 0.30},
    "CNV": {"FLD": 0.60, "EXU": 0.25, "PED": 0.15},
}

# What the fellow eye has when the first eye has the condition; the rest is a healthy eye.
FELLOW: dict[str, tuple[tuple[str, float], ...]] = {
    "NOR": (),
    "AMD": (("AMD", 0.70), ("WAMD", 0.08)),
    "WAMD": (("WAMD", 0.35), ("AMD", 0.40)),
    "DR": (("DR", 0.85),),
    "CSC": (("CSC", 0.25),),
    "MEM": (("MEM", 0.30),),
    "RVO": (("RVO", 0.10),),
    "PED": (("PED", 0.30), ("AMD", 0.20)),
    "CNV": (("CNV", 0.15),),
}


@dataclass(frozen=True)
class Shot:
    """One exposure: modality, number within the eye, grade 0 (good) .. 3 (ungradable)."""

    modality: str
    scan: int
    quality: int


@dataclass(frozen=True)
class EyePlan:
    """What one eye has and how often it is photographed."""

    side: str
    findings: dict[str, float]  # label code -> severity in (0, 1]
    shots: tuple[Shot, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The label codes in the vocabulary's order; NOR alone where there is no finding."""
        return tuple(code for code in CODES if code in self.findings) or ("NOR",)


@dataclass(frozen=True)
class PatientPlan:
    """One patient: both eyes, decided before any pixel is drawn."""

    index: int
    condition: str
    eyes: tuple[EyePlan, EyePlan]

    @property
    def name(self) -> str:
        """Patient id as it stands in the file names."""
        return f"p{self.index:04d}"

    @property
    def labels(self) -> frozenset[str]:
        """Every label that occurs in either eye."""
        return frozenset(code for eye in self.eyes for code in eye.labels)


def condition_of(seed: int, index: int) -> str:
    """The main condition of patient `index`: its place in the shuffled block it belongs to."""
    block = [name for name, count in BLOCK for _ in range(count)]
    order = stream(seed, "block", index // BLOCK_SIZE).permutation(BLOCK_SIZE)
    return block[int(order[index % BLOCK_SIZE])]


def plan_patient(seed: int, index: int) -> PatientPlan:
    """Decide labels, severities, shots and quality grades of one patient.

    Args:
        seed: data-set seed.
        index: patient number, >= 0.

    Returns:
        The plan; it depends on `seed` and `index` only.
    """
    rng = stream(seed, index, "plan")
    condition = condition_of(seed, index)
    fellow = "NOR"
    pick = rng.random()
    for code, probability in FELLOW[condition]:
        if pick < probability:
            fellow = code
            break
        pick -= probability
    first = _findings(rng, condition, None)
    second = _findings(rng, fellow, first if fellow == condition else None)
    pair = (first, second) if rng.random() < 0.5 else (second, first)
    eyes = tuple(
        EyePlan(side, findings, _shots(rng)) for side, findings in zip("RL", pair, strict=True)
    )
    return PatientPlan(index, condition, (eyes[0], eyes[1]))


def _severity(rng: np.random.Generator) -> float:
    # Mostly clear disease, some moderate, a few early cases near what a reader would miss.
    kind = rng.random()
    if kind < 0.72:
        return uniform(rng, 0.65, 1.0)
    return uniform(rng, 0.42, 0.65) if kind < 0.94 else uniform(rng, 0.25, 0.42)


def _findings(
    rng: np.random.Generator, condition: str, other_eye: dict[str, float] | None
) -> dict[str, float]:
    if condition == "NOR":
        return {}
    main = _severity(rng)
    if other_eye is not None:  # both eyes of a patient progress together
        main = float(np.clip(0.6 * other_eye[condition] + 0.4 * main, 0.25, 1.0))
    found = {condition: main}
    for code, probability in COMPANIONS[condition].items():
        chance = probability
        if other_eye is not None and 0.0 < probability < 1.0:
            chance = 0.5 * probability + (0.5 if code in other_eye else 0.0)
        if rng.random() < chance:
            found[code] = _severity(rng)
    return found


def _shots(rng: np.random.Generator) -> tuple[Shot, ...]:
    shots = []
    for modality in ("fundus", "oct"):
        count = int(rng.choice([1, 2, 3], p=[0.60, 0.30, 0.10]))
        for scan in range(1, count + 1):
            quality = int(rng.choice([0, 1, 2, 3], p=[0.625, 0.20, 0.10, 0.075]))
            shots.append(Shot(modality, scan, quality))
    return tuple(shots)


def split_patients(seed: int, patients: Sequence[PatientPlan]) -> dict[int, str]:
    """Assign every patient to one split.

    Labels that few patients have are placed first, one patient in each split, so that every split
    can be scored on every label; the rest fills the shares of `SPLIT_SHARES`.

    Args:
        seed: data-set seed.
        patients: all plans of the data set.

    Returns:
        Patient index -> "train", "val" or "test".
    """
    order = stream(seed, "split").permutation(len(patients))
    queue = [patients[int(i)] for i in order]
    assigned: dict[int, str] = {}
    seen: dict[str, set[str]] = {name: set() for name in SPLITS}
    held = {code: sum(code in plan.labels for plan in patients) for code in CODES}
    for code in sorted((c for c in CODES if held[c] >= len(SPLITS)), key=lambda c: held[c]):
        for name in SPLITS:
            if code in seen[name]:
                continue
            plan = next((p for p in queue if p.index not in assigned and code in p.labels), None)
            if plan is not None:
                assigned[plan.index] = name
                seen[name] |= plan.labels
    count = {name: sum(s == name for s in assigned.values()) for name in SPLITS}
    for plan in queue:
        if plan.index in assigned:
            continue
        # The split furthest below its share takes the next patient.
        name = min(SPLITS, key=lambda s: count[s] / SPLIT_SHARES[s])
        assigned[plan.index] = name
        count[name] += 1
    return assigned
