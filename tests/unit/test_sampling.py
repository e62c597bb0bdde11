"""The order of an epoch: repeatable, complete or balanced, and cut into steps and parts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qdr_train.data.sampling import epoch_order, steps_of


def drawn(targets: Tensor, sampler: str, seed: int = 0) -> Tensor:
    return epoch_order(targets, sampler, torch.Generator().manual_seed(seed))


def single_label(counts: tuple[int, ...] = (90, 8, 2)) -> Tensor:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return torch.nn.functional.one_hot(labels, len(counts)).float()


@pytest.mark.parametrize("sampler", ["shuffle", "balanced"])
def test_an_order_repeats_from_its_seed_only(sampler: str) -> None:
    targets = single_label()
    assert torch.equal(drawn(targets, sampler, 1), drawn(targets, sampler, 1))
    assert not torch.equal(drawn(targets, sampler, 1), drawn(targets, sampler, 2))
    assert len(drawn(targets, sampler)) == len(targets)


def test_shuffle_shows_every_image_once() -> None:
    assert drawn(single_label(), "shuffle").sort().values.tolist() == list(range(100))


def test_balanced_shows_labels_alike_in_every_stretch() -> None:
    targets = single_label()
    order = drawn(targets, "balanced")
    assert targets[order].sum(0).sort().values.tolist() == [33, 33, 34]
    for start in range(0, 90, 9):
        assert targets[order[start : start + 9]].sum(0).tolist() == [3, 3, 3]
    common = order[targets[order, 0] > 0]
    assert len(common.unique()) == len(common)  # none twice while others wait
    rare = order[targets[order, 2] > 0]
    assert rare.bincount()[98:].tolist() in ([16, 17], [17, 16], [17, 17])


def test_balanced_counts_all_labels_of_an_image() -> None:
    """Hard exudates stand beside retinopathy; shown with it, they need no draws of their own."""
    targets = torch.tensor([[1, 0, 0]] * 60 + [[0, 1, 0]] * 30 + [[0, 1, 1]] * 10).float()
    shown = targets[drawn(targets, "balanced")].sum(0)
    assert shown[2] == pytest.approx(shown[0], abs=2)
    assert shown[1] == shown[2]
    # By labels alone, without counting company, the second would be shown twice as often.
    assert float(shown.sum()) > 100


def test_labels_without_images_are_left_out() -> None:
    targets = torch.zeros(6, 3)
    targets[:, 1] = 1
    assert drawn(targets, "balanced").sort().values.tolist() == list(range(6))
    assert len(drawn(torch.zeros(4, 2), "balanced")) == 4


def test_steps_leave_the_incomplete_batch_out_and_cut_the_others() -> None:
    order = torch.arange(11)
    assert [[part.tolist() for part in step] for step in steps_of(order, 4, 2)] == [
        [[0, 1], [2, 3]],
        [[4, 5], [6, 7]],
    ]
    assert [len(part) for part in steps_of(order, 40, 4)[0]] == [3, 3, 3, 2]
    assert steps_of(order[:0], 4) == []
