"""Tiny ONNX models, images and bundles that several tests share. Nothing here is mocked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from qdr_edge.bundle import seal
from qdr_edge.keys import SigningKey
from qdr_edge.labels import LabelSet
from qdr_edge.manifest import (
    Artefact,
    Decisions,
    GoldenVector,
    ImageInput,
    Labels,
    Manifest,
    Preprocess,
    Threshold,
)

SIZE = 64
LABELS = LabelSet.custom(("NOR", "AMD", "DR"), "test")
ORT = "artefacts/ort-x86.onnx"
OPENVINO = "artefacts/openvino.onnx"


def onnx_model(size: int = SIZE, seed: int = 0, *, opset: int = 19) -> bytes:
    """(pixels - 128) / 64 -> conv -> relu -> mean -> linear: uint8 [1, 3, S, S] to [1, 3]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)
    constants = {
        "middle": np.array(128, np.float32),
        "scale": np.array(1 / 64, np.float32),
        "conv.weight": random.normal(0, 0.5, (8, 3, 3, 3)).astype(np.float32),
        "fc.weight": random.normal(0, 1, (8, len(LABELS))).astype(np.float32),
        "fc.bias": random.normal(0, 0.1, len(LABELS)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float", "middle"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["x"]),
        helper.make_node("Conv", ["x", "conv.weight"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["features"]),
        helper.make_node("Gemm", ["features", "fc.weight", "fc.bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, len(LABELS)])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model)
    raw: bytes = model.SerializeToString()
    return raw


def fundus(seed: int = 0, side: int = 320) -> NDArray[np.uint8]:
    """A picture that passes for a fundus photograph: lit disc, bright spot, branching vessels."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side - 0.5
    radius = np.hypot(x, y)
    light = np.clip(1.1 - 1.2 * radius, 0, 1)[..., None]
    eye = light * np.array([205, 105, 55], np.float32)
    eye += 60 * np.exp(-((x - 0.2) ** 2 + y**2) / 0.004)[..., None]
    eye = np.ascontiguousarray(eye)
    for start in np.linspace(0, 2 * np.pi, 10, endpoint=False):
        angle, point = start, np.array([0.7 * side, 0.5 * side])
        for step in range(24):
            angle += random.normal(0, 0.25)
            ahead = point + side / 40 * np.array([np.cos(angle), np.sin(angle)])
            ends = [tuple(int(v) for v in p) for p in (point, ahead)]
            cv2.line(eye, ends[0], ends[1], (110, 35, 25), max(1, 4 - step // 7), cv2.LINE_AA)
            point = ahead
    eye += random.normal(0, 3, eye.shape)
    eye[radius > 0.47] = 0
    return np.clip(eye, 0, 255).astype(np.uint8)


def png(rgb: NDArray[np.uint8]) -> bytes:
    """Encode RGB pixels."""
    good, content = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    assert good
    return content.tobytes()


def manifest(**changes: Any) -> Manifest:
    """A valid manifest of a model without golden vectors."""
    from qdr_edge.preprocess import PreprocessSpec

    spec = PreprocessSpec(modality="fundus", size=SIZE)
    values: dict[str, Any] = {
        "bundle_id": "test-fundus",
        "model_version": "1.0.0",
        "created": "2025-01-01T00:00:00Z",
        "modality": "fundus",
        "synthetic": True,
        "labels": Labels.of(LABELS),
        "input": ImageInput(size=SIZE),
        "preprocess": Preprocess(spec=dict(spec.to_dict()), sha256=spec.sha256),
        "decision": Decisions(
            temperature="1.0",
            thresholds=tuple(
                Threshold(code=code, logit="0.0", fitted_for="test", split="val")
                for code in LABELS.codes
            ),
            gates={},
        ),
        "scheme": {"name": "exact"},
        "artefacts": {"ort-x86": Artefact(entry=ORT, backend="onnxruntime", opset=19)},
        "licence": "Apache-2.0",
        "proven": True,
    }
    return Manifest(**{**values, **changes})


def sealed(key: SigningKey | None, **changes: Any) -> bytes:
    """A small bundle whose model is only bytes: for what happens before a runtime sees it."""
    entries = {ORT: b"model" * 20, "NOTICE": b"notice", "model_card.md": b"# card"}
    return seal(manifest(**changes), entries, key)


def working_entries(seed: int = 0) -> tuple[Manifest, dict[str, bytes]]:
    """A manifest with recorded golden vectors, and its entries: a model that really runs."""
    from qdr_edge.decision import DecisionRule, decide
    from qdr_edge.files import sha256_bytes
    from qdr_edge.gate import check, default_limits
    from qdr_edge.manifest import exact_text, without_floats
    from qdr_edge.preprocess import PreprocessSpec, load_image
    from qdr_edge.runtime import open_model

    model = onnx_model(seed=seed)
    spec = PreprocessSpec(modality="fundus", size=SIZE)
    limits = default_limits("fundus")
    pictures = {f"golden/{index}.png": png(fundus(index)) for index in range(2)}
    pictures["golden/black.png"] = png(np.zeros((200, 200, 3), np.uint8))
    pictures["golden/text.png"] = b"this is no image"
    backends = {"ort-x86": "onnxruntime", "openvino": "openvino"}
    sessions = {name: open_model(backend, model, threads=1) for name, backend in backends.items()}
    tensors = {name: load_image(pictures[name], spec) for name in list(pictures)[:3]}
    logits = {
        name: {t: s.infer(tensors[name][None])[0] for t, s in sessions.items()}
        for name in list(pictures)[:2]
    }
    # Thresholds between the two images' logits: each label is positive for exactly one of them.
    pair = [logits[name]["ort-x86"] for name in logits]
    rule = DecisionRule(LABELS, 1.0, tuple(float(v) for v in (pair[0] + pair[1]) / 2))
    golden = []
    for name in pictures:
        short = name.split("/")[1].split(".")[0]
        if name not in tensors:
            golden.append(GoldenVector(name=short, image=name, outcome="INVALID_INPUT"))
            continue
        digest = sha256_bytes(tensors[name].tobytes())
        gate = check(tensors[name], "fundus", limits)
        if name not in logits:
            assert gate.outcome is not None
            outcome: Any = gate.outcome.value
            recorded: Mapping[str, Any] = {}
            positives: tuple[str, ...] = ()
        else:
            assert gate.outcome is None, gate.reason
            decision = decide(logits[name]["ort-x86"], rule, "fundus")
            outcome = decision.outcome.value
            positives = tuple(label.code for label in decision.findings)
            recorded = {
                t: tuple(exact_text(float(v)) for v in values) for t, values in logits[name].items()
            }
        golden.append(
            GoldenVector(
                name=short,
                image=name,
                preprocessed_sha256=digest,
                logits=dict(recorded),
                outcome=outcome,
                positives=positives,
            )
        )
    for session in sessions.values():
        session.close()
    decisions = Decisions.of(rule, without_floats(limits.to_dict()), fitted_for="test", split="val")
    step = {"tolerance_steps": 1, "logit_step": "0.001"}
    artefacts = {
        "ort-x86": Artefact(entry=ORT, backend="onnxruntime", opset=19, **step),
        "openvino": Artefact(entry=OPENVINO, backend="openvino", opset=19, **step),
        **{
            name: Artefact(
                entry=ORT, backend="tensorrt", opset=19, requires=("nvidia",), runtime=versions
            )
            for name, versions in (("tensorrt-10", ">=10.3,<11"), ("tensorrt-11", ">=11,<12"))
        },
    }
    described = manifest(decision=decisions, artefacts=artefacts, golden=tuple(golden))
    return described, {ORT: model, OPENVINO: model, **pictures}
