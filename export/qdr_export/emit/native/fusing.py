"""An addition joins the convolution before it: one pass over the memory instead of two."""

from __future__ import annotations

from collections import Counter

from qdr_export.emit.native.steps import Addition, Step, Steps


def fuse(plan: Steps) -> Steps:
    """The same plan with fewer steps; a tensor that only an addition reads is then never stored."""
    readers = Counter(name for step in plan.steps for name in step.inputs)
    made = {step.output: index for index, step in enumerate(plan.steps) if step.kind == "conv"}
    taken: dict[int, Step] = {}
    fused: dict[int, Step] = {}
    for index, step in enumerate(plan.steps):
        if step.kind != "add" or step.addition is None:
            continue
        # The later of two convolutions: by then the other operand is there.
        own = max(
            (n for n in step.inputs if n in made and readers[n] == 1),
            key=lambda name: made[name],
            default=None,
        )
        if own is None or step.inputs[0] == step.inputs[1]:
            continue
        addition, other = step.addition, step.inputs[1]
        if own == other:
            other = step.inputs[0]
            addition = Addition(
                addition.left_b, addition.left_a, addition.shift, addition.low, addition.high
            )
        conv = plan.steps[made[own]]
        taken[made[own]] = conv
        fused[index] = conv.with_(
            inputs=(*conv.inputs, other), addition=addition, output=step.output
        )
    steps = [fused.get(i, step) for i, step in enumerate(plan.steps) if i not in taken]
    gone = {step.output for step in taken.values()}
    tensors = {name: tensor for name, tensor in plan.tensors.items() if name not in gone}
    return Steps(plan.side, plan.classes, tensors, steps)
