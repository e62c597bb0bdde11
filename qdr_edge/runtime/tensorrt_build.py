"""Build a TensorRT engine on the device it is for, within the memory that the device has.

TensorRT 10 builds a weakly typed network with INT8 and FP16 allowed; TensorRT 11 knows strongly
typed networks only. The enums of the two have other numbers, so everything is addressed by name.
Layers stay on the GPU: DLA is never asked for.
"""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from qdr_edge.errors import BackendError
from qdr_edge.runtime.engine_cache import EngineKey, load_engine, store_engine
from qdr_edge.runtime.tensorrt_messages import Log, logger, refused

if TYPE_CHECKING:
    import tensorrt

    from qdr_edge.runtime.cuda import Cuda

_MIB: Final = 1 << 20
# Below this, CUDA's context and TensorRT's kernels alone would drive a board into swap.
MINIMUM_FREE_MIB: Final = 512
MAXIMUM_WORKSPACE_MIB: Final = 1024
MINIMUM_WORKSPACE_MIB: Final = 64
OPTIMIZATION_LEVEL: Final = 3
# What every engine is built with; part of the cache's key.
FLAGS: Final = "q/dq int8 fp16 no-tf32"
_PRECISION_FLAGS: Final = ("INT8", "FP16")


@dataclass(frozen=True)
class BuildPlan:
    """How much an engine's build may use.

    Args:
        workspace_mib: Scratch memory of one layer; kernels that need more are not considered.
        tactic_mib: Memory of all that is tried out.
        optimization_level: How long kernels are searched for, 0 (little) to 5.
    """

    workspace_mib: int
    tactic_mib: int
    optimization_level: int = OPTIMIZATION_LEVEL


