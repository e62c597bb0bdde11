"""Augmentation: seeded, within range, and each change does what its name says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qdr_train.data.augment import Augmentation, augment

ALL = Augmentation(180, 0.5, 0.1, 0.05, (0.7, 1.3), (0.7, 1.3))
STILL = Augmentation()


def images(count: int = 6, side: int = 33) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def seeded(value: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def test_same_seed_same_views_and_another_seed_others() -> None:
    first, again, other = (augment(images(), ALL, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_views_are_bytes_as_a_camera_delivers() -> None:
    for pixels in (images(), images().float()):
        view = augment(pixels, ALL, seeded())
        assert view.dtype == torch.uint8
        assert view.shape == images().shape


def test_no_range_changes_nothing_and_global_generator_is_untouched() -> None:
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    assert torch.equal(augment(images(), STILL, seeded()), images())
    augment(images(), ALL, seeded())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_flip_mirrors_left_and_right() -> None:
    flipped = augment(images(), replace(STILL, flip=1.0), seeded())
    assert (flipped - images().float().flip(3)).abs().max() <= 1  # resampling may round


@pytest.mark.parametrize(("background", "corner"), [("black", 0.0), ("edge", 200.0)])
def test_outside_of_the_image(background: str, corner: float) -> None:
    white = torch.full((8, 3, 32, 32), 200, dtype=torch.uint8)
    ranges = replace(STILL, rotation=45.0, background=background)
    view = augment(white, ranges, seeded())
    assert view[:, :, 0, 0].min() == corner
    assert (view[:, :, 16, 16] == 200).all()


def test_rotation_turns_about_the_centre() -> None:
    dot = torch.zeros(64, 3, 33, 33, dtype=torch.uint8)
    dot[:, :, 16, 28:31] = 255
    view = augment(dot, replace(STILL, rotation=180.0), seeded()).float()
    rows, columns = torch.meshgrid(torch.arange(33.0), torch.arange(33.0), indexing="ij")
    mass = view[:, 0].sum((1, 2))
    y = (view[:, 0] * rows).sum((1, 2)) / mass - 16
    x = (view[:, 0] * columns).sum((1, 2)) / mass - 16
    assert torch.hypot(x, y).sub(13).abs().max() < 0.7
    assert x.min() < -8  # every direction occurs
    assert y.max() > 8


def test_brightness_and_contrast() -> None:
    bright = augment(images(), replace(STILL, brightness=(0.5, 0.5)), seeded()).float()
    assert bright.mean() == pytest.approx(images().float().mean().item() / 2, rel=0.01)
    flat = augment(images(), replace(STILL, contrast=(0.5, 0.5)), seeded()).float()
    assert flat.mean() == pytest.approx(images().float().mean().item(), rel=0.01)
    assert flat.std() == pytest.approx(images().float().std().item() / 2, rel=0.02)


@pytest.mark.parametrize("background", ["black", "edge"])
@pytest.mark.parametrize("side", [32, 45])
def test_bytes_on_the_cpu_and_floats_as_on_a_gpu_give_the_same_views(
    background: str, side: int
) -> None:
    # Smooth pictures: interpolation weights of 1/32 pixel may move a level where levels jump.
    coarse = images(12, 6).float()
    pixels = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    pixels = pixels.round().clamp(0, 255).to(torch.uint8)
    ranges = replace(ALL, background=background)
    on_bytes = augment(pixels, ranges, seeded(3)).float()
    on_floats = augment(pixels.float(), ranges, seeded(3)).float()
    difference = (on_bytes - on_floats).abs()
    assert difference.mean() < 0.6
    assert difference.quantile(0.99) <= 4


def test_the_pixels_given_are_left_alone() -> None:
    pixels = images()
    augment(pixels, ALL, seeded())
    augment(pixels, replace(STILL, brightness=(0.5, 0.5)), seeded())
    assert torch.equal(pixels, images())
