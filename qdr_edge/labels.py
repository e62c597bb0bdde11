"""Label vocabularies: which finding stands at which logit."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qdr_edge.errors import DatasetError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NORMAL = "NOR"
SEPARATOR = ";"


@dataclass(frozen=True)
class LabelSet:
    """An ordered vocabulary of labels; the order is the order of the logits.

    Args:
        name: Name of the vocabulary.
        codes: Short codes, as in data sets.
        names: What people read, one for each code.
        exclusive: Each image carries exactly one of the labels: the network ends in a softmax.
    """

    name: str
    codes: tuple[str, ...]
    names: tuple[str, ...]
    exclusive: bool = False

    def __post_init__(self) -> None:
        if not self.codes or len(self.codes) != len(self.names):
            raise DatasetError(
                f"{len(self.codes)} codes and {len(self.names)} names",
                where=f"label set {self.name}",
                expected="as many names as codes, at least one",
            )
        if len(set(self.codes)) != len(self.codes):
            raise DatasetError("a code stands twice", where=f"label set {self.name}")
        if self.exclusive and len(self.codes) < 2:
            raise DatasetError(
                "one label that excludes all others",
                where=f"label set {self.name}",
                expected="two or more labels, or labels that do not exclude each other",
            )

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def normal(self) -> int | None:
        """Index of the label that means "no finding", if there is one."""
        return self.codes.index(NORMAL) if NORMAL in self.codes else None

    def index(self, code: str, *, where: str = "") -> int:
        """Index of a code.

        Raises:
            DatasetError: The vocabulary does not hold the code.
        """
        try:
            return self.codes.index(code)
        except ValueError:
            near = difflib.get_close_matches(code.upper(), self.codes, n=1)
            raise DatasetError(
                f"unknown label {code!r}",
                where=where,
                expected=f"one of {' '.join(self.codes)}",
                fix=f"did you mean {near[0]}?" if near else "correct it or pass its vocabulary",
            ) from None

    def encode(self, text: str, *, where: str = "") -> NDArray[np.uint8]:
        """A `;`-separated list of codes as a 0/1 vector, uint8 [K].

        Raises:
            DatasetError: A code is unknown, there is none, or there are two that exclude each
                other.
        """
        import numpy as np

        codes = [code.strip() for code in text.split(SEPARATOR) if code.strip()]
        if not codes:
            raise DatasetError(
                "no label",
                where=where,
                expected=f"at least one of {' '.join(self.codes)}, separated by '{SEPARATOR}'",
                fix=f"a healthy eye is labelled {NORMAL}",
            )
        vector = np.zeros(len(self.codes), dtype=np.uint8)
        for code in codes:
            vector[self.index(code, where=where)] = 1
        if self.exclusive and vector.sum() > 1:
            raise DatasetError(
                f"{int(vector.sum())} labels, {self.decode(vector)}",
                where=where,
                expected=f"one: the labels of {self.name} exclude each other",
                fix="keep one, or use a vocabulary whose labels go together",
            )
        return vector

    def decode(self, vector: Sequence[int] | NDArray[np.uint8]) -> str:
        """The `;`-separated codes of a 0/1 vector."""
        return SEPARATOR.join(c for c, on in zip(self.codes, vector, strict=True) if on)

    def to_dict(self) -> dict[str, Any]:
        """A JSON object that `from_dict` reads."""
        return {
            "name": self.name,
            "codes": list(self.codes),
            "names": list(self.names),
            "exclusive": self.exclusive,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> LabelSet:
        """The label set of a JSON object; one without `exclusive` is not."""
        exclusive = bool(value.get("exclusive", False))
        return cls(value["name"], tuple(value["codes"]), tuple(value["names"]), exclusive)

    @classmethod
    def custom(
        cls, codes: Iterable[str], name: str = "custom", *, exclusive: bool = False
    ) -> LabelSet:
        """A vocabulary of the given codes; well-known codes get their names."""
        codes = tuple(codes)
        return cls(name, codes, tuple(_NAMES.get(code, code) for code in codes), exclusive)

    @classmethod
    def named(cls, name: str) -> LabelSet:
        """A vocabulary by its name.

        Raises:
            DatasetError: There is none of that name.
        """
        for labels in (TOPCON_MM, MMC_AMD, MULTIEYE):
            if labels.name.lower() == name.lower():
                return labels
        raise DatasetError(
            f"unknown label set {name!r}",
            expected="TOPCON-MM, MMC-AMD, MultiEYE or a list of codes",
        )


_NAMES = {
    NORMAL: "normal",
    "AMD": "dry age-related macular degeneration",
    "WAMD": "wet age-related macular degeneration",
    "DR": "diabetic retinopathy",
    "CSC": "central serous chorioretinopathy",
    "PED": "pigment epithelial detachment",
    "MEM": "macular epiretinal membrane",
    "FLD": "macular fluid",
    "EXU": "hard exudates",
    "CNV": "choroidal neovascularization",
    "RVO": "retinal vein occlusion",
    "PCV": "polypoidal choroidal vasculopathy",
    "GLC": "glaucoma",
    "MYO": "pathological myopia",
    "CAT": "cataract",
}

TOPCON_MM = LabelSet.custom(
    ("NOR", "AMD", "WAMD", "DR", "CSC", "PED", "MEM", "FLD", "EXU", "CNV", "RVO"), "TOPCON-MM"
)
MMC_AMD = LabelSet.custom(("NOR", "AMD", "PCV", "WAMD"), "MMC-AMD", exclusive=True)
MULTIEYE = LabelSet.custom(
    ("NOR", "AMD", "CSC", "DR", "GLC", "MEM", "MYO", "RVO", "WAMD"), "MultiEYE", exclusive=True
)
