"""The input benchmark: both sides make what they say, and their time is what is compared."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from input_pipeline import SIZE, Costs, claims, cold_batch, per_round, reference_batch
from qdr_edge.preprocess import PreprocessSpec, load_image
from qdr_train.data.augment import Augmentation
from qdr_train.data.images import network_input


def jpeg(seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    done, content = cv2.imencode(".jpg", cv2.GaussianBlur(noise, (0, 0), 9))
    assert done
    return content.tobytes()


@pytest.mark.parametrize("modality", ["fundus", "oct"])
def test_the_reference_filters_augments_and_scales_to_minus_one_to_one(modality: str) -> None:
    made = {}
    for filtered in (False, True):
        costs = Costs()
        made[filtered] = reference_batch(
            [jpeg(), jpeg(1)], modality, np.random.default_rng(1), costs, filtered=filtered
        )
        assert made[filtered].shape == (2, 3, SIZE, SIZE)
        assert made[filtered].min() >= -1
        assert made[filtered].max() <= 1
        assert ("filter in full size" in costs.steps) is not filtered
        assert len(costs.steps["augment in full size"]) == 2
    assert not torch.equal(made[False], made[True])


def test_our_side_is_the_contract_and_the_networks_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("input_pipeline.VIEWS", Augmentation())
    spec, costs = PreprocessSpec("fundus", SIZE), Costs()
    batch = cold_batch([jpeg()], spec, torch.Generator().manual_seed(0), costs)
    expected = torch.from_numpy(load_image(jpeg(), spec))[None]
    assert torch.equal(batch, network_input(expected))
    assert torch.equal(batch, (expected.float() - 128) / 64)
    assert per_round(costs).shape == (1,)


def test_a_ratio_below_its_target_does_not_hold() -> None:
    from rich.console import Console

    def spent(ms: int) -> Costs:
        return Costs({"one": [ms] * 5, "other": [ms] * 5})

    costs = {"reference": spent(30), "reference, filtered": spent(20)}
    found = claims("fundus", {**costs, "cold": spent(10), "cache": spent(1)}, Console(quiet=True))
    verdicts = {(claim["ours"], claim["against"]): claim for claim in found}
    assert verdicts["cold", "reference"]["value"] == 3.0
    assert not verdicts["cold", "reference"]["holds"]
    assert verdicts["cache", "reference"]["holds"]
