"""Which images an epoch shows, in which order, and how they fall into steps.

This is the one place where an epoch's order is made: every process of a run that draws from the
same seed gets the same order, and takes its own share of each part.
"""

from __future__ import annotations

import torch
from torch import Tensor


def epoch_order(targets: Tensor, sampler: str, generator: torch.Generator) -> Tensor:
    """The rows of one epoch, int64 [N].

    Args:
        targets: 0/1 [N, K].
        sampler: "shuffle": every image once; "balanced": N draws in which each label that has
            images is shown as often as any other, as nearly as images with several labels allow.
        generator: Source of randomness; the same state gives the same order.
    """
    if sampler == "shuffle":
        return torch.randperm(len(targets), generator=generator)
    return _balanced(targets, generator)


def steps_of(
    order: Tensor, batch: int, accumulate: int = 1, processes: int = 1
) -> list[tuple[Tensor, ...]]:
    """An epoch's order cut into steps, each into the parts that it is worked through in.

    Args:
        order: int64 [N].
        batch: Images a step; all N where there are fewer. An incomplete last batch is left out.
        accumulate: Parts of a step, alike in size to within one image.
        processes: Each part divides evenly among so many.
    """
    batch = min(batch, len(order))
    if processes > 1:
        # A batch of a recipe divides; so does what is left of it where images are few.
        batch -= batch % (processes * accumulate)
    if not batch:
        return []
    whole = order[: len(order) // batch * batch].view(-1, batch)
    return [torch.tensor_split(rows, min(accumulate, batch)) for rows in whole]


def _balanced(targets: Tensor, generator: torch.Generator) -> Tensor:
    """Always an image of the label that was shown least so far.

    Images of a label come in random order, and none a second time before all others have come.
    Labels that an image carries besides count as shown, so a label that always stands beside a
    rare one is not drawn for its own sake on top. Every stretch of the order is balanced, not
    only the whole: batches see rare labels throughout.
    """
    carries = targets > 0
    labels = torch.randperm(targets.shape[1], generator=generator)
    members = [carries[:, label].nonzero().flatten() for label in labels.tolist()]
    present = [k for k, rows in enumerate(members) if len(rows)]
    if not present:
        return torch.randperm(len(targets), generator=generator)
    members = [members[k] for k in present]
    carried = carries[:, labels[present]].to(torch.long)
    shown = torch.zeros(len(members), dtype=torch.long)
    # A label's images come from the end of its own shuffled pile; an empty pile is filled anew.
    piles: list[list[int]] = [[] for _ in members]
    order = []
    for _ in range(len(targets)):
        label = int(shown.argmin())
        if not piles[label]:
            mixed = torch.randperm(len(members[label]), generator=generator)
            piles[label] = members[label][mixed].tolist()
        row = piles[label].pop()
        order.append(row)
        shown += carried[row]
    return torch.tensor(order, dtype=torch.long)
