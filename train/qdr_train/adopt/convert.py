"""From a traced network to its description and its weights, or to a list of what stands in the way.

The rewritten network is compared with the original on images before anything is made of it:
operations in place can change what another operation reads, which no trace shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from qdr_edge.errors import RecipeError
from qdr_train.adopt.build import IMAGE, build_own, fusion_groups
from qdr_train.adopt.operations import SUPPORTED, draft_of
from qdr_train.adopt.rules import Draft, UnsupportedError
from qdr_train.adopt.source import Source
from qdr_train.adopt.trace import Traced, kind_of, module_path, place, trace
from qdr_train.models.blocks import Classifier
from qdr_train.recipe.own import Colours, Own, Step

_INSTEAD: Mapping[str, str] = {
    "used directly": "if it normalizes the images, take it out and name --mean and --std",
    "BatchNorm1d": "leave it out, or normalize before the pooling with BatchNorm2d",
    "LeakyReLU": "use ReLU",
    "PReLU": "use ReLU",
    "GELU": "use SiLU or Hardswish",
    "ELU": "use ReLU or SiLU",
    "gelu": "use SiLU or Hardswish",
    "LayerNorm": "use BatchNorm2d",
    "GroupNorm": "use BatchNorm2d",
    "InstanceNorm": "use BatchNorm2d",
    "ConvTranspose": "use nearest upsampling and a convolution",
    "sub": "use + after a convolution that learns the sign",
    "div": "use * after a sigmoid, or let a convolution learn the factor",
    "getitem": "use two convolutions in place of slices",
    "chunk": "use two convolutions in place of parts",
    "split": "use two convolutions in place of parts",
}
# What parts of our classifier and of its backbone are called.
_TAKEN = frozenset({"head", "input", "dropout", "fuse"})
_TOLERANCE = 1e-4  # of the largest logit; folding nothing yet, only the order of sums differs


@dataclass(frozen=True)
class Adopted:
    """A user's network in our blocks.

    Args:
        own: Its description.
        weights: State of the `Classifier` that `build_own` makes from it.
    """

    own: Own
    weights: Mapping[str, Tensor]

    def network(self) -> Classifier:
        """The network with its weights, in evaluation mode."""
        network = build_own(self.own)
        network.load_state_dict(dict(self.weights))
        return network.eval()


def adopt(
    source: Source, size: int, *, mean: Colours | None = None, std: Colours | None = None
) -> Adopted:
    """Rewrite a network into blocks that can be quantized.

    Args:
        source: The network and where it is from.
        size: Side of the images in pixels.
        mean: Of each colour in pixel / 255, as the network was trained; None: it sees
            (pixel − 128) / 64.
        std: With `mean`.

    Raises:
        RecipeError: Operations are not supported (all of them are named), the size does not fit,
            or the network cannot be followed.
    """
    if (mean is None) != (std is None) or (std is not None and min(std) <= 0):
        raise RecipeError(
            "a mean without a std" if std is None else f"std {std}",
            where="normalization",
            expected="three values each, std above 0",
        )
    traced = trace(source.network, size, source.name)
    drafts = _drafts(traced, source.name)
    head = _head(traced, drafts, source.name)
    features, dropout = _features(drafts, head)
    rewrite = _Rewrite(traced, drafts, features)
    rewrite.run(source.name)
    steps, modules = _tidied(rewrite.steps, rewrite.modules)
    linear = drafts[head].op == "linear"
    width = (traced.shape(head) or ())[1]
    own = Own(
        source=source.name,
        sha256=source.sha256,
        size=size,
        classes=width,
        features=int(drafts[head].options["inputs"]) if linear else width,
        dropout=dropout,
        mean=mean,
        std=std,
        steps=tuple(steps),
    )
    network = build_own(own)
    for name, module in modules.items():
        _take(network.backbone.get_submodule(name), module)
    if linear:
        _take(network.head, drafts[head].module)
    else:
        # The features are the logits already: the last layer begins as the identity.
        nn.init.eye_(network.head.weight)
    if not linear or not drafts[head].options["bias"]:
        nn.init.zeros_(network.head.bias)
    _require_equal(network.eval(), source, size)
    return Adopted(own, {name: value.clone() for name, value in network.state_dict().items()})


def _drafts(traced: Traced, name: str) -> dict[fx.Node, Draft]:
    """Every operation on tensors that the answer depends on, in our words."""
    output = traced.nodes[-1]
    answer = output.args[0]
    if not isinstance(answer, fx.Node):
        raise RecipeError(
            f"forward returns a {type(answer).__name__}",
            where=name,
            expected="one tensor, the logits [N, K]",
            fix="return the logits alone in evaluation mode",
        )
    needed, waiting = set(), [answer]
    while waiting:
        node = waiting.pop()
        if node not in needed and (traced.shape(node) is not None):
            needed.add(node)
            waiting += node.all_input_nodes
    drafts, refused = {}, []
    for node in traced.nodes:
        if node not in needed or node.op == "placeholder":
            continue
        try:
            drafts[node] = draft_of(node, traced)
        except UnsupportedError as refusal:
            refused.append(_refused(node, traced, str(refusal)))
    if refused:
        raise RecipeError(
            f"{len(refused)} operation{'s' if len(refused) > 1 else ''} not supported: "
            + "; ".join(refused),
            where=name,
            expected=SUPPORTED,
        )
    return drafts


def _refused(node: fx.Node, traced: Traced, reason: str) -> str:
    kind, path = kind_of(node, traced.model), module_path(node)
    if not reason:
        reason = next((text for word, text in _INSTEAD.items() if word in kind), "")
    where = ", ".join(filter(None, (f"module {path}" if path else "", place(node))))
    return f"{kind} ({where})" + (f": {reason}" if reason else "")


def _head(traced: Traced, drafts: Mapping[fx.Node, Draft], name: str) -> fx.Node:
    """What makes the logits: the last linear layer, or the mean of a map for each label."""
    answer = traced.nodes[-1].args[0]
    while answer in drafts and drafts[answer].op in ("same", "flatten"):  # type: ignore[index]
        answer = drafts[answer].inputs[0]  # type: ignore[index]
    draft = drafts.get(answer)  # type: ignore[arg-type]
    if draft is None or draft.op not in ("linear", "global_avg_pool"):
        found = draft.op if draft else "the image"
        raise RecipeError(
            f"it ends in {found}",
            where=place(answer) or name,  # type: ignore[arg-type]
            expected="a linear layer, or a mean over height and width, whose outputs, the logits, "
            "are returned as they are",
            fix="leave sigmoid or softmax to the decision, which knows the labels",
        )
    return answer  # type: ignore[return-value]


def _features(drafts: Mapping[fx.Node, Draft], head: fx.Node) -> tuple[fx.Node, float]:
    """What the last layer reads, and the dropout before it, which the classifier has itself."""
    if drafts[head].op != "linear":
        return head, 0.0
    before = drafts[head].inputs[0]
    if before in drafts and drafts[before].op == "dropout":
        return drafts[before].inputs[0], float(drafts[before].options["share"])
    return before, 0.0


@dataclass
class _Rewrite:
    """Drafts as steps with names, in order."""

    traced: Traced
    drafts: Mapping[fx.Node, Draft]
    features: fx.Node
    steps: list[Step] = field(default_factory=list)
    modules: dict[str, nn.Module] = field(default_factory=dict)

    def run(self, where: str) -> None:
        """Fill `steps`; the features come last."""
        maps = self._kept_as_maps()
        names: dict[fx.Node, str] = {n: IMAGE for n in self.traced.nodes if n.op == "placeholder"}
        flat: dict[str, str] = {}
        wanted = self._ancestors(self.features)
        shared: dict[int, fx.Node] = {}
        for node, draft in self.drafts.items():
            if node not in wanted:
                continue
            if draft.module is not None and shared.setdefault(id(draft.module), node) != node:
                raise RecipeError(
                    f"module {module_path(node)} is used twice with the same weights",
                    where=place(node) or where,
                    expected="a module of its own for each use",
                )
            inputs = tuple(names[source] for source in draft.inputs)
            if node not in maps:
                kept = [source in maps for source in draft.inputs]
                if any(kept) and draft.op != "flatten" and len(self._shape(node)) == 2:
                    inputs = tuple(
                        self._flattened(name, flat) if is_map else name
                        for name, is_map in zip(inputs, kept, strict=True)
                    )
            names[node] = self._append(node, draft, inputs, as_map=node in maps)
        last = names[self.features]
        if self.features in maps or len(self._shape(self.features)) == 4:
            last = self._flattened(last, flat)
        if not self.steps or self.steps[-1].name != last:
            # The features come last: nothing after them is needed.
            self.steps = _needed(self.steps, last)

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        return self.traced.shape(node) or ()

    def _ancestors(self, node: fx.Node) -> set[fx.Node]:
        found, waiting = set(), [node]
        while waiting:
            node = waiting.pop()
            if node in self.drafts and node not in found:
                found.add(node)
                waiting += self.drafts[node].inputs
        return found

    def _kept_as_maps(self) -> set[fx.Node]:
        """Values without height and width that are maps [N, C, 1, 1] with us.

        A mean is one. So are flat values that become maps again, as in a squeeze-excite of linear
        layers, which become convolutions.
        """
        kept = {
            node
            for node, draft in self.drafts.items()
            if len(self._shape(node)) == (2 if draft.op == "global_avg_pool" else 3)
        }
        for node, draft in self.drafts.items():
            source = draft.inputs[0]
            if draft.op != "same" or len(self._shape(node)) != 4 or len(self._shape(source)) == 4:
                continue
            waiting = [source]
            while waiting:
                source = waiting.pop()
                if source in kept or len(self._shape(source)) == 4:
                    continue
                kept.add(source)
                waiting += self.drafts[source].inputs
        return kept

    def _append(self, node: fx.Node, draft: Draft, inputs: tuple[str, ...], *, as_map: bool) -> str:
        source = draft.inputs[0]
        if draft.op == "same":
            if len(self._shape(node)) < len(self._shape(source)) and len(self._shape(node)) == 2:
                draft = replace(draft, op="flatten")
            else:
                return inputs[0]
        if draft.op == "flatten" and (as_map or len(self._shape(source)) == 2):
            return inputs[0]
        options = dict(draft.options)
        op = draft.op
        if op == "linear" and as_map:
            one = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
            op, options = "conv", {**options, **one, "groups": 1}
        name = self._name(node, op)
        self.steps.append(_step(name, op, inputs, options))
        if draft.module is not None:
            self.modules[name] = draft.module
        return name

    def _flattened(self, name: str, flat: dict[str, str]) -> str:
        if name not in flat:
            flat[name] = self._free(f"{name}_flat")
            self.steps.append(_step(flat[name], "flatten", (name,), {}))
        return flat[name]

    def _name(self, node: fx.Node, op: str) -> str:
        path = module_path(node)
        if path.split(".")[0] in _TAKEN:
            path = f"own_{path}"
        return self._free(path if node.op == "call_module" else f"{path}.{op}".lstrip("."))

    def _free(self, wanted: str) -> str:
        taken = {step.name for step in self.steps}

        def clashes(name: str) -> bool:
            # A module with parts is no operator.
            return name in taken | _TAKEN or any(
                t.startswith(f"{name}.") or name.startswith(f"{t}.") for t in taken
            )

        name, number = wanted, 1
        while clashes(name):
            name, number = f"{wanted}_{number}", number + 1
        return name


def _step(name: str, op: str, inputs: tuple[str, ...], options: Mapping[str, Any]) -> Step:
    return Step.model_validate({"name": name, "op": op, "inputs": inputs, "options": dict(options)})


def _needed(steps: list[Step], last: str) -> list[Step]:
    """The steps that one depends on, and it as the last."""
    by_name = {step.name: step for step in steps}
    wanted, waiting = set(), [last]
    while waiting:
        name = waiting.pop()
        if name in by_name and name not in wanted:
            wanted.add(name)
            waiting += by_name[name].inputs
    return [step for step in steps if step.name in wanted]


def _tidied(
    steps: list[Step], modules: Mapping[str, nn.Module]
) -> tuple[list[Step], dict[str, nn.Module]]:
    """BatchNorm behind convolutions only, and ReLU inside the sums that it alone follows."""
    followed = {group[1] for group in fusion_groups(steps) if len(group) > 1}
    result: list[Step] = []
    for step in steps:
        if step.op == "batch_norm" and step.name not in followed:
            channels = int(step.options["features"])  # type: ignore[arg-type]
            name = f"{step.name}_scale"
            pairs = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
            options = {"inputs": channels, "outputs": channels, "groups": channels, **pairs}
            options |= {"bias": False, "identity": True}
            result.append(_step(name, "conv", step.inputs, options))
            step = step.model_copy(update={"inputs": (name,)})
        result.append(step)
    renamed: dict[str, str] = {}
    final: list[Step] = []
    for step in result:
        step = step.model_copy(update={"inputs": tuple(renamed.get(n, n) for n in step.inputs)})
        readers = [s for s in result if step.inputs and step.inputs[0] in s.inputs]
        before = next((s for s in final if step.inputs[:1] == (s.name,)), None)
        if step.op == "relu" and before is not None and before.op == "add" and len(readers) == 1:
            final[final.index(before)] = before.model_copy(update={"options": {"relu": True}})
            renamed[step.name] = before.name
            continue
        final.append(step)
    return final, dict(modules)


def _take(ours: nn.Module, theirs: nn.Module | None) -> None:
    """Copy a module's weights and statistics."""
    assert theirs is not None
    given, state = theirs.state_dict(), ours.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            if name in given:
                value.copy_(given[name].reshape(value.shape))


def _require_equal(network: Classifier, source: Source, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, size, size), generator=generator).float()
    images = (pixels - 128) / 64
    with torch.no_grad():
        # Through our own first operator, which normalizes as the network is used to.
        theirs = source.network(network.input(images))
        ours = network(images)
    difference = float((ours - theirs).abs().max())
    if not difference <= _TOLERANCE * max(float(theirs.abs().max()), 1e-3):
        raise RecipeError(
            f"the rewritten network answers differently, by up to {difference:.2g}",
            where=source.name,
            expected="the same answers",
            fix="write operations in place (inplace=True, +=, relu_) on values that are read "
            "again as plain ones",
        )
