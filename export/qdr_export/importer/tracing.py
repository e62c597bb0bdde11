"""What is known of a file's tensors while it is walked through.

A float tensor is known by the operator that makes it. QuantizeLinear gives that operator its grid,
DequantizeLinear hands its rounded values on; an operator that reads the tensor between the two
reads it unrounded, and that is remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from qdr_edge.graph import INPUT
from qdr_export.graph.onnx_graph import label
from qdr_export.importer.constants import Stored
from qdr_export.importer.drafts import PIXELS, Draft, Grid
from qdr_export.importer.findings import Findings
from qdr_export.importer.operators import Attrs, RefusedError
from qdr_export.importer.pixels import Affine
from qdr_export.importer.reading import Source

REFUSED = "refused"
UNCHANGED = ("Identity", "Dropout", "Cast")
_AFTER_ENDING = ("QuantizeLinear", "DequantizeLinear", *UNCHANGED, "Flatten", "Reshape", "Squeeze")
# Names that the canonical graph gives to tensors of its own.
_RESERVED = frozenset({INPUT, "logits", "z", "z128"})


@dataclass(frozen=True)
class Lifted:
    """A tensor of the file.

    Args:
        draft: The operator that makes it, or "pixels".
        rounded: It lies on the operator's grid.
        codes: It is the integers themselves.
        sole: Nothing else reads what lies between the operator and it.
    """

    draft: str
    rounded: bool = False
    codes: bool = False
    sole: bool = True


Value = Lifted | Affine


class Trace:
    """The tensors and operators found so far.

    Args:
        source: The file.
        known: Its constants.
        findings: Where problems and normalisations go.
        image: What the file's input is of the pixels.
    """

    def __init__(
        self, source: Source, known: Mapping[str, Stored], findings: Findings, image: Affine
    ) -> None:
        self.source = source
        self.known = known
        self.findings = findings
        self.drafts: dict[str, Draft] = {}
        self.values: dict[str, Value] = {source.input: image}
        self.logits, self.ending = source.output, ""
        self._inputs: list[tuple[Affine, str]] = []

    def read(self, name: str) -> Lifted:
        """A float tensor that an operator reads."""
        if name not in self.values:
            raise RefusedError(f"a constant {name}", "an image", "fold it into the weights")
        value = self.values[name]
        if isinstance(value, Affine):
            return Lifted(self.input_draft(value, None, name))
        if value.codes:
            raise RefusedError(
                "it reads integers", "DequantizeLinear in front of it", "quantize in QDQ form"
            )
        return replace(value, sole=value.sole and self.only_reader(name))

    def owner(self, value: Value, name: str) -> Draft | None:
        """The operator that makes a tensor, if nothing else reads what lies between."""
        if not isinstance(value, Lifted) or not (value.sole and self.only_reader(name)):
            return None
        return self.drafts.get(value.draft)

    def input_draft(self, affine: Affine, grid: Grid | None, tensor: str) -> str:
        """The operator that makes the first real tensor of the pixels."""
        # Centred pixels lie on their grid whether or not the file rounds them.
        if affine.is_centred(grid or PIXELS):
            return INPUT
        for known, name in self._inputs:
            same = np.array_equal(known.weight, affine.weight)
            if same and np.array_equal(known.bias, affine.bias):
                draft = self.drafts[name]
                if grid is not None and draft.grid not in (None, grid):
                    raise RefusedError("a second grid for the input", "one", "quantize it once")
                draft.grid = draft.grid or grid
                return name
        name = self._name("normalize")
        self.drafts[name] = Draft(
            name,
            "normalize",
            [INPUT],
            f"input {self.source.input}",
            tensor,
            affine=affine.float32,
            rank=4,
            grid=grid,
        )
        self._inputs.append((affine, name))
        return name

    def draft(
        self,
        node: NodeProto,
        op: str,
        values: list[Lifted],
        attrs: Attrs | None = None,
        *,
        suffix: str = "",
    ) -> Draft:
        name = self._name(label(node) + suffix)
        draft = Draft(
            name,
            op,
            [value.draft for value in values],
            self.source.place(node),
            node.output[0],
            attrs=dict(attrs or {}),
            rank=self.source.rank(node.output[0]),
        )
        self.drafts[name] = draft
        for value in values:
            if not value.rounded and value.draft != INPUT:
                self.drafts[value.draft].unquantized.append(name)
        return draft

    def _name(self, wanted: str) -> str:
        wanted = wanted.replace(":", "_")
        name, number = wanted, 1
        while name in self.drafts or name in _RESERVED:
            name, number = f"{wanted}_{number}", number + 1
        return name

    def stand_in(self, node: NodeProto) -> Lifted:
        """In place of a refused operator's output, so that its readers can be looked at."""
        draft = self.draft(node, REFUSED, [])
        return Lifted(draft.name, codes=node.op_type == "QuantizeLinear", sole=False)

    def passed(self, node: NodeProto, name: str) -> Value:
        value = self.values[name]
        if isinstance(value, Affine):
            return value
        return replace(value, sole=value.sole and self.only_reader(name))

    def only_reader(self, name: str) -> bool:
        readers = len(self.source.view.consumers.get(name, []))
        return readers + (name == self.source.output) == 1

    def ends(self, name: str) -> bool:
        """Whether only roundings and changes of form lie between a tensor and the output."""
        while name != self.source.output:
            readers = self.source.view.consumers.get(name, [])
            if len(readers) != 1 or readers[0].op_type not in _AFTER_ENDING:
                return False
            name = readers[0].output[0]
        return True
