"""Forms that single tools write: left-out roundings, unfolded BatchNorm, second grids."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from onnx import helper, numpy_helper

from qdr_edge.scheme import EXACT, PORTABLE, U8
from qdr_export.emit.tensorrt import emit as emit_tensorrt
from qdr_export.graph.canonical import build_canonical
from qdr_export.importer import grids
from qdr_export.importer.findings import Findings, UnsupportedModelError
from qdr_export.importer.pixels import MeanStd
from qdr_export.importer.run import read_operators
from qdr_export.importer.source import SourceRunner, calibrate
from qdr_export.reference import Reference
from tests import qdq_files
from tests.networks import SIZE, checkpoint
from tests.qdq_files import Brought, Editor, edited, pixels


def logits(brought: Brought) -> np.ndarray:
    return Reference(build_canonical(brought.checkpoint)).infer(pixels())


def test_left_out_roundings_are_all_named_with_the_mend() -> None:
    content = emit_tensorrt(build_canonical(checkpoint("resnet")))
    with pytest.raises(UnsupportedModelError, match="and 5 more") as caught:
        Brought(content, pixels=None)
    problems = caught.value.problems
    assert {p.place.split(" ")[1] for p in problems} >= {"b0.2", "b1.2", "b2.2", "gap"}
    assert all("not quantized" in p.found and "--calibrate" in p.mend for p in problems)


def test_calibration_fills_left_out_roundings_with_grids_of_the_files_kind() -> None:
    canonical = build_canonical(checkpoint("resnet"))
    content = emit_tensorrt(canonical)
    findings = Findings("m.onnx")
    source, lifting = read_operators(content, qdq_files.request(None), findings)
    drafts = grids.settle(lifting.drafts, findings)
    gaps = grids.gaps(drafts)
    runner = SourceRunner(source, None, [draft.tensor for draft in gaps], 1)
    images = pixels(16)
    calibrate(
        gaps, runner, [images[:8], images[8:]], symmetric=True, power_of_two=True, findings=findings
    )
    assert not grids.gaps(drafts)
    ranges = [np.abs(values).max() for values in runner(images)]
    for draft, largest in zip(gaps, ranges, strict=True):
        assert draft.grid is not None
        assert draft.grid.zero_point == 128
        # The smallest power of two that holds the range.
        assert draft.grid.scale / 2 * 127 < largest <= draft.grid.scale * 127
    told = [entry for entry in findings.normalisations if entry.rule == "calibrated"]
    assert len(told) == len(gaps)
    assert "on 16 images" in told[0].what


def test_unsigned_calibration_spans_the_range_and_holds_zero() -> None:
    findings = Findings("m.onnx")
    content = emit_tensorrt(build_canonical(checkpoint("resnet")))
    _, lifting = read_operators(content, qdq_files.request(None), findings)
    gap = grids.gaps(grids.settle(lifting.drafts, findings))[:1]
    values = [np.array([[-1.0, 4.1]], np.float32)]
    calibrate(
        gap, lambda _: values, [pixels(1)], symmetric=False, power_of_two=False, findings=findings
    )
    grid = gap[0].grid
    assert grid is not None
    assert grid.scale == np.float32(5.1 / 255)
    assert grid.zero_point == 50


@pytest.mark.parametrize("negative", [False, True], ids=["positive", "negative gamma"])
def test_batch_norm_behind_a_quantized_convolution_is_folded(negative: bool) -> None:
    made = checkpoint("student")
    random = np.random.default_rng(0)

    def unfolded(editor: Editor) -> None:
        node = next(n for n in editor.of("Conv") if n.name == "c1")
        channels = len(made.tensors["c1.bias"])
        gamma = random.uniform(0.5, 1.5, channels)
        if negative:
            gamma[::3] *= -1
            gamma[1] = 0
        values = {"gamma": gamma, "beta": random.normal(0, 0.1, channels)}
        values |= {"mean": random.normal(0, 0.1, channels), "var": random.uniform(1, 2, channels)}
        names = [editor.constant(name, v.astype(np.float32)) for name, v in values.items()]
        inner = helper.make_node("Conv", list(node.input), ["inner"], name="c1")
        inner.attribute.extend(node.attribute)
        norm = helper.make_node("BatchNormalization", ["inner", *names], list(node.output))
        editor.replace(node, inner, norm)

    brought = Brought(edited(build_canonical(made), unfolded), pixels=None)
    assert brought.checkpoint.scheme == PORTABLE
    assert brought.rules() == {"batch-norm", "bias-grid"}
    assert all(node.op != "batch_norm" for node in brought.checkpoint.graph.nodes)
    original = brought.original(pixels(), as_written=True)
    assert np.abs(logits(brought) - original).max() <= 3 * np.abs(original).max() / 127


def test_a_second_grid_becomes_an_operator_that_only_rounds() -> None:
    def twice(editor: Editor) -> None:
        node = next(n for n in editor.of("DequantizeLinear") if n.output[0] == "c1:d")
        # Half the step: biases of its readers still lie on their grids.
        scale = editor.constant("finer", editor.view.scale(node) / np.float32(2))
        zero = editor.constant("zero", np.int8(0))
        quantize = helper.make_node("QuantizeLinear", ["c1:d", scale, zero], ["finer/q"])
        again = helper.make_node("DequantizeLinear", ["finer/q", scale, zero], ["finer/d"])
        for reader in editor.nodes:
            reader.input[:] = ["finer/d" if name == "c1:d" else name for name in reader.input]
        editor.replace(node, node, quantize, again)
        quantize.input[0] = "c1:d"

    brought = Brought(edited(build_canonical(checkpoint("student")), twice), pixels=None)
    assert brought.rules() == {"second-grid"}
    assert not brought.rules(exact=False)
    np.testing.assert_array_equal(logits(brought), brought.original(pixels(), as_written=True))


def test_a_reader_of_the_unrounded_tensor_is_told() -> None:
    def unrounded(editor: Editor) -> None:
        add = next(n for n in editor.of("Add") if n.name == "a")
        add.input[0] = "c1:r"  # the activation before its rounding

    brought = Brought(edited(build_canonical(checkpoint("student")), unrounded), pixels=None)
    (entry,) = brought.findings.normalisations
    assert entry.rule == "rounding"
    assert not entry.exact
    assert entry.what.startswith("a reads it rounded")


def test_weights_of_minus_128_move_by_one_step_and_are_counted() -> None:
    def lowest(editor: Editor) -> None:
        dequantize = editor.weight(next(n for n in editor.of("Conv") if n.name == "c1"))
        codes = editor.view.constants[dequantize.input[0]].copy()
        codes.reshape(-1)[:3] = -128
        dequantize.input[0] = editor.constant("lowest", codes)

    brought = Brought(edited(build_canonical(checkpoint("student")), lowest), pixels=None)
    (entry,) = brought.findings.normalisations
    assert entry.rule == "weight-range"
    assert entry.what.startswith("3 of ")
    stored = brought.checkpoint.tensors["c1.weight"] / brought.checkpoint.tensors[
        "c1.weight_scale"
    ].reshape(-1, 1, 1, 1)
    assert stored.min() == -127


def test_a_layer_with_float_weights_stays_in_float() -> None:
    def in_float(editor: Editor) -> None:
        node = next(n for n in editor.of("Conv") if n.name == "c3")
        for index in (1, 2):
            dequantize = editor.view.producer(node.input[index])
            assert dequantize is not None
            codes, scale = (editor.view.constants[name] for name in dequantize.input[:2])
            real = codes * scale.reshape(-1, *[1] * (codes.ndim - 1))
            node.input[index] = editor.constant(f"real{index}", real.astype(np.float32))
            editor.nodes = [other for other in editor.nodes if other is not dequantize]

    brought = Brought(edited(build_canonical(checkpoint("student")), in_float), pixels=None)
    assert brought.checkpoint.graph.float_layers == ("c3",)
    assert brought.checkpoint.scheme == EXACT
    original = brought.original(pixels(), as_written=True)
    assert np.abs(logits(brought) - original).max() <= np.abs(original).max() / 127


def test_torch_fake_quantization_comes_through_torch_onnx_to_the_bit() -> None:
    import torch
    from torch import nn

    class FakeQuantized(nn.Module):
        """A network as quantization-aware training leaves it, scales powers of two."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, 2, 1)
            self.second = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
            self.head = nn.Linear(8, 4)
            for layer, steps in ((self.first, 128.0), (self.second, 32.0), (self.head, 64.0)):
                layer.weight.data = (layer.weight.data * steps * 2).round().clamp(-64, 64) / steps
                layer.bias.data = (layer.bias.data * 128).round() / 128

        def fake(self, x: torch.Tensor, scale: float) -> torch.Tensor:
            return torch.fake_quantize_per_tensor_affine(x, scale, 0, -128, 127)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.fake(x, 2.0**-6)
            weight = torch.fake_quantize_per_channel_affine(
                self.first.weight, torch.full((8,), 2.0**-7), torch.zeros(8, dtype=torch.int32),
                0, -128, 127,
            )  # fmt: skip
            x = nn.functional.conv2d(x, weight, self.first.bias, 2, 1)
            x = self.fake(nn.functional.relu(x), 2.0**-5)
            weight = self.fake(self.second.weight, 2.0**-5)
            y = nn.functional.conv2d(x, weight, self.second.bias, 1, 1, groups=8)
            y = self.fake(nn.functional.relu(x + self.fake(y, 2.0**-5)), 2.0**-4)
            y = self.fake(y.mean((2, 3)), 2.0**-5)
            return nn.functional.linear(y, self.fake(self.head.weight, 2.0**-6), self.head.bias)

    torch.manual_seed(0)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is an old one
        torch.onnx.export(
            FakeQuantized().eval(),
            (torch.zeros(1, 3, SIZE, SIZE),),
            file,
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            dynamic_axes={"x": {0: "N"}},
        )
    brought = Brought(file.getvalue())
    assert brought.checkpoint.scheme == EXACT
    assert not brought.rules(exact=False)
    assert [n.op for n in brought.checkpoint.graph.nodes] == [
        "conv", "conv", "add", "global_avg_pool", "flatten", "linear",
    ]  # fmt: skip
    np.testing.assert_array_equal(logits(brought), brought.original(pixels(), as_written=True))


