"""Images decoded and preprocessed once, then read as one memory-mapped uint8 array.

A pack is named by the hash of the files' contents and of the preprocessing contract, so another
run, size or changed image never reads the wrong pixels. It is written under a hidden name and
appears by rename when it is whole. The hidden file is locked by whoever writes it: of several
processes one does the work and the others wait; the lock of a killed process is released by the
kernel, and the next one starts the file anew.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qdr_edge.decode import split_frame
from qdr_edge.errors import DatasetError, ImageError, OutputError
from qdr_edge.files import sha256_file
from qdr_edge.preprocess import PreprocessSpec, load_image
from qdr_edge.samples import SampleSet

Progress = Callable[[int, int], None]
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


def open_pixels(
    folder: Path,
    samples: SampleSet,
    spec: PreprocessSpec,
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> NDArray[np.uint8]:
    """The network inputs of all samples, built on the first call.

    Args:
        folder: Where packs are kept; made if missing.
        samples: Rows of one modality.
        spec: Preprocessing contract.
        threads: Images decoded at the same time.
        progress: Called with (done, total) while this process builds the pack.

    Returns:
        Read-only memory map, uint8 [N, 3, S, S], in the order of the samples.

    Raises:
        DatasetError: An image file is missing or cannot be read.
        ImageError: An image cannot be decoded; its file is named and nothing is kept.
        OutputError: The folder cannot be written.
    """
    shape = (len(samples), 3, spec.size, spec.size)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        files = [sample.file for sample in samples]
        try:
            hashes = list(pool.map(fingerprint, files))
        except OSError as error:
            raise DatasetError(
                f"cannot read {error.filename}: {error.strerror}",
                where=samples.source,
                fix="put the file back or take its row out",
            ) from error
        key = hashlib.sha256("\n".join([spec.sha256, *hashes]).encode()).hexdigest()
        pack = folder / f"{spec.modality}-{spec.size}-{key[:24]}.u8"
        if not _is_whole(pack, shape):
            try:
                with _sole_builder(pack) as (descriptor, partial):
                    # It may have been built while this process waited for the lock.
                    if not _is_whole(pack, shape):
                        _build(descriptor, files, spec, pool, progress)
                        partial.replace(pack)
            except OSError as error:
                raise OutputError(
                    f"cannot write the image cache: {error.strerror or error}",
                    where=str(folder),
                    expected="a writable folder with free space",
                    fix="name another with --cache",
                ) from error
    return np.memmap(pack, dtype=np.uint8, mode="r", shape=shape)


def fingerprint(file: Path) -> str:
    """Hash of an image's content; the frames of one DICOM file differ by their number."""
    path, frame = split_frame(file)
    return sha256_file(path) if frame is None else f"{sha256_file(path)}#{frame}"


def _is_whole(pack: Path, shape: tuple[int, ...]) -> bool:
    return pack.is_file() and pack.stat().st_size == int(np.prod(shape))


@contextmanager
def _sole_builder(pack: Path) -> Iterator[tuple[int, Path]]:
    """The hidden file of a pack, open for writing, once no other process holds it."""
    pack.parent.mkdir(parents=True, exist_ok=True)
    path = pack.with_name(f".{pack.name}.partial")
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                # A network file system without locks: every process writes a file of its own.
                path.unlink(missing_ok=True)
                path = pack.with_name(f".{pack.name}.{platform.node()}-{os.getpid()}.partial")
                os.close(descriptor)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            # While this process waited, the holder may have renamed or removed what was locked.
            if not _is_named(descriptor, path):
                continue
            try:
                yield descriptor, path
            finally:
                if _is_named(descriptor, path):  # not renamed: a failure, or nothing to do
                    path.unlink()
            return
        finally:
            os.close(descriptor)


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _build(
    descriptor: int,
    files: list[Path],
    spec: PreprocessSpec,
    pool: ThreadPoolExecutor,
    progress: Progress | None,
) -> None:
    """Write every image at its place, from the thread that decoded it."""
    image_bytes = 3 * spec.size * spec.size
    # What a killed builder left is cut off before anything is written.
    os.ftruncate(descriptor, 0)
    os.ftruncate(descriptor, len(files) * image_bytes)

    def put(index: int) -> None:
        rest = _load(files[index], spec).data.cast("B")
        at = index * image_bytes
        while rest:
            written = os.pwrite(descriptor, rest, at)
            rest, at = rest[written:], at + written

    try:
        for done, _ in enumerate(pool.map(put, range(len(files))), start=1):
            if progress is not None:
                progress(done, len(files))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    # Renamed only when the bytes are on the disk: a power cut leaves no pack with holes in it.
    os.fsync(descriptor)


def _load(file: Path, spec: PreprocessSpec) -> NDArray[np.uint8]:
    try:
        return load_image(file, spec)
    except ImageError as error:
        if str(file) in str(error):
            raise
        raise ImageError(
            error.what, where=str(file), expected=error.expected, fix=error.fix
        ) from error
