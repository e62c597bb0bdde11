"""QDQ ONNX files as other tools write them, for the tests of `qdr-edge import`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qdr_edge.checkpoint import Checkpoint
from qdr_edge.labels import LabelSet
from qdr_edge.preprocess import PreprocessSpec
from qdr_export.graph.float_twin import build_float_twin
from qdr_export.graph.onnx_graph import GraphView
from qdr_export.importer import grids
from qdr_export.importer.findings import Findings
from qdr_export.importer.lifting import Lifting
from qdr_export.importer.normalising import normalise
from qdr_export.importer.pixels import MeanStd, settle_ties
from qdr_export.importer.reading import Source
from qdr_export.importer.run import Request, read_operators
from qdr_export.importer.source import SourceRunner
from qdr_export.proof.rungs import AS_WRITTEN
from tests.networks import LABELS, SIZE, checkpoint

CENTRED = MeanStd((128 / 255,) * 3, (64 / 255,) * 3)
"""What makes (pixels − 128) / 64 of pixels."""


def request(
    pixels: MeanStd | None, *, size: int | None = None, labels: LabelSet = LABELS
) -> Request:
    """What a user says of a file."""
    return Request(Path("model.onnx"), Path("eyes.csv"), labels, "fundus", pixels, size)


class Brought:
    """A file, lifted and normalised, without images."""

    def __init__(
        self,
        content: bytes,
        *,
        pixels: MeanStd | None = CENTRED,
        size: int | None = None,
        labels: LabelSet = LABELS,
    ) -> None:
        self.pixels = pixels
        self.findings = Findings("model.onnx")
        self.source: Source
        self.lifting: Lifting
        said = request(pixels, size=size, labels=labels)
        self.source, self.lifting = read_operators(content, said, self.findings)
        drafts = grids.settle(self.lifting.drafts, self.findings)
        grids.report_gaps(drafts, self.findings)
        self.findings.check()
        settle_ties(drafts, pixels, self.findings)
        network = normalise(drafts, self.findings)
        self.checkpoint = Checkpoint(
            "imported",
            "student",
            "fundus",
            synthetic=True,
            model={"name": "imported"},
            labels=labels,
            preprocess=PreprocessSpec("fundus", self.source.size),
            scheme=network.scheme,
            graph=network.graph,
            tensors=network.tensors,
        )

    def original(
        self, images: NDArray[np.uint8], *, as_written: bool = False
    ) -> NDArray[np.float32]:
        """The file's own logits, before a rounding of the output, in ONNX Runtime.

        `as_written` leaves out ONNX Runtime's own integer kernels, which round differently.
        """
        tensor = self.lifting.drafts[-1].tensor
        # Where one pair follows another it would leave out a rounding, too.
        options = {**AS_WRITTEN, "session.disable_double_qdq_remover": "1"} if as_written else {}
        return SourceRunner(self.source, self.pixels, [tensor], 1, options)(images)[0]

    def rules(self, *, exact: bool | None = None) -> set[str]:
        """Names of the normalisations."""
        made = self.findings.normalisations
        return {entry.rule for entry in made if exact in (None, entry.exact)}


def pixels(count: int = 8, size: int = SIZE, seed: int = 3) -> NDArray[np.uint8]:
    """Random images."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), np.uint8)


def float_file(family: str, *, size: int = SIZE, labels: LabelSet = LABELS) -> bytes:
    """A float network with float input `x`, batch free: what a quantizer starts from."""
    twin = build_float_twin(checkpoint(family, scheme=None, size=size, labels=labels))
    model = onnx.load_model_from_string(twin)
    graph = model.graph
    # Cast, subtraction and multiplication of the pixels go; their result becomes the input.
    head = [node for node in graph.node if node.output[0].startswith("pixels:")]
    for node in head:
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = ["x" if name == head[-1].output[0] else name for name in node.input]
    graph.input[0].CopyFrom(
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, size, size])
    )
    graph.output[0].CopyFrom(
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(labels)])
    )
    used = {name for node in graph.node for name in node.input}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)
    del model.metadata_props[:]
    return bytes(model.SerializeToString())


def quantize_static(
    content: bytes, *, images: NDArray[np.uint8] | None = None, **options: Any
) -> bytes:
    """The same file quantized by onnxruntime.quantization in QDQ form.

    `images` are calibrated on; random ones if there are none.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat
    from onnxruntime.quantization import quantize_static as quantize

    chosen = images if images is not None else pixels(8, seed=0)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter([{"x": CENTRED.apply(image[None])} for image in chosen])

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self._left, None)

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        before.write_bytes(content)
        quantize(before, after, Reader(), quant_format=QuantFormat.QDQ, **options)
        return after.read_bytes()


Rewrite = Callable[["Editor"], None]


class Editor:
    """Rewrites a canonical file into what another tool would have written."""

    def __init__(self, content: bytes) -> None:
        self.model: ModelProto = onnx.load_model_from_string(content)
        self.view = GraphView(self.model)
        self.nodes: list[NodeProto] = list(self.model.graph.node)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Store a constant."""
        self.model.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def replace(self, node: NodeProto, *others: NodeProto) -> None:
        """Put nodes in place of one."""
        index = next(i for i, other in enumerate(self.nodes) if other is node)
        self.nodes[index : index + 1] = others

    def of(self, *ops: str) -> list[NodeProto]:
        """Nodes of these operators."""
        return [node for node in self.nodes if node.op_type in ops]

    def weight(self, node: NodeProto) -> NodeProto:
        """The DequantizeLinear of a weight."""
        found = self.view.producer(node.input[1])
        assert found is not None
        return found

    def bytes(self) -> bytes:
        """The edited file, checked."""
        del self.model.graph.node[:]
        self.model.graph.node.extend(self.nodes)
        del self.model.metadata_props[:]
        used = {name for node in self.nodes for name in node.input}
        used |= {output.name for output in self.model.graph.output}
        for tensor in [t for t in self.model.graph.initializer if t.name not in used]:
            self.model.graph.initializer.remove(tensor)
        onnx.checker.check_model(self.model)
        return bytes(self.model.SerializeToString())