def test_imagenet_normalisation_becomes_an_operator_with_the_files_own_codes() -> None:
    imagenet = MeanStd((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    scale, zero = np.float32(4.8 / 255), np.uint8(114)
    head = np.random.default_rng(0).integers(-50, 50, (4, 3)).astype(np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("QuantizeLinear", ["f", "s", "z"], ["fq"]),
        helper.make_node("DequantizeLinear", ["fq", "s", "z"], ["fd"]),
        helper.make_node("DequantizeLinear", ["w", "t"], ["wd"]),
        helper.make_node("Gemm", ["fd", "wd"], ["y"], transB=1),
    ]
    stored = {"s": scale, "z": zero, "w": head, "t": np.float32(0.01)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", 1, ["N", 4])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    brought = Brought(model.SerializeToString(), pixels=imagenet)
    assert brought.checkpoint.scheme == U8
    assert brought.checkpoint.graph.nodes[0].op == "normalize"
    images = pixels(1)
    images[0, :, :4] = np.arange(256, dtype=np.uint8).reshape(4, 64)  # every value of each colour
    found = Reference(build_canonical(brought.checkpoint)).activations(images)["normalize:q"]
    wanted = np.clip(np.rint(imagenet.apply(images) / scale) + zero, 0, 255)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("shift", [-0.5, 0.0, 0.5])
def test_pixels_half_way_between_codes_round_alike_everywhere(shift: float) -> None:
    from qdr_export.importer.drafts import Grid
    from qdr_export.importer.pixels import Affine

    grid = Grid(1.0, 0)
    tied = Affine(np.ones(3), np.full(3, shift))
    assert tied.is_exact(grid) == (shift == 0)
    settled = tied.away_from_ties(grid, tied.rounded(grid))
    assert settled.is_exact(grid)
    if shift == 0:
        assert settled is tied
    assert np.abs(settled.bias - tied.bias).max() <= 0.25
