"""Power cuts and failing disks: every call that changes the disk, cut or refused, one by one.

`python -m tests.faults JOB FOLDER WAY…` counts a job's calls in a copy of FOLDER/template, then
runs the job again for each call and each way to fail, every time in a child process and a copy of
its own. It prints what it did as JSON; the test looks at what is left.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from qdr_edge.bundle import read_bundle, write_bundle
from qdr_edge.errors import OutputError
from qdr_edge.install import install, roll_back
from qdr_edge.keys import SigningKey, TrustStore
from tests.forgetful import Call

CALLS: Final = ("open", "mkdir", "write", "fchmod", "chmod", "fsync", "replace", "rename", "link",
                "unlink", "ftruncate", "truncate")  # fmt: skip
KILL, TORN = "kill", "torn"
WAYS: Final = (KILL, TORN, "ENOSPC", "EIO")
REFUSED: Final = 3


class Disk:
    """Stands in front of the calls of `os` that change a disk.

    Args:
        at: The call, counted from 0, that goes wrong; None lets all pass.
        way: KILL dies in front of it, TORN after half of it, an errno's name refuses it.
    """

    def __init__(self, at: int | None = None, way: str = KILL) -> None:
        self.at, self.way = at, way
        self.log: list[Call] = []
        for name in CALLS:
            setattr(os, name, self._guarded(name, getattr(os, name)))

    def _guarded(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
                return original(*arguments, **options)
            if len(self.log) == self.at:
                self._fail(name, original, arguments, options)
            place = len(self.log)
            self.log.append(Call(name, ""))
            result = original(*arguments, **options)
            self.log[place] = _as_call(name, arguments, result)
            return result

        return call

    def _fail(self, name: str, original: Any, arguments: Any, options: Any) -> None:
        self.at = None
        if self.way == TORN and name == "write":
            original(arguments[0], arguments[1][: len(arguments[1]) // 2])
        elif self.way == TORN:
            with contextlib.suppress(OSError):
                original(*arguments, **options)
        if self.way in (KILL, TORN):
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, self.way)
        raise OSError(number, os.strerror(number))


def _as_call(name: str, arguments: tuple[Any, ...], result: Any) -> Call:
    """The call by paths: a descriptor means nothing to whoever replays it."""
    first = arguments[0]
    if isinstance(first, int):
        path = str(Path(f"/proc/self/fd/{first}").readlink())
    else:
        path = os.fspath(first)
    if name == "write":
        return Call(name, path, bytes(arguments[1][:result]))
    two = name in ("replace", "rename", "link")
    return Call(name, path, target=os.fspath(arguments[1]) if two else "")


def seal_job(folder: Path) -> None:
    """Seal the new bundle over the old one."""
    key = SigningKey.load(folder / "key.pem")
    parts = read_bundle(folder / "new", trust=TrustStore.of(key.public))
    write_bundle(folder / "x.qdr", parts.manifest, parts.entries, key)


def install_job(folder: Path) -> None:
    """Install the new bundle."""
    trust = TrustStore.of(SigningKey.load(folder / "key.pem").public)
    install(folder / "new", folder / "device", trust=trust, target="ort-x86", threads=1)


def roll_back_job(folder: Path) -> None:
    """Go back to the other slot."""
    trust = TrustStore.of(SigningKey.load(folder / "key.pem").public)
    roll_back(folder / "device", trust=trust, target="ort-x86", threads=1)


def key_job(folder: Path) -> None:
    """Make a signing key."""
    SigningKey.generate().save(folder / "made.pem")


JOBS: Final = {
    "seal": seal_job,
    "install": install_job,
    "roll_back": roll_back_job,
    "key": key_job,
}


def main(job: str, root: Path, ways: list[str]) -> None:
    """See the module."""
    _import_all()
    done = []
    status = _in_child(JOBS[job], _copy(root, "counted"), None, KILL, report=root / "calls")
    assert status == 0, f"the job itself failed: {status}"
    # Written by the child above, a moment ago.
    calls: list[Call] = pickle.loads((root / "calls").read_bytes())  # noqa: S301
    for at, name in enumerate(call.name for call in calls):
        for way in ways:
            folder = _copy(root, f"{at:02}-{name}-{way}")
            status = _in_child(JOBS[job], folder, at, way)
            done.append({"folder": folder.name, "call": name, "way": way, "status": status})
    print(json.dumps(done))


def _import_all() -> None:
    """Import here what every child would import anew; no session is opened, so no thread forks."""
    import cryptography.hazmat.primitives.asymmetric.ed25519
    import cv2
    import onnxruntime

    import qdr_edge.screener

    del cryptography, onnxruntime, qdr_edge
    cv2.setNumThreads(1)


def _copy(root: Path, name: str) -> Path:
    return Path(shutil.copytree(root / "template", root / name))


def _in_child(
    job: Callable[[Path], None], folder: Path, at: int | None, way: str, report: Path | None = None
) -> int:
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 1
    try:
        disk = Disk(at, way)
        job(folder)
        if report:
            report.write_bytes(pickle.dumps(disk.log))
        status = 0
    except OutputError:
        status = REFUSED
    finally:
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