def edited(content: bytes, *rewrites: Rewrite) -> bytes:
    """A file after some rewrites."""
    for rewrite in rewrites:
        editor = Editor(content)
        rewrite(editor)
        content = editor.bytes()
    return content


def unsigned_codes(editor: Editor) -> None:
    """Activations as uint8 with zero point 128, as ONNX Runtime's quantizer writes them."""
    zero = editor.constant("middle", np.array(128, np.uint8))
    for node in editor.of("QuantizeLinear", "DequantizeLinear"):
        if len(node.input) > 2 and editor.view.zero_point(node).dtype == np.int8:
            node.input[2] = zero


def weights_as_floats(editor: Editor) -> None:
    """Weights stored as floats behind QuantizeLinear, as fake-quantized exports have."""
    for node in editor.of("Conv", "Gemm"):
        dequantize = editor.weight(node)
        codes, scale = (editor.view.constants[name] for name in dequantize.input[:2])
        shape = (-1, *[1] * (codes.ndim - 1))
        stem = dequantize.output[0]
        real = editor.constant(f"{stem}/float", codes * scale.reshape(shape))
        zero = editor.constant(f"{stem}/zero", np.zeros(scale.shape, np.int8))
        quantize = helper.make_node(
            "QuantizeLinear", [real, dequantize.input[1], zero], [f"{stem}/codes"], axis=0
        )
        dequantize.input[:] = [f"{stem}/codes", dequantize.input[1], zero]
        editor.replace(dequantize, quantize, dequantize)


def float_biases(editor: Editor) -> None:
    """Biases stored as float32."""
    for node in editor.of("Conv", "Gemm"):
        dequantize = editor.view.producer(node.input[2])
        assert dequantize is not None
        codes, scale = (editor.view.constants[name] for name in dequantize.input[:2])
        node.input[2] = editor.constant(
            f"{dequantize.output[0]}/float", (codes * scale).astype(np.float32)
        )
        editor.nodes = [other for other in editor.nodes if other is not dequantize]


def product_and_sum(editor: Editor) -> None:
    """Gemm as a MatMul of the transposed weight, then an Add of the bias."""
    for node in editor.of("Gemm"):
        dequantize = editor.weight(node)
        codes, _scale = (editor.view.constants[name] for name in dequantize.input[:2])
        stored = editor.constant("transposed", np.ascontiguousarray(codes.T))
        weight = helper.make_node(
            "DequantizeLinear", [stored, dequantize.input[1]], ["transposed/d"], axis=1
        )
        product = helper.make_node("MatMul", [node.input[0], "transposed/d"], ["product"])
        total = helper.make_node("Add", [node.input[2], "product"], list(node.output))
        editor.replace(node, weight, product, total)


def means_and_reshapes(editor: Editor) -> None:
    """Global pooling as ReduceMean, flattening as Reshape by a computed shape."""
    axes = editor.constant("axes", np.array([2, 3], np.int64))
    first = editor.constant("first", np.array([0], np.int64))
    rest = editor.constant("rest", np.array([-1], np.int64))
    for node in editor.of("GlobalAveragePool"):
        mean = helper.make_node("ReduceMean", [node.input[0], axes], list(node.output), keepdims=1)
        editor.replace(node, mean)
    for node in editor.of("Flatten"):
        shape = helper.make_node("Shape", [node.input[0]], ["shape"])
        batch = helper.make_node("Gather", ["shape", first], ["batch"])
        wanted = helper.make_node("Concat", ["batch", rest], ["wanted"], axis=0)
        reshape = helper.make_node("Reshape", [node.input[0], "wanted"], list(node.output))
        editor.replace(node, shape, batch, wanted, reshape)
    editor.model.opset_import[0].version = 19
    for node in editor.of("ReduceMean"):
        # Opset 18 made the axes an input.
        assert len(node.input) == 2


def constants_and_identities(editor: Editor) -> None:
    """Scales from Constant nodes; Identity and Dropout in the way."""
    for node in editor.of("QuantizeLinear"):
        value = numpy_helper.from_array(editor.view.constants[node.input[1]], "")
        made = helper.make_node("Constant", [], [f"{node.output[0]}/scale"], value=value)
        node.input[1] = made.output[0]
        editor.replace(node, made, node)
    for node in editor.of("Gemm"):
        same = helper.make_node("Identity", [node.input[0]], ["same"])
        dropped = helper.make_node("Dropout", ["same"], ["dropped"])
        node.input[0] = "dropped"
        editor.replace(node, same, dropped, node)


def one_image(editor: Editor) -> None:
    """A fixed batch of 1."""
    for info in (editor.model.graph.input[0], editor.model.graph.output[0]):
        info.type.tensor_type.shape.dim[0].dim_value = 1


def probabilities(op: str) -> Rewrite:
    """A file that ends in Sigmoid or Softmax."""

    def rewrite(editor: Editor) -> None:
        editor.nodes.append(helper.make_node(op, ["logits"], ["probabilities"], name="ending"))
        editor.model.graph.output[0].name = "probabilities"

    return rewrite
