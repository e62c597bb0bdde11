"""Images decoded and preprocessed once, then read as one memory-mapped uint8 array.

A pack is named by the hash of the files' contents and of the preprocessing contract, so another
run, size or changed image never reads the wrong pixels. It appears by rename when it is whole:
several processes may build the same pack, the last one wins with the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qdr_edge.errors import DatasetError, ImageError, OutputError
from qdr_edge.files import sha256_file
from qdr_edge.preprocess import PreprocessSpec, load_image
from qdr_edge.samples import SampleSet

Progress = Callable[[int, int], None]


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
        progress: Called with (done, total) while the pack is built.

    Returns:
        Read-only memory map, uint8 [N, 3, S, S], in the order of the samples.

    Raises:
        ImageError: An image cannot be read; its file is named and nothing is kept.
        OutputError: The folder cannot be written.
    """
    shape = (len(samples), 3, spec.size, spec.size)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        files = [sample.file for sample in samples]
        try:
            hashes = list(pool.map(sha256_file, files))
        except OSError as error:
            raise DatasetError(
                f"cannot read {error.filename}: {error.strerror}",
                where=samples.source,
                fix="put the file back or take its row out",
            ) from error
        key = hashlib.sha256("\n".join([spec.sha256, *hashes]).encode()).hexdigest()
        pack = folder / f"{spec.modality}-{spec.size}-{key[:24]}.u8"
        if not (pack.is_file() and pack.stat().st_size == int(np.prod(shape))):
            _build(pack, files, spec, pool, progress)
    return np.memmap(pack, dtype=np.uint8, mode="r", shape=shape)


def _build(
    pack: Path,
    files: list[Path],
    spec: PreprocessSpec,
    pool: ThreadPoolExecutor,
    progress: Progress | None,
) -> None:
    temporary: Path | None = None
    try:
        pack.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{pack.name}.", dir=pack.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as handle:
            # map() keeps the order and a bounded queue would not: images are small.
            jobs = pool.map(lambda file: _load(file, spec), files)
            try:
                for done, image in enumerate(jobs, start=1):
                    handle.write(image.tobytes())
                    if progress is not None:
                        progress(done, len(files))
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        temporary.replace(pack)
        temporary = None
    except OSError as error:
        raise OutputError(
            f"cannot write the image cache: {error.strerror or error}",
            where=str(pack.parent),
            expected="a writable folder with free space",
            fix="name another with --cache",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _load(file: Path, spec: PreprocessSpec) -> NDArray[np.uint8]:
    try:
        return load_image(file, spec)
    except ImageError as error:
        if str(file) in str(error):
            raise
        raise ImageError(
            error.what, where=str(file), expected=error.expected, fix=error.fix
        ) from error
