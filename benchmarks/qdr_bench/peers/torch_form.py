"""The float twin in torch, in each form that a user would try, as a Session."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qdr_bench.peers.torch_net import load_twin
from qdr_edge.errors import BackendError
from qdr_edge.runtime.pixels import closed

FORMS = ("eager", "channels_last", "compile", "paper")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WARM_UPS = 3


class TorchForm:
    """A float twin in torch.

    Args:
        content: The float twin.
        threads: Threads of an inference; torch has one count for a process.
        options: `form`, one of FORMS; `device` "cpu" or "cuda"; `dtype` "fp32", "fp16" or "bf16";
            `graph` "1" to replay a CUDA graph; `calibration`, a .npy file, for the paper's recipe.

    Raises:
        BackendError: The form is unknown, or this machine or torch cannot do it.
    """

    backend = "torch"

    def __init__(self, content: bytes, threads: int, options: Mapping[str, str]) -> None:
        torch.set_num_threads(threads)
        self.threads: int = torch.get_num_threads()
        self.version = str(torch.__version__)
        form, device = options.get("form", "eager"), options.get("device", "cpu")
        if form not in FORMS:
            raise BackendError(f"form {form!r} of torch", expected=f"one of {', '.join(FORMS)}")
        if device == "cuda" and not torch.cuda.is_available():
            raise BackendError(
                "torch sees no CUDA device",
                expected="an NVIDIA GPU, its driver and a CUDA build of torch",
                fix="leave the CUDA rows out, or install such a torch",
            )
        self._device = torch.device(device)
        self._dtype = DTYPES[options.get("dtype", "fp32")]
        self._last = form == "channels_last" or device == "cuda"
        self._run = self._made(content, form, options)
        self._graph_of: dict[tuple[int, ...], Callable[[Tensor], Tensor]] = {}
        self._graphs = device == "cuda" and options.get("graph") == "1"
        self._lock = threading.Lock()
        self._closed = False

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Session; computes the whole batch at once."""
        with self._lock, torch.inference_mode():
            if self._closed:
                raise closed()
            pixels = torch.from_numpy(np.array(images)).to(self._device)
            if self._last:
                pixels = pixels.contiguous(memory_format=torch.channels_last)
            run = self._captured(pixels) if self._graphs else self._run
            # .cpu() waits for the GPU: the time of a query is that of its answer.
            logits: NDArray[np.float32] = run(pixels).float().cpu().numpy()
        return logits

    def close(self) -> None:
        """See Session."""
        with self._lock:
            self._closed = True
            self._graph_of.clear()

    def _made(
        self, content: bytes, form: str, options: Mapping[str, str]
    ) -> Callable[[Tensor], Tensor]:
        twin = load_twin(content)
        if form == "paper":
            from qdr_bench.peers.paper import quantize

            images = np.load(Path(options["calibration"]), allow_pickle=False)
            return quantize(twin, images)
        network: nn.Module = twin.to(self._device, self._dtype)
        if self._last:
            for parameter in network.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        if form != "compile":
            return network
        compiled: Callable[[Tensor], Tensor] = torch.compile(network)
        return compiled

    def _captured(self, pixels: Tensor) -> Callable[[Tensor], Tensor]:
        """A CUDA graph for this batch; recorded the first time."""
        key = tuple(pixels.shape)
        if key not in self._graph_of:
            held = pixels.clone()
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    self._run(held)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                answer = self._run(held)

            def replay(images: Tensor) -> Tensor:
                held.copy_(images)
                graph.replay()
                return answer

            self._graph_of[key] = replay
        return self._graph_of[key]
