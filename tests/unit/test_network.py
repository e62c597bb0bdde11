"""Tracing a folded network into the neutral graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qdr_edge.errors import CheckpointError
from qdr_edge.graph import INPUT, Graph
from qdr_edge.scheme import EXACT
from qdr_train.models import MODELS, build
from qdr_train.models.blocks import ConvBnRelu, GlobalAvgPool
from qdr_train.quant.qat import prepare_qat, set_phase, to_network


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
def test_graph_is_valid_and_topological(name: str, quantized: bool) -> None:
    torch.manual_seed(0)
    model = build(name, 3, width=0.25)
    if quantized:
        model = prepare_qat(model, EXACT)
        model(torch.zeros(2, 3, 32, 32))
        set_phase(model, observers=False, bn_frozen=True)
    graph, tensors = to_network(model)
    graph.check(tensors, quantized=quantized)
    seen = {INPUT}
    for node in graph.nodes:
        assert set(node.inputs) <= seen
        seen.add(node.name)
    assert graph.nodes[0].inputs == (INPUT,)
    assert graph.nodes[-1].name == "head"
    assert all(array.dtype == np.float32 for array in tensors.values())
    assert Graph.from_dict(graph.to_dict()) == graph


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("qdr-small", {"conv": 11, "add": 3, "global_avg_pool": 1, "flatten": 1, "linear": 1}),
        (
            "resnet18",
            {"conv": 20, "add": 8, "max_pool": 1, "global_avg_pool": 1, "flatten": 1, "linear": 1},
        ),
        (
            "mobilenetv3-small",
            {
                "conv": 52,
                "add": 6,
                "mul": 9,
                "global_avg_pool": 10,
                "hardswish": 19,
                "hardsigmoid": 9,
                "flatten": 1,
                "linear": 2,
            },
        ),
    ],
)
def test_every_operator_is_there_once(name: str, operators: dict[str, int]) -> None:
    graph, _ = to_network(build(name, 3, width=0.25))
    found = [node.op for node in graph.nodes]
    assert {op: found.count(op) for op in sorted(set(found))} == dict(sorted(operators.items()))


def test_relu_is_fused() -> None:
    nodes = {node.name: node for node in to_network(build("resnet18", 3, width=0.25))[0].nodes}
    assert nodes["conv1"].activation == "relu"
    assert nodes["layer1.0.conv1"].activation == "relu"
    assert nodes["layer1.0.conv2"].activation == ""
    assert nodes["layer1.0.add"].activation == "relu"
    assert nodes["layer1.0.add"].inputs == ("layer1.0.conv2", "maxpool")
    assert nodes["layer2.0.add"].inputs == ("layer2.0.conv2", "layer2.0.downsample.0")
    assert nodes["conv1"].pair("stride") == (2, 2)
    assert nodes["maxpool"].pair("kernel") == (3, 3)


class Functional(nn.Module):
    """Computes outside any module, where no grid could be attached."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvBnRelu(3, 8, 3)
        self.pool = GlobalAvgPool()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.pool(self.conv(x)) * 2
        return result


class Foreign(Functional):
    """Uses an operator the graph does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(self.conv(x))
        return result


@pytest.mark.parametrize(("model", "words"), [(Functional(), "mul"), (Foreign(), "GELU")])
def test_what_the_graph_cannot_say_is_refused(model: nn.Module, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        to_network(model)