def plan_build(free_bytes: int, options: Mapping[str, str]) -> BuildPlan:
    """Bound a build by what is free: a quarter of it for a layer's scratch, three for the whole.

    Args:
        free_bytes: Memory that is free; on a board that shares it, the system's.
        options: "workspace_mib" and "optimization_level" override what follows from the memory.

    Raises:
        BackendError: An option cannot be read, or too little memory is free.
    """
    workspace = _whole_number(options, "workspace_mib", range(1, 1 << 20))
    level = _whole_number(options, "optimization_level", range(6))
    free_mib = free_bytes // _MIB
    if free_mib < MINIMUM_FREE_MIB:
        raise BackendError(
            f"{free_mib} MiB of memory are free",
            expected=f"{MINIMUM_FREE_MIB} MiB or more to build an engine",
            fix="close other programs, or build it at installation with `qdr-edge engine BUNDLE`",
        )
    if workspace is None:
        workspace = max(MINIMUM_WORKSPACE_MIB, min(MAXIMUM_WORKSPACE_MIB, free_mib // 4))
    return BuildPlan(
        workspace,
        max(workspace, free_mib * 3 // 4),
        OPTIMIZATION_LEVEL if level is None else level,
    )


def trtexec_command(model: Path, engine: Path, plan: BuildPlan, major: int) -> list[str]:
    """The arguments with which NVIDIA's trtexec builds the same engine.

    Args:
        model: The ONNX file.
        engine: Where it writes the engine.
        plan: Bounds; trtexec has no option for `tactic_mib`.
        major: TensorRT's major version.
    """
    precision = [f"--{name.lower()}" for name in _PRECISION_FLAGS] if major < 11 else []
    return [
        "trtexec",
        f"--onnx={model}",
        f"--saveEngine={engine}",
        *precision,
        "--noTF32",
        f"--memPoolSize=workspace:{plan.workspace_mib}",
        f"--builderOptimizationLevel={plan.optimization_level}",
        "--maxAuxStreams=0",
        "--skipInference",
    ]


def build_engine(
    model: bytes,
    plan: BuildPlan,
    timing_key: EngineKey,
    progress: Callable[[str], None] | None = None,
) -> bytes:
    """Build a serialized engine for the current GPU; takes seconds to minutes.

    Args:
        model: Checked ONNX bytes with Q/DQ.
        plan: Bounds.
        timing_key: Key of the timing cache, which spares measuring kernels again.
        progress: Told the name of each phase.

    Raises:
        BackendError: The parser or the builder refuses; its messages are explained.
        KeyboardInterrupt: The user stopped it.
    """
    log = Log()
    builder = _builder(log)
    network = _network(builder, log)
    # Kept until the engine is built: it owns the memory of the weights.
    parser = _parser(model, network, log)
    config = _configured(builder, plan, log)
    timing = _timing_cache(config, timing_key)
    monitor = _monitor(progress)
    config.progress_monitor = monitor
    with _interrupt_stops(monitor):
        serialized = builder.build_serialized_network(network, config)
    if monitor.stopped:
        raise KeyboardInterrupt
    del parser
    if serialized is None:
        raise refused(log.messages, "build the engine")
    if timing is not None:
        store_engine(timing_key, _content(timing.serialize()))
    return _content(serialized)


def free_memory(cuda: Cuda) -> int:
    """Bytes a build may count on: the GPU's own, or the system's where the two are one."""
    if not cuda.device().integrated:
        return cuda.free_memory()
    available = _available_bytes()
    return available if available else cuda.free_memory()


def _builder(log: Log) -> tensorrt.Builder:
    import tensorrt

    # The binding turns a null pointer of the library into a TypeError, or None.
    try:
        return tensorrt.Builder(logger())
    except TypeError as error:
        raise refused(log.messages, "start its builder") from error


def _network(builder: tensorrt.Builder, log: Log) -> tensorrt.INetworkDefinition:
    import tensorrt

    creation = tensorrt.NetworkDefinitionCreationFlag
    flags = 0 if _precision_flags() else 1 << int(creation.STRONGLY_TYPED)
    network = builder.create_network(flags)
    if network is None:
        raise refused(log.messages, "begin a network")
    return network


def _parser(model: bytes, network: tensorrt.INetworkDefinition, log: Log) -> tensorrt.OnnxParser:
    """The parser that filled the network."""
    import tensorrt

    try:
        parser = tensorrt.OnnxParser(network, logger())
    except TypeError as error:
        raise refused(log.messages, "start its parser") from error
    if not parser.parse(model):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        messages = [f"{e.node_operator()} {e.node_name()}: {e.desc()}" for e in found]
        raise refused(messages or log.messages, "read the graph")
    return parser


def _configured(builder: tensorrt.Builder, plan: BuildPlan, log: Log) -> tensorrt.IBuilderConfig:
    import tensorrt

    config = builder.create_builder_config()
    if config is None:
        raise refused(log.messages, "begin a build")
    pools = tensorrt.MemoryPoolType
    config.set_memory_pool_limit(pools.WORKSPACE, plan.workspace_mib * _MIB)
    config.set_memory_pool_limit(pools.TACTIC_DRAM, plan.tactic_mib * _MIB)
    config.builder_optimization_level = plan.optimization_level
    # Another stream needs another workspace, and gains nothing in a network this small.
    config.max_aux_streams = 0
    config.default_device_type = tensorrt.DeviceType.GPU
    config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
    # TF32 keeps 10 bits of mantissa: float layers would differ from the other backends'.
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    for flag in _precision_flags():
        config.set_flag(flag)
    return config


def _precision_flags() -> list[tensorrt.BuilderFlag]:
    """The flags of a weakly typed network; TensorRT 11 has none."""
    import tensorrt

    found = (getattr(tensorrt.BuilderFlag, name, None) for name in _PRECISION_FLAGS)
    return [flag for flag in found if flag is not None]


def _timing_cache(config: tensorrt.IBuilderConfig, key: EngineKey) -> tensorrt.ITimingCache | None:
    """The kept timings, or none yet; None where TensorRT gives no cache, which costs time only."""
    for content in (load_engine(key), b""):
        if content is None:
            continue
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _content(memory: Any) -> bytes:
    """A copy of TensorRT's memory, which speaks the buffer protocol."""
    return memoryview(memory).tobytes()


def _monitor(progress: Callable[[str], None] | None) -> Any:
    """A progress monitor that reports outermost phases; `stopped` ends the build early."""
    import tensorrt

    class Monitor(tensorrt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.IProgressMonitor.__init__(self)
            self.stopped = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: Any) -> None:
            # Called from C++, where an exception would end the process.
            with contextlib.suppress(Exception):
                if progress is not None and not parent_phase:
                    progress(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            return None

        def step_complete(self, phase_name: str, step: Any) -> bool:
            return not self.stopped

    return Monitor()


@contextlib.contextmanager
def _interrupt_stops(monitor: Any) -> Iterator[None]:
    """Let Ctrl-C stop the build at its next step instead of raising inside C++."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        monitor.stopped = True

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _whole_number(options: Mapping[str, str], name: str, allowed: range) -> int | None:
    text = options.get(name)
    if text is None:
        return None
    if not text.isdigit() or int(text) not in allowed:
        raise BackendError(
            f"option {name} is {text!r}",
            expected=f"a whole number of {allowed.start}..{allowed.stop - 1}",
            fix="export the bundle again with this release",
        )
    return int(text)


def _available_bytes() -> int:
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return 0
    found = re.search(r"^MemAvailable:\s*(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0
