"""What TensorRT says, in our words: its log is collected, and the cause and the mend are named."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from qdr_edge.errors import BackendError

if TYPE_CHECKING:
    import tensorrt

_LOWER_BOUND: Final = (
    "close other programs or add swap, or bound the build with `qdr-edge engine --workspace-mib`"
)
# Messages of an unknown cause that are passed on.
_SHOWN: Final = 3
# (pattern in TensorRT's log, what it means, what to do); the first that matches anywhere counts.
_CAUSES: Final = (
    (
        r"out of memory|could not be allocated|OutOfMemory|insufficient memory",
        "there is not enough memory for it",
        _LOWER_BOUND,
    ),
    (
        r"[Cc]ould not find any implementation for node (?P<node>[^\n]*?)[.)]*(?: In |$)",
        "it has no kernel for {node} in the precision of the graph",
        "raise --workspace-mib if it is low, or keep that layer in float: quantization: exclude",
    ),
    (
        r"[Vv]ersion tag does not match|not compatible with this version",
        "the engine was built by another version of it",
        "build it here: `qdr-edge engine BUNDLE --rebuild`",
    ),
    (
        r"incompatible device|different (?:GPU|device)",
        "the engine was built on another GPU",
        "build it here: `qdr-edge engine BUNDLE --rebuild`",
    ),
    (
        r"SM \d+ is not supported|no kernel image|[Uu]nsupported SM",
        "it does not support this GPU",
        "use the onnxruntime or openvino artefact with --target",
    ),
    (
        r"CUDA initialization failure|CUDA driver version is insufficient|no CUDA-capable device",
        "CUDA does not start on this machine",
        "install the NVIDIA driver that this CUDA version needs; `nvidia-smi` shows it",
    ),
)


class Log:
    """The errors that TensorRT reports from here on."""

    def __init__(self) -> None:
        self._start = _Heard.total

    @property
    def messages(self) -> list[str]:
        """The first error first; of very many only the last ones."""
        count = min(_Heard.total - self._start, len(_Heard.recent))
        return list(_Heard.recent)[len(_Heard.recent) - count :]


class _Heard:
    """What the process's one logger was told."""

    logger: ClassVar[Any] = None
    total: ClassVar[int] = 0
    recent: ClassVar[deque[str]] = deque(maxlen=100)


def logger() -> tensorrt.ILogger:
    """The logger of this process, which keeps errors for our own messages instead of printing.

    There is only one, and it is never freed: TensorRT remembers the first logger it is given for as
    long as the process lives, and reports to no other.
    """
    import tensorrt

    class Collector(tensorrt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            # Called from C++, where an exception would end the process.
            if severity in (tensorrt.ILogger.INTERNAL_ERROR, tensorrt.ILogger.ERROR):
                _Heard.recent.append(msg)
                _Heard.total += 1

    if _Heard.logger is None:
        _Heard.logger = Collector()
    found: tensorrt.ILogger = _Heard.logger
    return found


def refused(messages: Sequence[str], action: str) -> BackendError:
    """The error for something TensorRT would not do.

    Args:
        messages: Its errors.
        action: What was tried, e.g. "build the engine".
    """
    text = "\n".join(messages)
    for pattern, cause, mend in _CAUSES:
        match = re.search(pattern, text, re.MULTILINE)
        if match is None:
            continue
        node = match.groupdict().get("node") or "a layer"
        return BackendError(
            f"TensorRT cannot {action}: {cause.format(node=node)}",
            expected="a graph, a GPU and memory within TensorRT's limits",
            fix=mend,
        )
    shown = " | ".join(messages[:_SHOWN]) or "it gives no reason"
    more = f" and {len(messages) - _SHOWN} more" if len(messages) > _SHOWN else ""
    return BackendError(
        f"TensorRT cannot {action}: {shown}{more}",
        expected="a Q/DQ network within TensorRT's rules, built on this GPU and version",
        fix="check it with `qdr-edge lint`; `qdr-edge engine BUNDLE --print` for trtexec's view",
    )
