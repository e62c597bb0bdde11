"""Files of other tools, imported: the same integers, or the stated number of steps."""

from __future__ import annotations

import numpy as np
import pytest
from onnxruntime.quantization import QuantType

from qdr_edge.labels import LabelSet
from qdr_edge.scheme import EXACT, EXACT_WIDE, PORTABLE, U8, QuantScheme
from qdr_export.graph.canonical import build_canonical, quantize_weights
from qdr_export.reference import Reference
from tests import qdq_files
from tests.networks import FAMILIES, LABELS, checkpoint
from tests.qdq_files import Brought, edited, float_file, pixels, quantize_static

INT8, UINT8 = QuantType.QInt8, QuantType.QUInt8
STATIC = {
    "u8s8": {"activation_type": UINT8, "weight_type": INT8},
    "u8s8-per-channel": {"activation_type": UINT8, "weight_type": INT8, "per_channel": True},
    "u8s8-reduced": {
        "activation_type": UINT8,
        "weight_type": INT8,
        "per_channel": True,
        "reduce_range": True,
    },
    "s8s8": {"activation_type": INT8, "weight_type": INT8, "per_channel": True},
    "s8s8-symmetric": {
        "activation_type": INT8,
        "weight_type": INT8,
        "per_channel": True,
        "extra_options": {"ActivationSymmetric": True},
    },
    "u8u8-symmetric-weights": {
        "activation_type": UINT8,
        "weight_type": UINT8,
        "extra_options": {"WeightSymmetric": True},
    },
    "float-bias": {
        "activation_type": UINT8,
        "weight_type": INT8,
        "extra_options": {"QuantizeBias": False},
    },
    "float-weights-behind-q": {
        "activation_type": INT8,
        "weight_type": INT8,
        "extra_options": {"AddQDQPairToWeight": True},
    },
    "pairs-of-their-own": {
        "activation_type": UINT8,
        "weight_type": INT8,
        "extra_options": {"DedicatedQDQPair": True},
    },
}


# Of a logit's range / 127. Free scales put sums near ties, where float32 decides by its last bit.
STEPS = 3


def steps_apart(brought: Brought, *, as_written: bool) -> float:
    images = pixels()
    original = brought.original(images, as_written=as_written)
    found = Reference(build_canonical(brought.checkpoint)).infer(images)
    return float(np.abs(original - found).max() / (np.abs(original).max() / 127))


@pytest.mark.parametrize("options", STATIC.values(), ids=STATIC)
def test_static_quantization_comes_within_the_steps_of_free_scales(options) -> None:
    brought = Brought(quantize_static(float_file("student"), **options))
    symmetric = options.get("extra_options", {}).get("ActivationSymmetric", False)
    assert brought.checkpoint.scheme == (PORTABLE if symmetric else U8)
    assert steps_apart(brought, as_written=True) <= STEPS
    assert steps_apart(brought, as_written=False) <= STEPS


@pytest.mark.parametrize("family", ["resnet", "mobilenet"])
def test_every_operator_of_a_family_comes_through_static_quantization(family: str) -> None:
    content = quantize_static(float_file(family), **STATIC["u8s8-per-channel"])
    brought = Brought(content)
    ops = {node.op for node in brought.checkpoint.graph.nodes}
    assert ops >= {node.op for node in checkpoint(family).graph.nodes} - {"relu"}
    assert steps_apart(brought, as_written=True) <= STEPS
    assert steps_apart(brought, as_written=False) <= STEPS


@pytest.mark.parametrize("scheme", [EXACT, EXACT_WIDE, PORTABLE, U8], ids=lambda s: s.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_our_own_file_comes_back_with_the_same_integers(family: str, scheme: QuantScheme) -> None:
    made = checkpoint(family, scheme=scheme)
    canonical = build_canonical(made)
    back = Brought(canonical, pixels=None)
    assert not back.findings.normalisations
    assert back.checkpoint.graph == made.graph
    found = back.checkpoint.scheme
    assert found == scheme or (scheme, found) == (EXACT_WIDE, EXACT)
    scales = {"pixels": 2.0**-6, **{node.name: node.scale for node in made.graph.nodes}}
    for node in made.graph.nodes:
        if node.op in ("conv", "linear"):
            mine, theirs = (
                quantize_weights(node, tensors, scales[node.inputs[0]], scheme)
                for tensors in (made.tensors, back.checkpoint.tensors)
            )
            assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
    images = pixels()
    np.testing.assert_array_equal(
        Reference(build_canonical(back.checkpoint)).infer(images),
        Reference(canonical).infer(images),
    )


DIALECTS = {
    "uint8 codes": [qdq_files.unsigned_codes],
    "weights as floats": [qdq_files.weights_as_floats],
    "float biases": [qdq_files.float_biases],
    "MatMul and Add": [qdq_files.product_and_sum],
    "ReduceMean and Reshape": [qdq_files.means_and_reshapes],
    "Constant, Identity, Dropout": [qdq_files.constants_and_identities],
    "one image": [qdq_files.one_image, qdq_files.means_and_reshapes],
    "all at once": [
        qdq_files.unsigned_codes,
        qdq_files.weights_as_floats,
        qdq_files.float_biases,
        qdq_files.means_and_reshapes,
        qdq_files.constants_and_identities,
    ],
}


@pytest.mark.parametrize("rewrites", DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize("family", ["resnet", "student"])
def test_power_of_two_scales_are_bit_equal_to_the_original_in_onnx_runtime(
    family: str, rewrites: list[qdq_files.Rewrite]
) -> None:
    brought = Brought(edited(build_canonical(checkpoint(family)), *rewrites), pixels=None)
    assert brought.checkpoint.scheme == EXACT
    assert not brought.rules(exact=False)
    images = pixels()
    np.testing.assert_array_equal(
        Reference(build_canonical(brought.checkpoint)).infer(images), brought.original(images)
    )


@pytest.mark.parametrize(
    ("op", "labels"),
    [("Sigmoid", LABELS), ("Softmax", LabelSet.custom(LABELS.codes, exclusive=True))],
)
def test_probabilities_become_logits(op: str, labels: LabelSet) -> None:
    canonical = build_canonical(checkpoint("student"))
    brought = Brought(edited(canonical, qdq_files.probabilities(op)), pixels=None, labels=labels)
    assert brought.rules() == {"ending"}
    assert brought.lifting.ending == op
    assert brought.lifting.logits == "logits"
    np.testing.assert_array_equal(
        Reference(build_canonical(brought.checkpoint)).infer(pixels()),
        Reference(canonical).infer(pixels()),
    )
