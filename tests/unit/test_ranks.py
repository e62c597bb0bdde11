"""Several processes train as one: real gloo processes against one process on the whole batch."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qdr_edge.errors import BackendError, RecipeError
from qdr_train.data.augment import Augmentation, augment
from qdr_train.data.sampling import steps_of
from qdr_train.data.share import Share
from qdr_train.distill.pairing import LabelPairing
from qdr_train.engine import flat
from qdr_train.engine.program import require_shares
from qdr_train.engine.ranks import ALONE, Ranks
from qdr_train.recipe import TeacherStage
from tests.ranks import as_rank, found_by, leave, process

PATIENCE_S = 600.0  # a busy machine, not a measure


def in_processes(act: Callable[[int, Path], None], size: int, folder: Path) -> None:
    """Have several processes act, with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=as_rank, args=(act, rank, size, port, folder))
        for rank in range(size)
    ]
    for one in processes:
        one.start()
    for one in processes:
        one.join(PATIENCE_S)
        assert one.exitcode == 0


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.full)])
def together(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, Any]], Path]:
    """What each of several real processes found."""
    size, folder = request.param, tmp_path_factory.mktemp("ranks")
    in_processes(process, size, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)], folder


@pytest.fixture(scope="module")
def single() -> dict[str, Any]:
    return found_by(ALONE)


Together = tuple[list[dict[str, Any]], Path]


def test_losses_and_gradients_equal_those_of_one_process(
    together: Together, single: Mapping[str, Any]
) -> None:
    expected = single["step"]
    assert expected["cpm"] > 1e-3
    assert expected["csa"] > 1e-3
    for found in together[0]:
        assert set(found["step"]) == set(expected)
        for name, value in expected.items():
            assert value.abs().max() > 1e-7, name
            torch.testing.assert_close(found["step"][name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("how", ["frozen", "along", "limited"])
def test_an_epoch_ends_with_the_weights_of_one_process(
    together: Together, single: Mapping[str, Any], how: str
) -> None:
    """Order, views, partners, prototypes, parts, averages, and the teacher that learns along."""
    expected = single["epochs"][how]
    assert expected["cpm"] > 1e-3
    assert ("teacher" in expected) == (how == "along")
    if how == "limited":
        assert expected["cpm"] < 0.9 * single["epochs"]["frozen"]["cpm"]
    for found in together[0]:
        assert set(found["epochs"][how]) == set(expected)
        for name, value in expected.items():
            torch.testing.assert_close(found["epochs"][how][name], value, rtol=1e-4, atol=1e-6)


def test_prototypes_of_one_process_alone_would_not_be_enough(
    together: Together, single: Mapping[str, Any]
) -> None:
    """The test above can fail: without the gathering nothing is close."""
    for found in together[0]:
        assert not torch.allclose(found["local"]["cpm"], single["step"]["cpm"], rtol=1e-2)
        name = "net.body.0.weight"
        assert not torch.allclose(found["local"][name], single["step"][name], rtol=1e-2)


def test_gradients_and_buffers_are_the_same_bits_everywhere(together: Together) -> None:
    first, *others = together[0]
    for other in others:
        for part in ("step", "observed"):
            assert set(other[part]) == set(first[part])
            for name, value in first[part].items():
                assert torch.equal(other[part][name], value), f"{part} {name}"


def test_the_widest_range_counts_as_on_the_whole_batch(
    together: Together, single: Mapping[str, Any]
) -> None:
    """Behind the first layer each process has rounded to the range of its own part."""
    expected = single["ranges"]
    edges = [name for name in expected if name.endswith(("min_val", "max_val"))]
    first = next(name for name in edges if "weight_fake_quant" not in name).rpartition(".")[0]
    for found in together[0]:
        buffers = found["ranges"]
        assert set(buffers) == set(expected)
        for name in edges:
            value = expected[name]
            if "weight_fake_quant" in name:
                assert torch.equal(buffers[name], value)
            elif name.startswith(first):
                torch.testing.assert_close(buffers[name], value, rtol=1e-5, atol=1e-6)
            else:
                torch.testing.assert_close(buffers[name], value, rtol=0.1, atol=0.05)
        scales = [name for name in expected if name.endswith(".scale")]
        assert len(scales) > 10
        assert all(torch.equal(buffers[name], expected[name]) for name in scales)


def test_statistics_that_stand_still_do_so_to_the_last_bit(together: Together) -> None:
    for found in together[0]:
        before, after = found["frozen"]
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_rank_0_speaks_and_all_hear(together: Together, single: Mapping[str, Any]) -> None:
    for rank, found in enumerate(together[0]):
        assert found["told"]["from"] == 0
        assert found["told"]["tensor"].tolist() == [0, 1, 2]
        assert "come apart" in found["apart"]
        assert not found["aligned"].any()
        assert found["error"] == ("eyes.csv: nothing there" if rank == 0 else 4)
    assert single["apart"] is None
    assert single["error"] == "eyes.csv: nothing there"


def test_a_process_that_vanishes_is_named_to_the_others(together: Together) -> None:
    found, folder = together
    for rank in range(len(found)):
        if rank != 1:
            text = (folder / f"{rank}.txt").read_text()
            assert f"rank {rank}: another process of this run has ended" in text


def test_nothing_keeps_the_process_group_and_its_threads(tmp_path: Path) -> None:
    # A thread that is left would abort a process that has done its work, now and then.
    in_processes(leave, 2, tmp_path)
    for rank in (0, 1):
        assert (tmp_path / f"{rank}.txt").read_text() == "gone"


def test_views_and_partners_of_an_image_do_not_depend_on_the_number_of_processes() -> None:
    pixels = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    views = Augmentation(rotation=20, flip=0.5, zoom=0.1, shift=0.1, brightness=(0.5, 1.5))
    targets = torch.eye(2)[torch.arange(8) % 2]
    pairing = LabelPairing(targets, targets.repeat(3, 1))

    def drawn(share: Share) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(9)
        rows = torch.arange(8)[share.part(8)]
        view = augment(pixels[rows], views, generator, share)
        partners = pairing.draw(rows, 2, generator, share)
        return view, partners, torch.rand(1, generator=generator)

    view, partners, after = drawn(Share())
    parts = [drawn(Share(4, rank)) for rank in range(4)]
    assert torch.equal(torch.cat([part[0] for part in parts]), view)
    assert torch.equal(torch.cat([part[1] for part in parts]), partners)
    assert all(torch.equal(part[2], after) for part in parts)
    assert len({tuple(part[1].tolist()) for part in parts}) > 1


def test_parts_cover_everything_once() -> None:
    for count in (0, 1, 7, 8):
        rows = [row for rank in range(3) for row in range(count)[Share(3, rank).part(count)]]
        assert rows == list(range(count))


def test_buckets_have_a_limit_and_one_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "BUCKET_BYTES", 32)
    tensors = [torch.zeros(n) for n in (4, 4, 1, 100)] + [torch.zeros(2, dtype=torch.float64)]
    buckets = list(flat.buckets(tensors))
    assert [[t.numel() for t in bucket] for bucket in buckets] == [[4, 4], [1], [100], [2]]


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with Ranks.from_environment() as ranks:
        assert ranks == ALONE
        assert ranks.is_writer
        assert not torch.distributed.is_initialized()
        values = torch.ones(2, requires_grad=True)
        assert ranks.add(values) is values


def test_half_of_torchruns_variables_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(BackendError, match="start with torchrun"), Ranks.from_environment():
        pass


def test_cores_are_divided_and_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    two = Ranks(size=2, rank=1, local_rank=1, local_size=2)
    assert (two.threads(), two.threads(3), ALONE.threads()) == (4, 3, 8)
    assert replace(two, local_size=16).threads() == 1
    assert two.device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BackendError, match="2 processes on a machine with 1 GPUs"):
        two.device("cuda")
    assert replace(two, local_rank=0).device("cuda") == torch.device("cuda", 0)


