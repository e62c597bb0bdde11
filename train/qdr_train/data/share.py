"""Which part of a batch this process works on, and its part of what is drawn for the whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """One of `size` equal parts of a batch.

    Every process draws for the whole batch from the same generator and keeps its own part: what
    an image is shown as, and beside which other, is then the same on one process and on many.

    Args:
        size: Processes that train together.
        rank: Which of them this is, from 0.
    """

    size: int = 1
    rank: int = 0

    def part(self, count: int) -> slice:
        """This process's rows of `count`; the last process has fewer where they do not divide."""
        each = -(-count // self.size)
        return slice(min(self.rank * each, count), min((self.rank + 1) * each, count))

    def rand(
        self, count: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Uniform numbers in 0..1 for this process's part of a batch.

        Args:
            count: Numbers for this part; every process asks for as many.
            generator: In the same state in every process, before and after.
            dtype: Of the numbers.
        """
        drawn = torch.rand(count * self.size, generator=generator, dtype=dtype)
        return drawn[self.rank * count : (self.rank + 1) * count]


WHOLE = Share()
