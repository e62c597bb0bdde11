"""The bookkeeping of a TensorRT session: order, threads, recording, and that everything is freed.

A GPU is simulated: device memory lies in the host's, a stream is a queue that only `synchronize`
works off, and a network adds the pixels of each channel. This shows nothing about TensorRT, whose
API is held against its own bindings in tests/bindings.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qdr_edge.errors import BackendError
from qdr_edge.runtime import DeviceSession
from qdr_edge.runtime.tensorrt import TensorRtSession

SIZE = 8


class Gpu:
    """Counts what is held; `fails_at` is the number of the call that fails."""

    def __init__(self, fails_at: int = -1) -> None:
        self.fails_at = fails_at
        self.calls = 0
        self.held: dict[int, Any] = {}
        self.queue: list[Callable[[], None]] = []
        self.recording: list[Callable[[], None]] | None = None

    def _hold(self, thing: Any, address: int) -> int:
        self._step()
        self.held[address] = thing
        return address

    def _step(self) -> None:
        self.calls += 1
        if self.calls == self.fails_at:
            raise BackendError("the simulated GPU fails here")

    def add(self, work: Callable[[], None]) -> None:
        (self.queue if self.recording is None else self.recording).append(work)

    def allocate(self, size: int) -> int:
        buffer = ctypes.create_string_buffer(size)
        return self._hold(buffer, ctypes.addressof(buffer))

    def free(self, address: int) -> None:
        del self.held[address]

    def allocate_host(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        array = np.empty(shape, dtype)
        self._hold(array, array.ctypes.data)
        return array

    def free_host(self, array: NDArray[Any]) -> None:
        del self.held[array.ctypes.data]

    def create_stream(self) -> int:
        return self._hold("stream", 1)

    def destroy_stream(self, stream: int) -> None:
        del self.held[stream]

    def copy_to_device(self, address: int, array: NDArray[Any], stream: int) -> None:
        self._step()
        self.add(lambda: void(ctypes.memmove(address, array.ctypes.data, array.nbytes)))

    def copy_to_host(self, array: NDArray[Any], address: int, stream: int) -> None:
        self._step()
        self.add(lambda: void(ctypes.memmove(array.ctypes.data, address, array.nbytes)))

    def synchronize(self, stream: int) -> None:
        self._step()
        while self.queue:
            self.queue.pop(0)()

    def begin_capture(self, stream: int) -> None:
        self._step()
        self.recording = []

    def end_capture(self, stream: int) -> int:
        recorded, self.recording = self.recording, None
        return self._hold(recorded, 2)

    def launch(self, graph: int, stream: int) -> None:
        self.queue += self.held[graph]

    def destroy_graph(self, graph: int) -> None:
        del self.held[graph]


def void(_: object) -> None:
    """Drop a value."""


class Context:
    def __init__(self, gpu: Gpu, dtype: type) -> None:
        self.gpu, self.dtype = gpu, dtype
        self.at: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.at[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        def work() -> None:
            item = np.ctypeslib.as_ctypes_type(self.dtype)
            pixels = (item * (3 * SIZE * SIZE)).from_address(self.at["pixels"])
            sums = np.asarray(pixels).reshape(3, -1).sum(axis=1, dtype=np.float32)
            (ctypes.c_float * 3).from_address(self.at["logits"])[:] = sums.tolist()

        self.gpu.add(work)
        return True


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Gpu]:
    """Put a simulated `tensorrt` in place; returns its GPU."""

    def make(fails_at: int = -1, *, dtype: type = np.uint8, **changes: Any) -> Gpu:
        gpu = Gpu(fails_at)
        shapes = {"pixels": (1, 3, SIZE, SIZE), "logits": (1, 3)} | changes.pop("shapes", {})
        types = {"pixels": np.dtype(dtype).name, "logits": "float32"} | changes.pop("types", {})
        engine = SimpleNamespace(
            num_io_tensors=len(shapes),
            get_tensor_name=lambda index: list(shapes)[index],
            get_tensor_mode=lambda name: "in" if name.startswith("pixels") else "out",
            get_tensor_shape=shapes.__getitem__,
            get_tensor_dtype=types.__getitem__,
            create_execution_context=lambda: Context(gpu, dtype),
        )
        for name, value in changes.items():
            setattr(engine, name, value)
        module = ModuleType("tensorrt")
        for name, value in {
            "ILogger": object,
            "DataType": SimpleNamespace(UINT8="uint8", FLOAT="float32"),
            "TensorIOMode": SimpleNamespace(INPUT="in"),
            "Runtime": lambda logger: SimpleNamespace(
                deserialize_cuda_engine=lambda content: engine if content == b"engine" else None
            ),
        }.items():
            setattr(module, name, value)
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        return gpu

    return make


def _images(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, 3, SIZE, SIZE)).astype(np.uint8)


def _expected(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.reshape(len(images), 3, -1).sum(axis=2, dtype=np.float32)


def _open(gpu: Gpu, *, recorded: bool = False) -> TensorRtSession:
    return TensorRtSession(b"engine", gpu, "10.3.0", recorded=recorded)  # type: ignore[arg-type]


@pytest.mark.parametrize("recorded", [False, True], ids=["queued", "recorded"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_every_image_gets_its_own_logits(
    simulate: Callable[..., Gpu], dtype: type, recorded: bool
) -> None:
    session = _open(simulate(dtype=dtype), recorded=recorded)
    for count in (1, 5):
        np.testing.assert_array_equal(session.infer(_images(count)), _expected(_images(count)))
    session.close()


@pytest.mark.parametrize("recorded", [False, True], ids=["queued", "recorded"])
def test_threads_do_not_mix_their_images(simulate: Callable[..., Gpu], recorded: bool) -> None:
    session = _open(simulate(), recorded=recorded)
    batches = [_images(count) for count in range(1, 25)]
    with ThreadPoolExecutor(8) as pool:
        for batch, logits in zip(batches, pool.map(session.infer, batches), strict=True):
            np.testing.assert_array_equal(logits, _expected(batch))
    session.close()


@pytest.mark.parametrize("recorded", [False, True], ids=["queued", "recorded"])
def test_its_steps_one_by_one_give_the_same_logits(
    simulate: Callable[..., Gpu], recorded: bool
) -> None:
    gpu = simulate()
    session = _open(gpu, recorded=recorded)
    assert isinstance(session, DeviceSession)
    queued: list[int] = []
    synchronize = gpu.synchronize

    def watch(stream: int) -> None:
        queued.append(len(gpu.queue))
        synchronize(stream)

    gpu.synchronize = watch  # type: ignore[method-assign]
    logits, times = session.infer_stages(_images(1))
    np.testing.assert_array_equal(logits, _expected(_images(1)))
    assert list(times) == ["h2d", "infer", "d2h"]
    assert min(times.values()) > 0
    assert queued == [1, 1, 1], "each step is waited for before the next"
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.infer_stages(_images(1))


@pytest.mark.parametrize("recorded", [False, True], ids=["queued", "recorded"])
def test_close_frees_all_and_twice_is_once(simulate: Callable[..., Gpu], recorded: bool) -> None:
    gpu = simulate()
    session = _open(gpu, recorded=recorded)
    assert len(gpu.held) == 5 + recorded
    session.close()
    session.close()
    assert gpu.held == {}
    with pytest.raises(BackendError, match="closed"):
        session.infer(_images(1))


def test_a_failure_at_any_call_of_opening_frees_what_was_held(
    simulate: Callable[..., Gpu],
) -> None:
    whole = simulate()
    _open(whole, recorded=True).close()
    assert whole.calls > 10
    for number in range(1, whole.calls + 1):
        gpu = simulate(number)
        with pytest.raises(BackendError, match="simulated GPU fails"):
            _open(gpu, recorded=True)
        assert gpu.held == {}, number


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shapes": {"pixels": (-1, 3, SIZE, SIZE)}}, "not static with batch 1"),
        ({"shapes": {"pixels2": (1,)}, "types": {"pixels2": "uint8"}}, "2 inputs and 1 outputs"),
        ({"types": {"pixels": "int8"}}, "neither uint8 nor float32"),
        ({"types": {"logits": "float16"}}, "output not float32"),
        ({"create_execution_context": lambda: None}, "make room for an inference"),
    ],
    ids=["dynamic", "inputs", "input type", "output type", "memory"],
)
def test_engines_that_are_no_classifier_are_refused(
    simulate: Callable[..., Gpu], changes: dict[str, Any], message: str
) -> None:
    gpu = simulate(**changes)
    with pytest.raises(BackendError, match=message):
        _open(gpu)
    assert gpu.held == {}


def test_an_engine_that_cannot_be_loaded(simulate: Callable[..., Gpu]) -> None:
    gpu = simulate()
    with pytest.raises(BackendError, match="cannot load the engine"):
        TensorRtSession(b"of another version", gpu, "10.3.0")  # type: ignore[arg-type]


def test_images_of_another_form_are_refused(simulate: Callable[..., Gpu]) -> None:
    session = _open(simulate())
    with pytest.raises(BackendError, match="expected uint8"):
        session.infer(_images(1)[:, :, :4])
    session.close()
