"""What compilers and linters find in libqdr without running it, and a moment of libFuzzer."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FIRMWARE = Path(__file__).resolve().parents[2] / "export" / "firmware"
TARGETS = ("bundle", "plan", "pixels", "device")

pytestmark = pytest.mark.full


def run(*command: object) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    return done.stdout + done.stderr


def configured(folder: Path, *settings: str) -> Path:
    if shutil.which("cmake") is None:
        pytest.skip("apt install cmake")
    run("cmake", "-S", FIRMWARE, "-B", folder, "-DQDR_EXAMPLES=OFF", "-DQDR_WERROR=ON", *settings)
    return folder


def test_clang_tidy_finds_nothing(tmp_path: Path) -> None:
    if shutil.which("clang-tidy") is None:
        pytest.skip("apt install clang-tidy")
    run("cmake", "--build", configured(tmp_path), "--target", "tidy")


# An arena without memory only adds up what is needed; GCC takes it for the one that is written to.
VENDORED = FIRMWARE / "vendor" / "onnxruntime"
FALSE_ALARMS = ("src/pixels/prepare.c: -Wanalyzer-null-dereference",)


def test_gccs_analyzer_finds_nothing_new(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("apt install gcc")
    found = set()
    for source in sorted((FIRMWARE / "src").rglob("*.c")):
        if source.name == "openvino.c":
            continue  # its vendor's headers are not the repository's
        done = subprocess.run(
            ["gcc", "-std=c11", "-O2", "-ffp-contract=off", "-fanalyzer", "-I",
             FIRMWARE / "include", "-I", FIRMWARE / "src", "-I", VENDORED, "-c", source,
             "-o", tmp_path / "x.o"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        where = source.relative_to(FIRMWARE).as_posix()
        found |= {f"{where}: {name}" for name in re.findall(r"\[(-Wanalyzer[^]]*)\]", done.stderr)}
    assert found <= set(FALSE_ALARMS)


def test_each_fuzzer_holds_for_a_moment(tmp_path: Path) -> None:
    """The commands of tests/fuzz/README.md, with fewer runs."""
    if shutil.which("clang") is None:
        pytest.skip("apt install clang libclang-rt-14-dev")
    build = configured(tmp_path, "-DQDR_FUZZ=ON", "-DCMAKE_C_COMPILER=clang")
    run("cmake", "--build", build, "--parallel", "2")
    folder = build / "tests" / "fuzz"
    for target in TARGETS:
        found = tmp_path / target
        found.mkdir()
        corpus = folder / "corpus" / target
        out = run(folder / f"fuzz_{target}", "-runs=3000", "-timeout=60", found, corpus)
        assert "Done 3000 runs" in out
        assert list(found.iterdir()), "nothing new was found: does the target see its input?"
