"""Small quantized checkpoints with random weights, one for each family of students.

Scales are calibrated on random images so that the codes use their range: a network whose
activations are all 0 or all saturated would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from qdr_edge.checkpoint import Checkpoint
from qdr_edge.graph import INPUT, SCALE_KEEPING, Graph, Node
from qdr_edge.labels import LabelSet
from qdr_edge.preprocess import PreprocessSpec
from qdr_edge.scheme import EXACT, QuantScheme
from qdr_export.float_twin import build_float_twin

SIZE = 64
LABELS = LabelSet.custom(("NOR", "AMD", "DR", "RVO"), "test")


class Sketch:
    """Collects nodes and random weights."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.tensors: dict[str, NDArray[np.float32]] = {}
        self.channels: dict[str, int] = {INPUT: 3}

    def conv(
        self,
        name: str,
        x: str,
        out: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        relu: bool = False,
        activation: str = "",
    ) -> str:
        attrs = {
            "stride": (stride, stride),
            "padding": (kernel // 2, kernel // 2),
            "dilation": (1, 1),
            "groups": groups,
        }
        self._weights(name, (out, self.channels[x] // groups, kernel, kernel))
        fused = "relu" if relu else activation
        return self._append(Node(name, "conv", (x,), attrs, fused), out)

    def linear(self, name: str, x: str, out: int) -> str:
        self._weights(name, (out, self.channels[x]))
        return self._append(Node(name, "linear", (x,), {}), out)

    def op(
        self,
        name: str,
        op: str,
        *inputs: str,
        relu: bool = False,
        activation: str = "",
        **attrs: object,
    ) -> str:
        fused = "relu" if relu else activation
        node = Node(name, op, inputs, attrs, fused)  # type: ignore[arg-type]
        channels = [self.channels[name] for name in inputs]
        return self._append(node, sum(channels) if op == "concat" else channels[0])

    def normalize(self, name: str, mean: Sequence[float], std: Sequence[float]) -> str:
        """(pixels / 255 − mean) / std, as one product and one sum."""
        deviation = np.asarray(std, np.float64)
        self.tensors[f"{name}.weight"] = (1 / 255 / deviation).astype(np.float32)
        self.tensors[f"{name}.bias"] = (-np.asarray(mean) / deviation).astype(np.float32)
        return self._append(Node(name, "normalize", (INPUT,), {}), 3)

    def _append(self, node: Node, channels: int) -> str:
        self.nodes.append(node)
        self.channels[node.name] = channels
        return node.name

    def _weights(self, name: str, shape: tuple[int, ...]) -> None:
        fan_in = int(np.prod(shape[1:]))
        weight = self.random.normal(0, np.sqrt(2 / fan_in), shape)
        # Channels of different size: per-channel scales must matter.
        weight *= self.random.uniform(0.3, 2.0, (shape[0], *[1] * (len(shape) - 1)))
        self.tensors[f"{name}.weight"] = weight.astype(np.float32)
        self.tensors[f"{name}.bias"] = self.random.normal(0, 0.2, shape[0]).astype(np.float32)


def resnet(seed: int = 0, classes: int = len(LABELS)) -> Sketch:
    """Residual blocks, strided and identity, max pooling."""
    s = Sketch(seed)
    x = s.conv("stem", INPUT, 16, 7, stride=2, relu=True)
    x = s.op("pool", "max_pool", x, kernel=(3, 3), stride=(2, 2), padding=(1, 1))
    for index, (out, stride) in enumerate([(16, 1), (32, 2), (48, 2)]):
        short = s.conv(f"b{index}.d", x, out, 1, stride=stride) if stride > 1 else x
        y = s.conv(f"b{index}.1", x, out, 3, stride=stride, relu=True)
        y = s.conv(f"b{index}.2", y, out, 3)
        x = s.op(f"b{index}.add", "add", y, short, relu=True)
    return _head(s, x, classes)


def mobilenet(seed: int = 0, classes: int = len(LABELS)) -> Sketch:
    """Depthwise convolutions, squeeze-excite, hardswish, hardsigmoid, linear bottlenecks."""
    s = Sketch(seed)
    x = s.op("stem.h", "hardswish", s.conv("stem", INPUT, 16, 3, stride=2))
    for index, (wide, stride) in enumerate([(48, 1), (40, 2)]):
        b = f"b{index}"
        y = s.op(f"{b}.h", "hardswish", s.conv(f"{b}.e", x, wide, 1))
        y = s.conv(f"{b}.w", y, wide, 5, stride=stride, groups=wide)
        y = s.op(f"{b}.h2", "hardswish", y)
        g = s.conv(f"{b}.s1", s.op(f"{b}.g", "global_avg_pool", y), 8, 1, relu=True)
        g = s.op(f"{b}.sig", "hardsigmoid", s.conv(f"{b}.s2", g, wide, 1))
        y = s.conv(f"{b}.p", s.op(f"{b}.m", "mul", y, g), 16, 1)
        x = s.op(f"{b}.add", "add", y, x) if stride == 1 else y
    return _head(s, s.op("last.h", "hardswish", s.conv("last", x, 32, 1)), classes)


def student(seed: int = 0, classes: int = len(LABELS)) -> Sketch:
    """Dense convolutions and ReLU, few adds, no max pooling; one grouped convolution."""
    s = Sketch(seed)
    x = s.conv("c0", INPUT, 16, 3, stride=2, relu=True)
    x = s.conv("c1", x, 32, 3, stride=2, relu=True)
    y = s.conv("c3", s.conv("c2", x, 32, 3, groups=2, relu=True), 32, 1)
    x = s.op("a", "add", x, y, relu=True)
    x = s.op("r", "relu", s.conv("c4", x, 48, 3, stride=2))
    return _head(s, x, classes)


def _head(s: Sketch, x: str, classes: int) -> Sketch:
    x = s.op("flat", "flatten", s.op("gap", "global_avg_pool", x))
    s.linear("fc", x, classes)
    return s


FAMILIES: dict[str, Callable[[int, int], Sketch]] = {
    "resnet": resnet,
    "mobilenet": mobilenet,
    "student": student,
}


def checkpoint(
    family: str,
    seed: int = 0,
    *,
    scheme: QuantScheme | None = EXACT,
    size: int = SIZE,
    modality: str = "fundus",
    labels: LabelSet = LABELS,
) -> Checkpoint:
    """A checkpoint of a family, with scales calibrated on random images."""
    sketch = FAMILIES[family](seed, len(labels))
    return from_sketch(sketch, family, scheme=scheme, size=size, modality=modality, labels=labels)


def from_sketch(
    s: Sketch,
    name: str = "net",
    *,
    scheme: QuantScheme | None = EXACT,
    size: int = SIZE,
    modality: str = "fundus",
    labels: LabelSet = LABELS,
) -> Checkpoint:
    """A checkpoint of a sketch; see `checkpoint`."""
    nodes, tensors = s.nodes, dict(s.tensors)
    if scheme is not None:
        nodes = _calibrated(s, size, scheme, labels)
        for node in nodes:
            if node.op in ("conv", "linear"):
                weight = np.abs(tensors[f"{node.name}.weight"].reshape(s.channels[node.name], -1))
                tensors[f"{node.name}.weight_scale"] = _scale(
                    weight.max(axis=1), scheme.weight_qmax, scheme
                )
    return of_graph(Graph(tuple(nodes)), tensors, name, scheme, size, modality, labels)


def of_graph(
    graph: Graph,
    tensors: Mapping[str, NDArray[np.float32]],
    name: str = "net",
    scheme: QuantScheme | None = EXACT,
    size: int = SIZE,
    modality: str = "fundus",
    labels: LabelSet = LABELS,
) -> Checkpoint:
    """A checkpoint of a finished graph."""
    return Checkpoint(
        name=f"test-{name}",
        role="student" if scheme else "teacher",
        modality=modality,
        synthetic=True,
        model={"name": name},
        labels=labels,
        preprocess=PreprocessSpec(modality=modality, size=size),
        scheme=scheme,
        graph=graph,
        tensors=tensors,
        provenance={"recipe_sha256": "0" * 64, "seed": 0},
    )


def with_float(made: Checkpoint, names: tuple[str, ...]) -> Checkpoint:
    """The checkpoint with some layers kept in float."""
    nodes = tuple(replace(node, in_float=node.name in names) for node in made.graph.nodes)
    scales = {f"{name}.weight_scale" for name in names}
    tensors = {key: value for key, value in made.tensors.items() if key not in scales}
    return replace(made, graph=Graph(nodes), tensors=tensors)


def images(count: int, size: int = SIZE, seed: int = 1) -> NDArray[np.uint8]:
    """Random images with structure at two scales: uint8 [N, 3, S, S]."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 200, (count, 3, size // 8, size // 8))
    fine = random.integers(0, 56, (count, 3, size, size))
    return (coarse.repeat(8, 2).repeat(8, 3) + fine).astype(np.uint8)


def _scale(largest: NDArray[np.float32], qmax: int, scheme: QuantScheme) -> NDArray[np.float32]:
    scale = np.maximum(largest, 1e-6) / qmax
    if scheme.power_of_two:
        scale = 2.0 ** np.ceil(np.log2(scale))
    return scale.astype(np.float32)


def _calibrated(s: Sketch, size: int, scheme: QuantScheme, labels: LabelSet) -> list[Node]:
    twin = build_float_twin(from_sketch(s, scheme=None, size=size, labels=labels))
    ranges = _float_ranges(onnx.load_model_from_string(twin), images(4, size))
    nodes: list[Node] = []
    grids: dict[str, tuple[float | None, int]] = {}
    for node in s.nodes:
        if node is s.nodes[-1]:
            grid: tuple[float | None, int] = (None, 0)
        elif node.op in SCALE_KEEPING and node.inputs[0] != INPUT:
            grid = grids[node.inputs[0]]
        else:
            grid = _grid(*ranges[f"{node.name}:r" if node.activation else node.name], scheme)
        grids[node.name] = grid
        nodes.append(replace(node, scale=grid[0], zero_point=grid[1]))
    return nodes


def _grid(low: float, high: float, scheme: QuantScheme) -> tuple[float, int]:
    """Scale and zero point for part of a range: as in a trained network, some codes saturate."""
    # A simple fraction of free scales would put far more values on ties than training does.
    part = 0.7390851 if scheme.unsigned else 0.75
    low, high = part * low, part * high
    if not scheme.unsigned:
        return float(_scale(np.array(max(-low, high), np.float32), 127, scheme)), 0
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32(max(high - low, 1e-6) / 255))
    return scale, round(-low / scale)


def _float_ranges(
    model: onnx.ModelProto, pixels: NDArray[np.uint8]
) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of every tensor of a float model."""
    names = [o for n in model.graph.node for o in n.output]
    del model.graph.output[:]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names
    )
    run = ReferenceEvaluator(model)
    ranges = dict.fromkeys(names, (np.inf, -np.inf))
    for image in pixels:
        for name, value in zip(names, run.run(None, {INPUT: image[None]}), strict=True):
            low, high = ranges[name]
            ranges[name] = min(low, float(value.min())), max(high, float(value.max()))
    return ranges
