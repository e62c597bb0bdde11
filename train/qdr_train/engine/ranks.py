"""Processes that train one model together, as torchrun starts them: one writes, all stay equal.

Each process works on its share of every batch. Gradients are averaged in buckets of a fixed
layout, not by DistributedDataParallel, because

- DistributedDataParallel lays its buckets out anew after the first step of a process. With three
  or more processes that changes the order of additions, and a resumed run would not end with the
  bits of one that was never stopped;
- it copies rank 0's buffers to the others, so that the ranges which the other processes observed
  for quantization would be lost; here the widest range counts (see `agree`);
- torch.ao replaces modules and resizes buffers in mid-stage, and a teacher that trains along is a
  second model in the same backward pass.

The price is that averaging starts after the backward pass and not during it.

What a process computes on its own, as everywhere in data-parallel training: BatchNorm's statistics
of a batch, dropout masks, and the range that a fake quantizer sees before `agree` widens it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from qdr_edge.errors import BackendError, QdrError
from qdr_train.data.share import Share
from qdr_train.engine.flat import buckets, digest

T = TypeVar("T")

# A process that ends takes the others along at once: torchrun sees to it. This bounds waiting for
# work that one does for all, such as decoding a large data set.
_PATIENCE = timedelta(days=1)
# What the others wait with an error that rank 0 tells: torchrun ends all as soon as one has ended.
_AFTER_RANK_0_S = 1.0


@dataclass(frozen=True)
class Ranks(Share):
    """The processes of a run; without torchrun a single one, and every method costs nothing.

    Args:
        local_rank: Which process of this machine this is.
        local_size: Processes on this machine.
    """

    local_rank: int = 0
    local_size: int = 1

    @classmethod
    @contextmanager
    def from_environment(cls, device: str = "cpu") -> Iterator[Ranks]:
        """Join the processes that torchrun has started; leave them at the end.

        Args:
            device: "cpu" talks through gloo, "cuda" through NCCL.

        Raises:
            BackendError: torchrun's variables are incomplete, there are fewer GPUs than processes,
                or the processes cannot reach each other.
        """
        ranks = cls._told(os.environ)
        if ranks.size == 1:
            yield ranks
            return
        import torch.distributed as dist

        # Its functions take the group that exists at their import as a default argument. Optimizers
        # import it: unless that is done by now, the group outlives `destroy_process_group`, and its
        # threads abort the process where they touch Python objects while it ends.
        import torch.distributed.nn.functional

        on_gpu = torch.device(device).type == "cuda"
        if on_gpu:
            torch.cuda.set_device(ranks.device(device))
        try:
            # Control goes through the CPU in any case; only gradients and sums lie on a GPU.
            backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
            dist.init_process_group(backend, timeout=_PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise BackendError(
                f"the {ranks.size} processes do not find each other: {error}",
                where=f"rank {ranks.rank}",
                expected="torchrun's rendezvous",
                fix="docs/distributed.md names what must be reachable",
            ) from error
        yield ranks
        # Not on an error: a process whose peers are gone would wait here for them.
        ranks.wait()
        dist.destroy_process_group()

    @classmethod
    def _told(cls, environment: Mapping[str, str]) -> Ranks:
        names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if not {"WORLD_SIZE", "RANK"} <= set(environment):
            return cls()
        try:
            size, rank, local_rank, local_size = (int(environment[name]) for name in names)
        except (KeyError, ValueError) as error:
            raise BackendError(
                f"a variable that torchrun sets is missing or no number: {error}",
                where="environment",
                expected=", ".join(names),
                fix="start with torchrun, or unset RANK and WORLD_SIZE",
            ) from error
        return cls(size, rank, local_rank, local_size)

    @property
    def is_writer(self) -> bool:
        """Whether this is the process that writes files and speaks to people."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """Where this process computes.

        Args:
            name: "cpu", or "cuda": one GPU for each process of this machine.

        Raises:
            BackendError: This machine has fewer GPUs than processes.
        """
        device = torch.device(name)
        if self.size == 1 or device.type != "cuda":
            return device
        count = torch.cuda.device_count()
        if device.index is not None or self.local_rank >= count:
            raise BackendError(
                f"{name} for {self.local_size} processes on a machine with {count} GPUs",
                where=f"rank {self.rank}",
                expected="--device cuda and at most one process for each GPU",
                fix=f"torchrun --nproc-per-node {count}" if count else "--device cpu",
            )
        return torch.device("cuda", self.local_rank)

    def threads(self, asked: int = 0) -> int:
        """CPU threads for this process.

        Args:
            asked: How many; 0 divides this machine's cores among its processes.
        """
        return asked or max((os.cpu_count() or 1) // self.local_size, 1)

    def from_writer(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, in every process: files are read and written by one.

        Args:
            make: Called on rank 0 only. What it returns is pickled and sent.

        Raises:
            QdrError: What `make` raised, on rank 0.
            SystemExit: With that error's exit code, elsewhere: rank 0 tells it to the user.
        """
        if self.size == 1:
            return make()
        if not self.is_writer:
            value, exit_code = self._send(None)
            if exit_code is not None:
                time.sleep(_AFTER_RANK_0_S)
                raise SystemExit(exit_code)
            return cast(T, value)
        try:
            value = make()
        except QdrError as error:
            self._send((None, error.exit_code))
            raise
        self._send((value, None))
        return value

    def on_writer(self, act: Callable[[], object]) -> None:
        """Do something on rank 0; the others wait until it is done.

        Raises:
            QdrError, SystemExit: As `from_writer`.
        """

        def done() -> None:
            act()

        self.from_writer(done)

    def wait(self) -> None:
        """Go on once every process has come here."""
        if self.size > 1:
            self._gather("")

    def add(self, values: Tensor) -> Tensor:
        """The sum over processes, with a gradient.

        What is computed from the sum must be a loss that all processes compute alike and whose
        gradients `average` then averages: d(loss)/d(values) is that of one process holding the
        whole batch. Each process is given `size` times it, since the average divides by that.
        """
        if self.size == 1:
            return values
        return cast(Tensor, _Sum.apply(values, self))  # type: ignore[no-untyped-call]

    def mean(self, values: Tensor) -> Tensor:
        """The mean over processes, without gradient."""
        if self.size == 1:
            return values
        found = values.detach().clone()
        self._reduce(found)
        return found / self.size

    def average(self, parameters: Iterable[Tensor]) -> None:
        """Replace gradients by their means over processes.

        Args:
            parameters: The same in every process, in the same order; those without a gradient
                have none anywhere.
        """
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        for bucket in buckets(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            self._reduce(flat)
            flat /= self.size
            for gradient, part in zip(
                bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True
            ):
                gradient.copy_(part.view(gradient.shape))

    def agree(self, module: nn.Module) -> None:
        """Make the buffers that follow the data equal again, after each step.

        The widest observed range counts, and with it the largest scale: what one process would
        have observed on the whole batch, exactly. BatchNorm's running statistics are averaged.

        Args:
            module: Float, or prepared for QAT.
        """
        if self.size == 1:
            return
        buffers: dict[str, list[Tensor]] = {"high": [], "low": [], "mean": []}
        for name, buffer in module.named_buffers():
            rule = _RULES.get(name.rpartition(".")[2])
            if rule is not None and buffer.numel():
                buffers[rule].append(buffer)
        with torch.no_grad():
            # The smallest minimum is the largest of the negative minima: one message for both.
            edges = [*buffers["high"], *(-low for low in buffers["low"])]
            agreed = self._through(edges, highest=True)
            high = len(buffers["high"])
            agreed = [*agreed[:high], *(-low for low in agreed[high:])]
            for buffer, value in zip([*buffers["high"], *buffers["low"]], agreed, strict=True):
                buffer.copy_(value)
            # In double precision the mean of equal numbers is that number, so that statistics
            # that stand still do so to the last bit.
            means = self._through([mean.double() for mean in buffers["mean"]], highest=False)
            for buffer, value in zip(buffers["mean"], means, strict=True):
                buffer.copy_(value / self.size)

    def align(self, *modules: nn.Module) -> None:
        """Give every process the weights and buffers of rank 0."""
        if self.size == 1:
            return
        import torch.distributed as dist

        with _talking(self.rank), torch.no_grad():
            for module in modules:
                for value in (*module.parameters(), *module.buffers()):
                    if value.numel():
                        whole = value.detach().contiguous()
                        dist.broadcast(whole, src=0)
                        value.detach().copy_(whole)

    def require_equal(self, *modules: nn.Module) -> None:
        """Check that all processes hold the same bits.

        Raises:
            QdrError: They do not.
        """
        if self.size == 1:
            return
        own = digest(modules)
        if len(set(self._gather(own))) > 1:
            raise QdrError(
                "the weights of the processes have come apart",
                where=f"rank {self.rank}",
                expected="the same bits after each epoch",
                fix="use machines with the same hardware and versions; resume from the last epoch",
            )

    def join(self, rows: Tensor, count: int) -> Tensor:
        """All rows of which every process has computed its part.

        Args:
            rows: [n, ...], those of `part(count)`.
            count: Of all rows.

        Returns:
            [count, ...], the same in every process.
        """
        if self.size == 1:
            return rows
        whole = rows.new_zeros((count, *rows.shape[1:]))
        whole[self.part(count)] = rows
        self._reduce(whole)
        return whole

    def _send(self, message: Any) -> Any:
        """Rank 0's message, in every process."""
        import torch.distributed as dist

        box = [message]
        with _talking(self.rank):
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def _gather(self, message: str) -> list[str]:
        import torch.distributed as dist

        box: list[Any] = [None] * self.size
        with _talking(self.rank):
            dist.all_gather_object(box, message)
        return box

    def _through(self, tensors: list[Tensor], *, highest: bool) -> list[Tensor]:
        """Tensors of any shapes, reduced over processes in one message."""
        if not tensors:
            return []
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self._reduce(flat, highest=highest)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]

    def _reduce(self, values: Tensor, *, highest: bool = False) -> None:
        import torch.distributed as dist

        with _talking(self.rank):
            dist.all_reduce(values, op=dist.ReduceOp.MAX if highest else dist.ReduceOp.SUM)


ALONE = Ranks()

# Buffers of BatchNorm and of torch.ao's observers and fake quantizers that follow the data.
_RULES = {
    "running_mean": "mean",
    "running_var": "mean",
    "min_val": "low",
    "max_val": "high",
    # A scale grows with the range, so the largest is that of the widest range.
    "scale": "high",
}


class _Sum(torch.autograd.Function):
    """A sum over processes. All hold the same gradient of it, so going back needs no message."""

    @staticmethod
    def forward(context: Any, values: Tensor, ranks: Ranks) -> Tensor:
        context.size = ranks.size
        total = values.detach().contiguous().clone()
        ranks._reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * context.size, None


@contextmanager
def _talking(rank: int) -> Iterator[None]:
    """Explain a broken conversation: it is another process that has failed."""
    try:
        yield
    except RuntimeError as error:
        raise BackendError(
            "another process of this run has ended",
            where=f"rank {rank}",
            expected="all of them until the end",
            fix="its own message says why; continue with --resume and as many processes",
        ) from error
