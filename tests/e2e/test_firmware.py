"""libqdr as a firmware team meets it: built, tested, installed, found, linked, and on another
processor."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIRMWARE = ROOT / "export" / "firmware"
SOURCES = sorted((FIRMWARE / "src").rglob("*.c"))
DATA = FIRMWARE / "tests" / "data"
ARM = "aarch64-linux-gnu-gcc"

pytestmark = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("cc") is None,
    reason="cmake or a C compiler is not installed",
)


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, cwd=cwd, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def built(folder: Path, *settings: str) -> Path:
    run("cmake", "-S", FIRMWARE, "-B", folder, *settings)
    run("cmake", "--build", folder, "--parallel", "2")
    return folder


def test_it_builds_without_a_warning_and_passes_its_tests(tmp_path: Path) -> None:
    out = run("ctest", "--test-dir", built(tmp_path), "--verbose")
    assert "100% tests passed" in out
    assert "plain C: equal" in out


def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    out = run(
        "ctest", "--test-dir", built(tmp_path, "-DQDR_SANITIZE=ON", "-DQDR_WERROR=ON"), "--verbose"
    )
    assert "100% tests passed" in out
    assert "ran within their memory" in out


def test_an_application_finds_the_installed_package(tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    run("cmake", "--install", built(tmp_path / "build", "-DBUILD_TESTING=OFF"), "--prefix", prefix)
    # The example of the documentation, as printed, with a plan and a main function beside it.
    page = (ROOT / "docs" / "native.md").read_text()
    example = re.search(r"```c\n(.*?)```", page, re.DOTALL)
    assert example is not None
    app = tmp_path / "app"
    app.mkdir()
    (app / "decide.c").write_text(example.group(1))
    plan = (DATA / "tiny.plan").read_bytes()
    (app / "network.c").write_text(
        f"extern const unsigned char network[];\nextern const unsigned int network_len;\n"
        f"const unsigned char network[] = {{{','.join(map(str, plan))}}};\n"
        f"const unsigned int network_len = {len(plan)};\n"
    )
    (app / "main.c").write_text(
        "#include <stdio.h>\n"
        "int decide(const unsigned char *pixels, float *logits);\n"
        "int main(int n, char **v) {\n"
        "    static unsigned char pixels[3 * 32 * 32];\n"
        "    float logits[4];\n"
        '    FILE *f = fopen(v[n - 1], "rb");\n'
        "    if (f == NULL || fread(pixels, 1, sizeof pixels, f) != sizeof pixels) return 2;\n"
        "    int status = decide(pixels, logits);\n"
        "    return status ? status : fwrite(logits, sizeof logits, 1, stdout) != 1;\n"
        "}\n"
    )
    (app / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(app C)\nset(CMAKE_C_STANDARD 11)\n"
        "find_package(qdr 1.0 REQUIRED)\nadd_executable(app main.c decide.c network.c)\n"
        "target_link_libraries(app PRIVATE qdr::qdr)\n"
    )
    run("cmake", "-S", app, "-B", app / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", app / "build")
    done = subprocess.run(
        [app / "build" / "app", DATA / "tiny.pixels"], capture_output=True, check=True
    )
    assert done.stdout == (DATA / "tiny.logits").read_bytes()[:16]


@pytest.mark.parametrize("march", ["armv8-a", "armv8.2-a+dotprod"])
def test_arm_gives_the_same_bits(march: str, tmp_path: Path) -> None:
    if shutil.which(ARM) is None or shutil.which("qemu-aarch64") is None:
        pytest.skip("apt install gcc-aarch64-linux-gnu qemu-user")
    program = tmp_path / "test_plan"
    run(
        ARM, "-std=c11", "-O2", "-static", f"-march={march}", "-Wall", "-Wextra", "-Werror",
        "-Wconversion", "-DQDR_TEST_THREADS", "-I", FIRMWARE / "include", "-I", FIRMWARE / "src",
        FIRMWARE / "tests" / "test_plan.c", *SOURCES, "-o", program, "-pthread",
    )  # fmt: skip
    out = run("qemu-aarch64", program, DATA)
    assert ("NEON dotprod: equal" in out) == ("dotprod" in march)
    assert "plain C: equal" in out