def test_a_batch_that_does_not_divide_names_the_nearest() -> None:
    def stage(batch: int, accumulate: int) -> TeacherStage:
        values = {"role": "teacher", "modality": "oct", "model": {"name": "qdr-small"}}
        return TeacherStage.model_validate({**values, "batch": batch, "accumulate": accumulate})

    require_shares(stage(10, 5), "teacher-oct", 3, 1)
    require_shares(stage(12, 2), "teacher-oct", 6, 3)
    with pytest.raises(RecipeError, match="5 training images for 3 processes, 2 parts a step"):
        require_shares(stage(12, 2), "teacher-oct", 5, 3)
    with pytest.raises(RecipeError, match="a multiple of 4, such as 8 or 12") as caught:
        require_shares(stage(10, 1), "teacher-oct", 99, 4)
    assert "--set stages.teacher-oct.batch=8" in str(caught.value)
    with pytest.raises(RecipeError, match=r"in 2 parts; expected a multiple of 8, such as 8;"):
        require_shares(stage(6, 2), "teacher-oct", 99, 4)


def test_few_images_are_still_shared_evenly() -> None:
    steps = steps_of(torch.arange(11), batch=16, accumulate=2, processes=2)
    assert [[len(part) for part in step] for step in steps] == [[4, 4]]
    assert steps_of(torch.arange(3), batch=16, accumulate=2, processes=2) == []
