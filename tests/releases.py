"""Miniature trees in exactly the layouts that MMC-AMD, MultiEYE and OCT2017 are released in."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

MMC_IMAGES = {"cfp": "cfp-clahe-448x448", "oct": "oct-median3x3-448x448"}
MULTIEYE_IMAGES = {"assemble": "cfp-clahe-224x224", "assemble_oct": "oct-filter-448x448"}
# Names of MMC-AMD's own form: eyes with and without a side, several scans of an eye.
MMC_SPLITS = {
    "train": {
        "cfp": ["f-h-1001", "f-d-2002-l", "f-d-2002-r", "f-w-3003"],
        "oct": ["o-h-1001", "o-d-2002-l_001", "o-d-2002-l_002", "o-w-3003"],
    },
    "val": {"cfp": ["f-p-4004-r", "f-h-5005"], "oct": ["o-p-4004-r_003"]},
    "test": {"cfp": ["f-w-6006-l"], "oct": ["o-w-6006-l_003", "o-h-7007"]},
}
MMC_NUMBERS = {"h": 0, "d": 1, "p": 2, "w": 3}


def picture(path: Path, seed: int) -> None:
    """A small image of its own content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), pixels)


def eye_of(image: str) -> str:
    return image[2:].split("_")[0]


def subject_of(image: str) -> str:
    return eye_of(image).split("-")[1]


def write_lines(path: Path, lines: list[str], end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The released lists end in blank lines; some come from Windows, with a byte-order mark.
    content = end.join([*lines, "", ""]).encode()
    path.write_bytes((b"\xef\xbb\xbf" if end == "\r\n" else b"") + content)


def mmc_amd(
    root: Path,
    version: str = "AP",
    *,
    splits: dict[str, dict[str, list[str]]] | None = None,
    linked: bool = False,
    end: str = "\n",
    names_in_labels: bool = True,
) -> Path:
    """MMC-AMD with one of its splits; `linked` puts ImageData into each split's folder."""
    seed = 0
    for split, lists in (splits or MMC_SPLITS).items():
        folder = root / f"mmc-amd-split{version}-{split}"
        for modality, images in lists.items():
            for image in images:
                seed += 1
                home = folder if linked else root / "mmc-amd"
                picture(home / "ImageData" / MMC_IMAGES[modality] / f"{image}.jpg", seed)
            labels = [str(MMC_NUMBERS[image.split("-")[1]]) for image in images]
            if names_in_labels:
                labels = [f"{i} {label}" for i, label in zip(images, labels, strict=True)]
            name = f"{modality}.txt"
            write_lines(folder / "ImageSets" / name, images, end)
            write_lines(folder / "annotations" / name, labels, end)
            write_lines(folder / "EyeSets" / name, sorted({eye_of(i) for i in images}), end)
            write_lines(folder / "SubjectSets" / name, sorted({subject_of(i) for i in images}), end)
    return root


def multieye(root: Path, *, end: str = "\n") -> Path:
    """MultiEYE: all nine numbers, all images under train; one name ends in a dot, as some do."""
    seed = 0
    for name, images in MULTIEYE_IMAGES.items():
        for folder, first in (("train", 0), ("dev", 4), ("test", 7)):
            lines = []
            for number in range(first, min(first + 5, 9)):
                seed += 1
                image = f"{folder}-{number}" + ("." if number == 3 else "")
                picture(root / name / "train" / "ImageData" / images / f"{image}.png", seed)
                lines.append(f"{image} {number}")
            write_lines(root / name / folder / "large9cls.txt", lines, end)
    return root


def oct2017(root: Path, splits: tuple[str, ...] = ("train", "val", "test")) -> Path:
    """OCT2017: two images of each of two patients of each class and split."""
    seed = 0
    for part, split in enumerate(splits):
        for rank, name in enumerate(("CNV", "DME", "DRUSEN", "NORMAL")):
            for number in (1, 2, 3, 4):
                seed += 1
                patient = 100_000 + 100 * part + 10 * rank + number // 3
                picture(root / split / name / f"{name}-{patient}-{number}.jpeg", seed)
            (root / split / name / ".DS_Store").write_bytes(b"no image")
            (root / split / name / f"._{name}-1-1.jpeg").write_bytes(b"no image")
    return root
