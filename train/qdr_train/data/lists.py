"""What the readers of released data sets share: text lists, images by name, one error for all
that is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from qdr_edge.errors import DatasetError
from qdr_edge.labels import LabelSet
from qdr_edge.samples import Sample, SampleSet, missing_images

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


def text_of(path: Path) -> str:
    """The content of a text file, without a byte-order mark.

    Raises:
        DatasetError: It cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(
            f"cannot read: {error.strerror or error}", where=str(path), expected="a text file"
        ) from error
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"not UTF-8 text (byte {error.start})", where=str(path), expected="a text file"
        ) from error


def lines_of(path: Path) -> Iterator[tuple[str, list[str]]]:
    """File and number, and the fields of each line that is not blank.

    Raises:
        DatasetError: See `text_of`.
    """
    # Not splitlines(): it also parts at characters that editors do not count as lines.
    for number, line in enumerate(text_of(path).replace("\r\n", "\n").split("\n"), start=1):
        fields = line.split()
        if fields:  # released lists end in blank lines
            yield f"{path}:{number}", fields


def stem_of(name: str) -> str:
    """A name without the suffix of an image; other dots belong to it."""
    return next((name[: -len(s)] for s in IMAGE_SUFFIXES if name.lower().endswith(s)), name)


class Collected:
    """Samples as a reader finds them; says at the end what is missing.

    Args:
        source: Root of the data set, for messages.
        labels: The vocabulary.
    """

    def __init__(self, source: Path, labels: LabelSet) -> None:
        self.source = source
        self.labels = labels
        self.samples: list[Sample] = []
        self._seen: dict[Path, str] = {}
        self._missing: list[tuple[str, str]] = []
        self._looked_for = ""

    def image(self, folders: Sequence[Path], name: str, where: str) -> Path:
        """The file of an image, noted as missing where there is none.

        Args:
            folders: Where it may lie; the first that has it counts.
            name: With or without its suffix.
            where: File and line that name it.

        Raises:
            DatasetError: It was asked for before.
        """
        names = (name, *(name + suffix for suffix in IMAGE_SUFFIXES))
        found = (folder / candidate for folder in folders for candidate in names)
        file = next((f for f in found if f.is_file()), None)
        if file is None:
            if not self._missing:
                self._looked_for = f"{name}{IMAGE_SUFFIXES[0]} or the like in {folders[0]}"
            self._missing.append((where, name))
            file = folders[0] / name
        file = file.absolute()
        if (earlier := self._seen.setdefault(file, where)) != where:
            raise DatasetError(
                f"{file.name} stands twice, first in {earlier}",
                where=where,
                expected="one line for each image",
            )
        return file

    def finish(self, notes: Sequence[str] = ()) -> SampleSet:
        """All samples, once nothing is missing.

        Raises:
            DatasetError: Images are missing, all of them counted, or there are none.
        """
        if self._missing:
            raise missing_images(self._missing, self._looked_for)
        if not self.samples:
            raise DatasetError(
                "no images are listed", where=str(self.source), expected="at least one"
            )
        return SampleSet(tuple(self.samples), self.labels, str(self.source), tuple(notes))


def class_number(text: str, labels: LabelSet, where: str) -> str:
    """The code that an integer label stands for.

    Args:
        text: As in the list.
        labels: The data set's own vocabulary, in the order of its numbers.
        where: File and line.

    Raises:
        DatasetError: No such number.
    """
    if text.isascii() and text.isdigit() and int(text[:4]) < len(labels):
        return labels.codes[int(text)]
    numbers = ", ".join(f"{i} {code}" for i, code in enumerate(labels.codes))
    raise DatasetError(f"unknown label {text[:80]!r}", where=where, expected=f"one of {numbers}")
