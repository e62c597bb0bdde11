"""libqdr as a firmware team meets it: built, tested, installed, found, linked, and on another
processor."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import qdr_edge
from qdr_edge.bundle import write_bundle
from qdr_edge.decision import DecisionRule, decide
from qdr_edge.keys import SigningKey, TrustStore
from qdr_edge.manifest import Artefact, Decisions, exact_text
from qdr_edge.preprocess import PreprocessSpec, load_image
from qdr_edge.runtime import native
from qdr_edge.runtime.native import NativeSession
from qdr_export.emit.native import emit
from qdr_export.graph.canonical import build_canonical
from tests import bundles
from tests.bundles import working_entries
from tests.networks import checkpoint

ROOT = Path(__file__).resolve().parents[2]
FIRMWARE = ROOT / "export" / "firmware"
MONOCYPHER = FIRMWARE / "vendor" / "monocypher" / "monocypher.c"
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


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("libqdr"), "-DQDR_WERROR=ON")


def test_it_builds_without_a_warning_and_passes_its_tests(build: Path) -> None:
    out = run("ctest", "--test-dir", build, "--verbose")
    assert "100% tests passed" in out
    assert "plain C: equal" in out
    assert "plain C: every loop is equal" in out


@pytest.mark.full
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    out = run(
        "ctest", "--test-dir", built(tmp_path, "-DQDR_SANITIZE=ON", "-DQDR_WERROR=ON"), "--verbose"
    )
    assert "100% tests passed" in out
    assert "ran within their memory" in out


def test_an_application_finds_the_installed_package(build: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    run("cmake", "--install", build, "--prefix", prefix)
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


def test_what_a_device_file_must_list_is_written(build: Path) -> None:
    page = (build / "SOUP.md").read_text()
    assert hashlib.sha256(MONOCYPHER.read_bytes()).hexdigest() in page
    assert "@" not in page
    assert "POSIX threads" in page


def test_cpp_frees_what_it_takes_and_throws_what_goes_wrong(build: Path, tmp_path: Path) -> None:
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    (tmp_path / "app.cpp").write_text(
        '#include <cstdio>\n#include "qdr/qdr.hpp"\n'
        "int main() {\n"
        "    const std::uint8_t key[1][QDR_KEY_BYTES] = {}, bundle[100] = {};\n"
        "    const qdr_trust trust{key, 1};\n"
        "    try {\n"
        "        qdr::Device device(bundle, sizeof bundle, trust, 0, 64, 64);\n"
        "        return device.screen(nullptr).decision.outcome;\n"
        "    } catch (const qdr::Error &error) {\n"
        '        std::printf("%d %s\\n", static_cast<int>(error.status()), error.what());\n'
        "    }\n"
        "}\n"
    )
    library = next(build.glob("libqdr.*"))
    run("c++", "-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I",
        FIRMWARE / "include", tmp_path / "app.cpp", library, "-o", tmp_path / "app", "-lm",
        "-pthread")  # fmt: skip
    assert run(tmp_path / "app").startswith("2 the bundle is damaged or not one: ")


def test_the_readmes_example_compiles_as_printed(build: Path, tmp_path: Path) -> None:
    example = re.search(r"```c\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / "example.c").write_text(example.group(1))
    run("cc", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", FIRMWARE / "include",
        "-c", tmp_path / "example.c", "-o", tmp_path / "example.o")  # fmt: skip


def native_bundle(folder: Path) -> tuple[Path, Path, list[Path], list[str]]:
    """A bundle with a native target alone, its key, images, and what Python says of them."""
    if not native.availability().ok:
        pytest.skip(f"libqdr is not built for Python: {native.availability().reason}")
    described, entries = working_entries()
    plan = emit(build_canonical(checkpoint("student", size=bundles.SIZE, labels=bundles.LABELS)))
    session, spec = NativeSession(plan, 1, {}), PreprocessSpec("fundus", bundles.SIZE)
    decided = [vector for vector in described.golden if vector.logits]
    logits = [session.infer(load_image(entries[v.image], spec)[None])[0] for v in decided]
    # Thresholds between two images' logits: each label is positive for exactly one of them.
    middle = tuple(float(value) for value in (logits[0] + logits[1]) / 2)
    rule = DecisionRule(bundles.LABELS, 1.0, middle)
    golden = []
    for vector in described.golden:
        if vector in decided:
            values = logits[decided.index(vector)]
            decision = decide(values, rule, "fundus")
            vector = vector.model_copy(
                update={
                    "logits": {"native": tuple(exact_text(float(v)) for v in values)},
                    "outcome": decision.outcome.value,
                    "positives": tuple(label.code for label in decision.findings),
                }
            )
        golden.append(vector)
    gates = described.decision.gates
    described = described.model_copy(
        update={
            "decision": Decisions.of(rule, gates, fitted_for="test", split="val"),
            "golden": tuple(golden),
            "artefacts": {
                "native": Artefact(entry="artefacts/native.plan", backend="native", opset=19)
            },
        }
    )
    kept = {name: content for name, content in entries.items() if name.startswith("golden/")}
    key = SigningKey.generate()
    path, public = folder / "test.qdr", folder / "maker.pem"
    write_bundle(path, described, {**kept, "artefacts/native.plan": plan}, key)
    key.public.save(public)
    files = [folder / name for name in ("0.png", "1.png", "2.jpg", "turned.jpg", "black.png", "no")]
    pictures = [bundles.fundus(seed) for seed in range(3)]
    files[0].write_bytes(bundles.png(pictures[0]))
    files[1].write_bytes(bundles.png(pictures[1]))
    exif = Image.Exif()
    Image.fromarray(pictures[2]).save(files[2], quality=95)
    exif[0x0112] = 6
    Image.fromarray(np.rot90(pictures[1]).copy()).save(files[3], quality=95, exif=exif)
    files[4].write_bytes(bundles.png(np.zeros((200, 200, 3), np.uint8)))
    files[5].write_bytes(b"no image")
    lines = []
    with qdr_edge.load(path, trust=TrustStore.of(key.public), threads=1) as screener:
        for file in files:
            decision = screener.screen(file)
            line = decision.outcome.value
            line += "".join(f" {x.code} {x.probability:.3f}" for x in decision.findings)
            if decision.reason:
                reason = decision.reason.split(" (")[0]
                line += ": " + ("the image cannot be read" if file == files[5] else reason)
            lines.append(line)
    return path, public, files, lines


def test_the_example_screens_as_python_does(build: Path, tmp_path: Path) -> None:
    """A bundle with a native target: opened, proven and used by the C program, image by image."""
    program = build / "examples" / "screen"
    if not program.is_file():
        pytest.skip("apt install libjpeg-dev libpng-dev")
    path, key, files, expected = native_bundle(tmp_path)
    out = run(program, path, key, *files)
    assert out.splitlines() == [
        f"{file}: {line}" for file, line in zip(files, expected, strict=True)
    ]
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    done = subprocess.run(
        [program, path, key, files[0]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "an entry is not what the manifest says" in done.stderr
    assert done.stdout == ""


def arm(program: Path, march: str, test: Path, sources: list[Path]) -> Path:
    """A test as a program for Arm64; skips where that cannot be compiled and run here."""
    if shutil.which(ARM) is None or shutil.which("qemu-aarch64") is None:
        pytest.skip("apt install gcc-aarch64-linux-gnu qemu-user")
    run(
        ARM, "-std=c11", "-O2", "-static", f"-march={march}", "-ffp-contract=off", "-w", "-I",
        FIRMWARE / "include", "-I", FIRMWARE / "src", test, *sources, "-o", program, "-lm",
    )  # fmt: skip
    return program


@pytest.mark.parametrize(
    ("cpu", "march"),
    [
        ("neoverse-n1", "armv8.2-a+dotprod"),
        ("max", "armv8.2-a+dotprod+i8mm"),
        pytest.param("cortex-a76", "armv8.2-a+dotprod", marks=pytest.mark.full),
        pytest.param("cortex-a53", "armv8-a", marks=pytest.mark.full),
        pytest.param("cortex-a72", "armv8-a", marks=pytest.mark.full),
        pytest.param("a64fx", "armv8-a", marks=pytest.mark.full),
    ],
)
def test_arm_gives_the_same_bits(cpu: str, march: str, tmp_path: Path) -> None:
    sources = [
        *(path for name in ("plan", "kernels") for path in (FIRMWARE / "src" / name).glob("*.c")),
        FIRMWARE / "src" / "status.c",
    ]
    program = arm(tmp_path / "plan", march, FIRMWARE / "tests" / "test_plan.c", sources)
    out = run("qemu-aarch64", "-cpu", cpu, program, DATA)
    assert ("NEON dotprod: equal" in out) == ("dotprod" in march)
    assert ("NEON i8mm: equal" in out) == ("i8mm" in march)
    assert "plain C: equal" in out


def test_every_loop_of_arm_gives_the_same_numbers(tmp_path: Path) -> None:
    kernels, tests = FIRMWARE / "src" / "kernels", FIRMWARE / "tests" / "kernels"
    sources = [*kernels.glob("*.c"), *(FIRMWARE / "src" / "plan").glob("*.c")]
    program = arm(
        tmp_path / "kernels",
        "armv8.2-a+dotprod+i8mm",
        tests / "test_kernels.c",
        [tests / "every_loop.c", *sources],
    )
    out = run("qemu-aarch64", "-cpu", "max", program, 2)
    assert "NEON dotprod: every loop is equal" in out
    assert "NEON i8mm: every loop is equal" in out


@pytest.mark.full
def test_arm_prepares_the_same_pixels(tmp_path: Path) -> None:
    test = FIRMWARE / "tests" / "pixels" / "test_pixels.c"
    sources = [*(FIRMWARE / "src" / "pixels").glob("*.c"), FIRMWARE / "src" / "status.c"]
    run("qemu-aarch64", arm(tmp_path / "pixels", "armv8-a", test, sources))


@pytest.mark.full
@pytest.mark.parametrize("cpu", ["Nehalem", "Haswell", "Skylake-Server", "EPYC"])
def test_x86_processors_of_four_kinds_give_the_same_bits(cpu: str, build: Path) -> None:
    if shutil.which("qemu-x86_64") is None:
        pytest.skip("apt install qemu-user")
    # Qemu warns of what it does not emulate, such as AVX-512: then the next kernels run.
    out = run("qemu-x86_64", "-cpu", cpu, build / "tests" / "test_plan", DATA)
    assert "plain C: equal" in out
    assert ("AVX2: equal" in out) == (cpu != "Nehalem")


def test_a_microcontroller_gives_the_same_bits() -> None:
    if shutil.which("arm-none-eabi-gcc") is None or shutil.which("qemu-system-arm") is None:
        pytest.skip("apt install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm")
    folder = FIRMWARE / "examples" / "bare_metal"
    for cpu in ("cortex-m3", "cortex-m4", "cortex-m7"):
        out = run("make", "-C", folder, "run", f"CPU={cpu}")
        assert "the recorded logits, bit for bit" in out
    run("make", "-C", folder, "clean")
