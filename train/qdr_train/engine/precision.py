"""Number formats of a step: float32, or mixed with 16 bits where a network multiplies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qdr_edge.errors import RecipeError
from qdr_train.distill.guide import plain_answer
from qdr_train.models import Classifier

_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def require_precision(name: str, device: torch.device, stage: str) -> None:
    """Check that a device can train in a precision.

    Raises:
        RecipeError: float16 without CUDA.
    """
    if name == "float16" and device.type != "cuda":
        raise RecipeError(
            f"precision float16 on {device.type}",
            where=f"stages.{stage}.precision",
            expected="float16 with --device cuda",
            fix="use bfloat16, which every device computes, or float32",
        )


class Precision:
    """How networks are asked and how their losses go backward.

    Weights, losses, gradients and optimizer stay in float32. float16 has so few exponents that
    gradients are scaled up for the way back; the scale adapts, and is part of the training state.

    Args:
        name: "float32", "bfloat16" or "float16".
        device: Where to compute.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self._type = _TYPES.get(name)
        self._device = device
        self._scaler = torch.amp.GradScaler(device.type) if name == "float16" else None

    def answer(self, network: Classifier, view: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits of a view on 0..255, float32."""
        if self._type is None:
            return plain_answer(network, view)
        with torch.autocast(self._device.type, self._type):
            features, logits = plain_answer(network, view)
        return features.float(), logits.float()

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""
        scaled = loss if self._scaler is None else self._scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Bring an optimizer's gradients to their true size; before clipping, once a step."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Step, unless a gradient overflowed in float16."""
        if self._scaler is None:
            optimizer.step()
        else:
            self._scaler.step(optimizer)

    def end_step(self) -> None:
        """Adapt the scale, once all optimizers have stepped."""
        if self._scaler is not None:
            self._scaler.update()

    def state(self) -> dict[str, Any]:
        """What resuming needs, as JSON values."""
        return dict(self._scaler.state_dict()) if self._scaler is not None else {}

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        if self._scaler is not None and state:
            self._scaler.load_state_dict(state)
