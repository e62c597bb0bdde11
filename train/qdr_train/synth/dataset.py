"""Generate a whole synthetic data set: plan, draw in several processes, write; the CSV last."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from qdr_edge.errors import DatasetError, OutputError
from qdr_edge.files import atomic_write

from .anatomy import Eye, sample_eye
from .camera import aim, choose_camera, expose
from .fundus import paint_fundus
from .oct import choose_scanner, draw_oct
from .patients import EyePlan, PatientPlan, Shot, plan_patient, split_patients
from .streams import EyeStreams
from .writer import TEMPORARY_PATTERN, encode_jpeg, encode_png, is_complete, write_image

GENERATOR_VERSION = 1
CSV_NAME = "synthetic.csv"
MARKER_NAME = "SYNTHETIC"
COLUMNS = ("file", "modality", "labels", "patient", "eye", "split", "quality", "camera")
MIN_SIZE, MAX_SIZE = 64, 1024
MAX_PATIENTS = 9999


@dataclass(frozen=True)
class Picture:
    """One finished image and the device that took it."""

    pixels: NDArray[np.uint8]  # [S, S, 3] RGB for fundus, [S, 1.5 S] for OCT
    camera: str
    jpeg_quality: int  # 0 for OCT, which is written without loss


def render(seed: int, patient: int, plan: EyePlan, shot: Shot, size: int) -> Picture:
    """Draw one image.

    Args:
        seed: data-set seed.
        patient: patient index.
        plan: the eye: side and findings.
        shot: modality, scan number, quality grade.
        size: height in pixels.

    Returns:
        The picture; it depends on the arguments only.
    """
    streams = EyeStreams(seed, patient, plan.side)
    return _render(sample_eye(streams), streams, plan, shot, size)


def _render(eye: Eye, streams: EyeStreams, plan: EyePlan, shot: Shot, size: int) -> Picture:
    mirror = plan.side == "L"  # every eye is drawn as a right eye
    device = _device_stream(streams, shot)
    if shot.modality == "oct":
        scanner = choose_scanner(device)
        grey = draw_oct(eye, plan.findings, scanner, shot.quality, streams, shot.scan, size)
        return Picture(np.ascontiguousarray(grey[:, ::-1] if mirror else grey), scanner.name, 0)
    camera = choose_camera(device)
    view = aim(device, camera, size)
    reflectance = paint_fundus(eye, plan.findings, view, streams, shot.scan)
    exposure = streams.open(shot.scan, "exposure")
    rgb = expose(reflectance, view, camera, shot.quality, exposure, size)
    pixels = np.ascontiguousarray(rgb[:, ::-1] if mirror else rgb)
    return Picture(pixels, camera.name, camera.jpeg_quality)


def _device_stream(streams: EyeStreams, shot: Shot) -> np.random.Generator:
    return streams.open(shot.modality, shot.scan, "device")


def camera_name(seed: int, patient: int, side: str, shot: Shot) -> str:
    """The device of one image, without drawing it."""
    device = _device_stream(EyeStreams(seed, patient, side), shot)
    return (choose_scanner(device) if shot.modality == "oct" else choose_camera(device)).name


def file_name(patient: PatientPlan, side: str, shot: Shot) -> str:
    """Path below the data set: `[modality]/[patient]-[side]-[scan]` and the extension."""
    suffix = "png" if shot.modality == "oct" else "jpg"
    return f"{shot.modality}/{patient.name}-{side}-{shot.scan}.{suffix}"


def _draw_patient(out: str, seed: int, index: int, size: int) -> int:
    """Draw the images of one patient that are not there yet; returns the number of all of them."""
    cv2.setNumThreads(1)
    plan = plan_patient(seed, index)
    total = 0
    for eye_plan in plan.eyes:
        streams = EyeStreams(seed, index, eye_plan.side)
        eye = sample_eye(streams)
        for shot in eye_plan.shots:
            total += 1
            path = Path(out) / file_name(plan, eye_plan.side, shot)
            if is_complete(path):
                continue
            picture = _render(eye, streams, eye_plan, shot, size)
            note = (
                f"SYNTHETIC image, not a patient. qdr-edge generator {GENERATOR_VERSION}, "
                f"seed {seed}, {path.name}"
            )
            if shot.modality == "oct":
                write_image(path, encode_png(picture.pixels, note))
            else:
                write_image(path, encode_jpeg(picture.pixels, picture.jpeg_quality, note))
    return total


def generate(
    out: Path,
    patients: int,
    seed: int,
    size: int,
    *,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> Path:
    """Write a synthetic data set of fundus photographs and OCT B-scans of the same eyes.

    A folder with an unfinished data set of the same parameters is completed; images that are there
    are kept. The same `seed`, `patients` and `size` give the same bytes for any number of workers.

    Args:
        out: folder to write; created when missing.
        patients: 1 .. 9999.
        seed: >= 0.
        size: side of a fundus photograph and height of an OCT scan in pixels, 64 .. 1024.
        progress: called with (images done, images in all) in the calling process.
        workers: processes; None = one a core, 1 = draw in this process.

    Returns:
        Path of the CSV, which is written last: where it stands, the data set is complete.

    Raises:
        DatasetError: an argument is out of range.
        OutputError: `out` holds something else, or cannot be written.
    """
    _check(patients, seed, size, workers)
    plans = [plan_patient(seed, index) for index in range(patients)]
    total = sum(len(eye.shots) for plan in plans for eye in plan.eyes)
    _open_folder(out, patients, seed, size)
    done = 0
    drawn = _draw_all(out, seed, size, patients, workers)
    try:
        for count in drawn:
            done += count
            if progress is not None:
                progress(done, total)
    except OSError as error:
        raise OutputError(
            f"cannot write an image: {error.strerror or error}",
            where=str(out),
            expected="a writable folder with free space",
            fix="make room and run the same command again: what is drawn is kept",
        ) from error
    except BrokenProcessPool as error:
        raise OutputError(
            "a drawing process was killed",
            where=str(out),
            fix="run the same command again with fewer workers: what is drawn is kept",
        ) from error
    finally:
        drawn.close()
    table = out / CSV_NAME
    atomic_write(table, _table(plans, seed))
    return table


def _draw_all(
    out: Path, seed: int, size: int, patients: int, workers: int | None
) -> Generator[int, None, None]:
    processes = min(workers or _cores(), patients)
    if processes <= 1:
        threads = cv2.getNumThreads()
        try:
            for index in range(patients):
                yield _draw_patient(str(out), seed, index, size)
        finally:
            cv2.setNumThreads(threads)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        processes, mp_context=context, initializer=_leave_interrupts_to_parent
    )
    try:
        jobs = [pool.submit(_draw_patient, str(out), seed, i, size) for i in range(patients)]
        for job in jobs:
            yield job.result()
    finally:
        # Not the context manager: its own exit would wait for every patient still in the queue.
        pool.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # fewer than the machine has, in a container
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _check(patients: int, seed: int, size: int, workers: int | None) -> None:
    for name, value, low, high in (
        ("patients", patients, 1, MAX_PATIENTS),
        ("seed", seed, 0, 2**63 - 1),
        ("size", size, MIN_SIZE, MAX_SIZE),
        ("workers", 1 if workers is None else workers, 1, 256),
    ):
        if not low <= value <= high:
            raise DatasetError(
                f"{name} is {value}",
                where="synthetic data",
                expected=f"{low} .. {high}",
                fix=f"choose another value for {name}",
            )


def _open_folder(out: Path, patients: int, seed: int, size: int) -> None:
    wanted = {
        "synthetic": True,
        "generator_version": GENERATOR_VERSION,
        "seed": seed,
        "patients": patients,
        "size": size,
    }
    marker = out / MARKER_NAME
    if out.exists() and not out.is_dir():
        raise OutputError("it is a file", where=str(out), expected="a folder", fix="name another")
    if out.is_dir() and any(out.iterdir()):
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise OutputError(
                "the folder is not empty and holds no synthetic data set",
                where=str(out),
                expected="an empty or missing folder, or an unfinished synthetic data set",
                fix="name another folder",
            ) from None
        if found != wanted:
            held = found if isinstance(found, dict) else {}
            differ = [key for key in wanted if held.get(key) != wanted[key]]
            raise OutputError(
                "the folder holds a synthetic data set with "
                + ", ".join(f"{key} {held.get(key)}" for key in differ),
                where=str(out),
                expected=", ".join(f"{key} {wanted[key]}" for key in differ),
                fix="name another folder or give the same arguments",
            )
    try:
        for modality in ("fundus", "oct"):
            (out / modality).mkdir(parents=True, exist_ok=True)
            for leftover in (out / modality).glob(TEMPORARY_PATTERN):
                leftover.unlink()
        atomic_write(marker, json.dumps(wanted, indent=2) + "\n")
        atomic_write(out / "README.txt", _readme(patients, seed, size))
    except OSError as error:
        raise OutputError(
            f"cannot write: {error.strerror}",
            where=str(out),
            fix="choose a folder you may write to",
        ) from error


def _readme(patients: int, seed: int, size: int) -> str:
    return (
        "SYNTHETIC DATA - no image in this folder shows a person.\n\n"
        "Every fundus photograph and OCT scan here was drawn by the procedural generator of\n"
        f"qdr-edge (generator version {GENERATOR_VERSION}, seed {seed}, {patients} patients, "
        f"{size} px).\n"
        "The same command draws the same bytes:\n\n"
        f"  qdr-edge data synth OUT --patients {patients} --seed {seed} --size {size}\n\n"
        "It serves demonstrations, tests and development. Figures measured on it say how the\n"
        "software works, nothing about how well a model reads real eyes.\n\n"
        f"{CSV_NAME}: {','.join(COLUMNS)}\n"
        "Labels are separated by ';'. The split is by patient. quality is 0 (good) .. 3\n"
        "(ungradable). camera is independent of disease by construction.\n"
    )


def _table(plans: list[PatientPlan], seed: int) -> str:
    splits = split_patients(seed, plans)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for modality in ("fundus", "oct"):
        for plan in plans:
            for eye in plan.eyes:
                for shot in eye.shots:
                    if shot.modality == modality:
                        writer.writerow(
                            (
                                file_name(plan, eye.side, shot),
                                modality,
                                ";".join(eye.labels),
                                plan.name,
                                eye.side,
                                splits[plan.index],
                                shot.quality,
                                camera_name(seed, plan.index, eye.side, shot),
                            )
                        )
    return text.getvalue()
