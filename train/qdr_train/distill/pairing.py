"""Which teacher image stands beside which student image: unpaired, but alike in labels."""

from __future__ import annotations

import torch
from torch import Tensor

from qdr_train.data.share import WHOLE, Share


class LabelPairing:
    """For each student image a random teacher image with the identical label set, else any.

    Args:
        student_targets: 0/1 [N, K].
        teacher_targets: 0/1 [M, K].
    """

    def __init__(self, student_targets: Tensor, teacher_targets: Tensor) -> None:
        teacher_keys = [bytes(row) for row in teacher_targets.to(torch.uint8).numpy()]
        order = sorted(range(len(teacher_keys)), key=lambda i: (teacher_keys[i], i))
        spans: dict[bytes, tuple[int, int]] = {}
        for position, index in enumerate(order):
            start, count = spans.get(teacher_keys[index], (position, 0))
            spans[teacher_keys[index]] = (start, count + 1)
        anything = (0, len(order))
        found = [spans.get(bytes(row), anything) for row in student_targets.to(torch.uint8).numpy()]
        self._order = torch.tensor(order, dtype=torch.long)
        self._start, self._count = torch.tensor(found, dtype=torch.long).view(-1, 2).unbind(1)

    def draw(
        self, rows: Tensor, each: int, generator: torch.Generator, share: Share = WHOLE
    ) -> Tensor:
        """Teacher rows for a batch.

        Args:
            rows: Student rows, int64 [B].
            each: Teacher images for each student image.
            generator: Source of randomness.
            share: Which part of the batch the rows are.

        Returns:
            int64 [B · each].
        """
        rows = rows.repeat_interleave(each)
        where = share.rand(len(rows), generator, torch.float64)
        within = (where * self._count[rows]).long()
        return self._order[self._start[rows] + within]
