"""What the measuring process calls a wrong output: another bit, or more than a batch's rounding."""

from __future__ import annotations

import numpy as np
import pytest

from qdr_bench.worker import Worker

IMAGES = [np.full((1, 3, 4, 4), value, np.uint8) for value in (1, 2)]


@pytest.fixture
def worker() -> Worker:
    made = Worker()
    made._expected = {
        index: np.array([[10.0 * index + 1, -2.0]], np.float32).tobytes() for index in (0, 1)
    }
    return made


def wrong(worker: Worker, indices: tuple[int, ...], logits: list[list[float]]) -> int:
    images = np.concatenate([IMAGES[index] for index in indices])
    return worker._wrong([(indices, images)], [(0, np.array(logits, np.float32))])


def test_one_image_must_have_the_same_bits(worker: Worker) -> None:
    assert wrong(worker, (0,), [[1.0, -2.0]]) == 0
    assert wrong(worker, (0,), [[np.nextafter(np.float32(1), np.float32(2)), -2.0]]) == 1
    assert wrong(worker, (0,), [[np.nan, -2.0]]) == 1


def test_a_batch_may_round_in_another_order_but_not_answer_another_image(worker: Worker) -> None:
    assert wrong(worker, (0, 1), [[1.0, -2.0], [11.0, -2.0]]) == 0
    assert wrong(worker, (0, 1), [[1.0005, -2.0], [11.0005, -2.0]]) == 0
    assert wrong(worker, (0, 1), [[11.0, -2.0], [1.0, -2.0]]) == 1
    assert wrong(worker, (0, 1), [[1.0, -2.0], [11.01, -2.0]]) == 1
    assert wrong(worker, (0, 1), [[1.0, -2.0], [np.nan, -2.0]]) == 1
