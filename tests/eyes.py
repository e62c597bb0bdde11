"""A tiny data set for training tests: coloured discs whose place and shade tell the label."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np

CODES = ("NOR", "AMD", "DR")


def draw(label: int, modality: str, seed: int, side: int = 48) -> np.ndarray:
    """An image, uint8 [side, side, 3], bright where its label says."""
    rng = np.random.default_rng([seed, label, modality == "oct"])
    image = rng.integers(90, 130, (side, side, 3), dtype=np.uint8)
    third = side // 3
    image[label * third : (label + 1) * third, third : 2 * third] += np.uint8(80)
    return image


def write_eyes(folder: Path, patients: int = 12, *, split: bool = True) -> Path:
    """Write images of both modalities and their CSV; returns the CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for patient in range(patients):
        part = ("train", "train", "val", "test")[patient % 4] if split else ""
        for modality in ("fundus", "oct"):
            for eye, label in (("L", patient // 4 % 3), ("R", (patient // 4 + 1) % 3)):
                name = f"{modality}-{patient}-{eye}.png"
                cv2.imwrite(str(folder / name), draw(label, modality, patient))
                rows.append([name, modality, CODES[label], f"p{patient}", eye, part])
    table = folder / "eyes.csv"
    with table.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["file", "modality", "labels", "patient", "eye", "split"])
        writer.writerows(rows)
    return table


RECIPE = """
name: tiny
seed: 3
size: 32
defaults:
  teacher:
    model: {name: qdr-small, width: 0.34}
    batch: 6
    epochs: 2
  student:
    model: {name: qdr-small, width: 0.34}
    batch: 6
    epochs: 2
    qat_epochs: 2
    frozen_epochs: 1
    calibration_images: 6
stages:
  teacher-fundus: {modality: fundus}
  student-oct: {modality: oct, teachers: [teacher-fundus]}
"""


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    """Write a recipe that trains in seconds."""
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path
