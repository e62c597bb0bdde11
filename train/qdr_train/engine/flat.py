"""Tensors as flat runs of bytes: buckets that are sent as one message, and a digest of them all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

BUCKET_BYTES = 25 * 2**20


def buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type, in lists of a limited size; the same ones in every step."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        bytes_ = gradient.numel() * gradient.element_size()
        if bucket and (size + bytes_ > BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += bytes_
    if bucket:
        yield bucket


def digest(modules: Iterable[nn.Module]) -> str:
    """SHA-256 of all weights and buffers."""
    found = hashlib.sha256()
    for module in modules:
        for name, value in module.state_dict().items():
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
