"""ONNX Runtime and OpenVINO behind libqdr's calls, beside Python's sessions of the same targets."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import qdr_edge
from qdr_edge.bundle import Bundle, write_bundle
from qdr_edge.keys import SigningKey, TrustStore
from qdr_edge.runtime import choose_target, native, open_model
from qdr_edge.runtime.saturation import saturates_here
from qdr_edge.target import version_in
from qdr_export.emit import emitter
from qdr_export.graph.canonical import build_canonical
from tests import bundles
from tests.attacks import models
from tests.e2e.test_firmware import FIRMWARE, built, run
from tests.engine_bundles import BACKENDS, Made, described, vendor
from tests.native_bundles import SANITIZERS, build_c, need_sanitizers, run_c
from tests.networks import checkpoint, images

UNSUPPORTED, BAD_MODEL, ENGINE_FAILED = 5, 6, 11

pytestmark = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("cc") is None,
    reason="cmake or a C compiler is not installed: the engines of libqdr are NOT tested",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    if not native.availability().ok:
        pytest.skip(f"libqdr is not built for Python: {native.availability().reason}")
    runtimes = {
        "QDR_ONNXRUNTIME_LIBRARY": vendor("onnxruntime", "capi/libonnxruntime.so.*"),
        "QDR_OPENVINO_LIBRARY": vendor("openvino", "libs/libopenvino_c.so*"),
    }
    headers = vendor("openvino", "include/openvino/c/openvino.h").parents[2]
    folder = tmp_path_factory.mktemp("engines")
    settings = os.environ.get("QDR_TEST_CMAKE", "").split()
    build = built(
        folder / "build", "-DQDR_WERROR=ON", "-DQDR_OPENVINO=ON",
        f"-DQDR_OPENVINO_INCLUDE={headers}", *settings,
    )  # fmt: skip
    manifest, entries = described()
    key = SigningKey.generate()
    key.public.save(folder / "maker.pem")
    environment = {name: str(path) for name, path in runtimes.items()}
    return Made(build, manifest, entries, key, folder / "maker.pem", environment)


@pytest.mark.parametrize("target", BACKENDS)
def test_every_engine_gives_pythons_logits(made: Made, target: str, tmp_path: Path) -> None:
    pixels = images(12, bundles.SIZE, seed=4)
    (tmp_path / "some.pixels").write_bytes(pixels.tobytes())
    done = made.ask(made.bundle(tmp_path), target, tmp_path / "some.pixels")
    assert (done.returncode, done.stderr) == (0, b"")
    session = open_model(BACKENDS[target][0], made.entries[f"artefacts/{target}"], threads=1)
    expected = session.infer(pixels)
    session.close()
    assert len(np.unique(expected)) > len(pixels)
    np.testing.assert_array_equal(
        np.frombuffer(done.stdout, np.float32).reshape(expected.shape), expected
    )


@pytest.mark.parametrize("target", BACKENDS)
def test_the_example_proves_itself_and_decides_as_python(
    made: Made, target: str, tmp_path: Path
) -> None:
    program = made.build / "examples" / "screen"
    if not program.is_file():
        pytest.skip("apt install libjpeg-dev libpng-dev: the example is NOT tested")
    path = made.bundle(tmp_path)
    files = [tmp_path / f"{seed}.png" for seed in range(4)]
    for seed, file in enumerate(files):
        file.write_bytes(bundles.png(bundles.fundus(seed)))
    done = subprocess.run(
        [program, "--target", target, path, made.pem, *files],
        capture_output=True, text=True, check=False, env={**os.environ, **made.environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "self-test: ok; 4 golden images held" in done.stderr
    assert BACKENDS[target][0] in done.stderr or target == "native"
    lines = []
    with qdr_edge.load(
        path, target=target, trust=TrustStore.of(made.key.public), threads=1
    ) as screener:
        for file in files:
            decision = screener.screen(file)
            words = (f" {label.code} {label.probability:.3f}" for label in decision.findings)
            lines.append(f"{file}: {decision.outcome.value}{''.join(words)}")
    assert done.stdout.splitlines() == lines


def test_a_wrong_golden_logit_stops_every_engine(made: Made, tmp_path: Path) -> None:
    program = made.build / "examples" / "screen"
    if not program.is_file():
        pytest.skip("apt install libjpeg-dev libpng-dev: the example is NOT tested")
    for target in BACKENDS:
        other = build_canonical(checkpoint("student", 1, size=bundles.SIZE, labels=bundles.LABELS))
        path = made.bundle(tmp_path, target, emitter(BACKENDS[target][1])(other))
        done = subprocess.run(
            [program, "--target", target, path, made.pem, tmp_path / "no.png"],
            capture_output=True, text=True, check=False, env={**os.environ, **made.environment},
        )  # fmt: skip
        assert done.returncode == 1
        assert "a golden vector did not come out as recorded" in done.stderr
        assert done.stdout == ""


def test_the_target_is_chosen_as_python_chooses(made: Made, tmp_path: Path) -> None:
    """Each in turn is made impossible; what is taken next is what Python would take."""
    pixels = tmp_path / "none.pixels"
    pixels.write_bytes(b"")
    artefacts = dict(made.manifest.artefacts)
    entries = dict(made.entries)
    for expected in ("ort-x86", "openvino", "openvino-ir", "native"):
        manifest = made.manifest.model_copy(update={"artefacts": artefacts})
        assert choose_target(Bundle(manifest, entries, None, b"", tmp_path)) == expected
        # Only the target that is taken has a damaged model: the status says which it was.
        spoilt = {**entries, artefacts[expected].entry: b"no model"}
        write_bundle(tmp_path / "test.qdr", manifest, spoilt, made.key)
        done = made.ask(tmp_path / "test.qdr", "-", pixels)
        assert done.returncode == BAD_MODEL, expected
        write_bundle(tmp_path / "test.qdr", manifest, entries, made.key)
        assert made.ask(tmp_path / "test.qdr", "-", pixels).returncode == 0
        artefacts[expected] = artefacts[expected].model_copy(update={"runtime": ">=9999"})
    manifest = made.manifest.model_copy(update={"artefacts": artefacts})
    write_bundle(tmp_path / "test.qdr", manifest, entries, made.key)
    said = made.refuses(tmp_path / "test.qdr", "-", UNSUPPORTED)
    assert "no target of the bundle can run here" in said
    assert said.count(">=9999") == 4


def test_an_engine_that_is_missing_is_passed_over_or_named(made: Made, tmp_path: Path) -> None:
    path = made.bundle(tmp_path)
    said = made.refuses(path, "ort-x86", ENGINE_FAILED, QDR_ONNXRUNTIME_LIBRARY="/no/where.so")
    assert "ort-x86: ONNX Runtime cannot be loaded: /no/where.so" in said
    assert "QDR_ONNXRUNTIME_LIBRARY" in said
    said = made.refuses(path, "openvino", ENGINE_FAILED, QDR_OPENVINO_LIBRARY="libm.so.6")
    assert "has no ov_get_openvino_version" in said
    pixels = tmp_path / "none.pixels"
    pixels.write_bytes(b"")
    missing = dict.fromkeys(made.environment, "/no/where.so")
    assert made.ask(path, "-", pixels, missing).returncode == 0  # the native target


def test_what_python_refuses_is_refused(made: Made, tmp_path: Path) -> None:
    said = made.refuses(made.bundle(tmp_path), "nix", UNSUPPORTED)
    assert "the bundle has no target nix" in said
    for target, (backend, _) in BACKENDS.items():
        path = made.bundle(tmp_path, target, options={"session.custom_ops_library": "evil.so"})
        said = made.refuses(path, target, UNSUPPORTED)
        assert f"{target}: option session.custom_ops_library may not be set" in said
        path = made.bundle(tmp_path, target, requires=("moonlight",))
        said = made.refuses(path, target, UNSUPPORTED)
        assert "this machine has no moonlight" in said
        path = made.bundle(tmp_path, target, runtime=">=0.1,<0.2")
        said = made.refuses(path, target, UNSUPPORTED)
        assert f"{target}: {backend} " in said
        assert "is outside the versions this was proven for, >=0.1,<0.2" in said
    path = made.bundle(tmp_path, "ort-x86", backend="onnxruntime-gpu")
    assert "no engine was handed over for onnxruntime-gpu" in made.refuses(
        path, "ort-x86", UNSUPPORTED
    )


RANGES = [
    *("", ">=1", "<2", ">=1.20,<2", " >= 1.20 , < 2 ", ">=1.20.0.0", ">=2", "<1", ">=1,", ",,"),
    *(">=1.0.1", "<1.0.0", ">=1.0.0", "<1.0.0.1", ">=1.0,<1.0.1", "<1.00", ">=01"),
    *(
        "==1",
        ">1",
        "1",
        ">=",
        "<",
        ">=1 <2",
        ">=1.",
        ">=.1",
        ">=1..2",
        ">=a",
        ">=1a",
        "<99999999999",
    ),
]


@pytest.mark.parametrize("accepted", RANGES)
def test_versions_are_compared_as_python_compares(
    made: Made, accepted: str, tmp_path: Path
) -> None:
    """On the native target, whose version is known: 1.0.0."""
    try:
        expected = version_in(native.availability().version, accepted)
    except qdr_edge.QdrError:
        expected = False
    pixels = tmp_path / "none.pixels"
    pixels.write_bytes(b"")
    done = made.ask(made.bundle(tmp_path, "native", runtime=accepted), "native", pixels)
    assert done.returncode == (0 if expected else UNSUPPORTED)


@pytest.mark.parametrize("target", ["ort-x86", "openvino", "openvino-ir"])
def test_damaged_models_are_refused(made: Made, target: str, tmp_path: Path) -> None:
    whole = made.entries[f"artefacts/{target}"]
    for model in (b"", b"no model", whole[: len(whole) // 2], whole[:-1]):
        made.refuses(made.bundle(tmp_path, target, model), target, BAD_MODEL)
    # Another network's interface: four labels in place of three.
    other = build_canonical(checkpoint("student", size=bundles.SIZE))
    path = made.bundle(tmp_path, target, emitter(BACKENDS[target][1])(other))
    assert "as the manifest says" in made.refuses(path, target, BAD_MODEL)


@pytest.mark.parametrize("target", ["ort-x86", "openvino"])
def test_a_model_that_reads_another_file_is_refused(
    made: Made, target: str, tmp_path: Path
) -> None:
    # The file is there: nothing but the look into the model stands before it.
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    where = models.message(13, models.message(1, b"location") + models.message(2, b"weights.bin"))
    for model in (
        models.with_initializer(models.tensor([4]) + where),
        models.with_initializer(models.tensor([4]) + models.integer(14, 1)),
        models.with_node(models.message(5, models.message(5, where))),
    ):
        said = made.refuses(made.bundle(tmp_path, target, model), target, BAD_MODEL)
        assert "it keeps a tensor's data in another file" in said


def test_a_constant_outside_the_weights_is_refused(made: Made, tmp_path: Path) -> None:
    whole = made.entries["artefacts/openvino-ir"]
    assert whole.count(b' offset="0" size="') > 0
    model = whole.replace(b' offset="0" size="', b' offset="9" size="', 1)[:-1]
    said = made.refuses(made.bundle(tmp_path, "openvino-ir", model), "openvino-ir", BAD_MODEL)
    assert "lies outside the weights" in said


@pytest.mark.full
@pytest.mark.parametrize("target", ["ort-x86", "openvino-ir"])
def test_mutated_models_are_looked_at_within_their_memory(
    made: Made, target: str, tmp_path: Path
) -> None:
    need_sanitizers(tmp_path)
    engines = FIRMWARE / "src" / "engines"
    sources = [
        *(FIRMWARE / "tests" / "engines" / "fuzz_look.c", FIRMWARE / "examples" / "keys.c"),
        *(engines / "onnx.c", engines / "ir.c"),
    ]
    folders = [FIRMWARE / name for name in ("src", "tests", "examples")]
    options = [*SANITIZERS, *(f"-I{folder}" for folder in folders)]
    program = build_c(tmp_path, options=options, sources=sources, name="fuzz_look")
    (tmp_path / "model").write_bytes(made.entries[f"artefacts/{target}"])
    assert "all were read within their memory" in run_c(program, tmp_path / "model", 2000, 1)


def test_a_bundles_options_reach_the_runtime(made: Made, tmp_path: Path) -> None:
    """Without exact kernels wide weights saturate here; a bundle that asks for that gets it, as it
    would from Python."""
    if not saturates_here(made.entries["artefacts/ort-x86"]):
        pytest.skip("this processor has VNNI: an option that changes logits is NOT tested")
    pixels = images(4, bundles.SIZE, seed=4)
    (tmp_path / "some.pixels").write_bytes(pixels.tobytes())
    options = {"session.x64quantprecision": "0"}
    path = made.bundle(tmp_path, "ort-x86", options=options)
    done = made.ask(path, "ort-x86", tmp_path / "some.pixels")
    model = made.entries["artefacts/ort-x86"]
    found = np.frombuffer(done.stdout, np.float32).reshape(4, -1)
    exact = open_model("onnxruntime", model, threads=1).infer(pixels)
    asked = open_model("onnxruntime", model, threads=1, options=options).infer(pixels)
    assert not np.array_equal(exact, asked)
    np.testing.assert_array_equal(found, asked)


def test_the_pages_example_compiles_as_printed(tmp_path: Path) -> None:
    page = (FIRMWARE.parents[1] / "docs" / "native.md").read_text()
    example = page.split("```c\n")[2].split("```")[0]
    (tmp_path / "example.c").write_text(example)
    run("cc", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-I",
        FIRMWARE / "include", tmp_path / "example.c")  # fmt: skip


def test_cpp_opens_an_engine_and_ends_it(made: Made, tmp_path: Path) -> None:
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler: qdr.hpp is NOT tested with engines")
    path = made.bundle(tmp_path)
    numbers = ",".join(map(str, made.key.public.raw))
    (tmp_path / "app.cpp").write_text(
        "#include <cstdio>\n#include <fstream>\n#include <iterator>\n#include <vector>\n"
        '#include "qdr/qdr.hpp"\n'
        "int main(int, char **v) {\n"
        f"    const std::uint8_t key[1][QDR_KEY_BYTES] = {{{{{numbers}}}}};\n"
        "    const qdr_trust trust{key, 1};\n"
        "    std::ifstream file(v[1], std::ios::binary);\n"
        "    const std::vector<char> all((std::istreambuf_iterator<char>(file)), {});\n"
        "    const qdr_engine engines[] = {qdr_onnxruntime(nullptr)};\n"
        '    qdr_selection how{"ort-x86", engines, 1, 1, ""};\n'
        "    const auto *bytes = reinterpret_cast<const std::uint8_t *>(all.data());\n"
        "    qdr::Device device(bytes, all.size(), trust, 0, 64, 64, nullptr, &how);\n"
        "    std::vector<std::uint8_t> gray(64 * 64, 100);\n"
        "    const qdr_pixels_image image{gray.data(), 64, 64, 64, 1, 1};\n"
        "    const qdr_result result = device.screen(&image);\n"
        '    std::printf("%s %d\\n", device.handle().engine.backend, result.decision.outcome);\n'
        "}\n"
    )
    run("c++", "-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I",
        FIRMWARE / "include", tmp_path / "app.cpp", made.build / "libqdr_onnxruntime.a",
        made.build / "libqdr.a", "-o", tmp_path / "app", "-lm", "-pthread", "-ldl",
        *(SANITIZERS if "QDR_TEST_CMAKE" in os.environ else ()))  # fmt: skip
    done = subprocess.run(
        [tmp_path / "app", path], capture_output=True, text=True, check=True,
        env={**os.environ, **made.environment},
    )  # fmt: skip
    assert done.stdout.startswith("onnxruntime ")


def test_the_core_needs_no_runtime(made: Made) -> None:
    """Neither the core nor a program that has the engines needs a vendor's library to start."""
    symbols = run("nm", "--undefined-only", made.build / "libqdr.a")
    assert not {"dlopen", "malloc", "calloc", "free", "fopen"} & set(symbols.split())
    assert "onnxruntime" not in run("ldd", made.build / "tests" / "ask")
    page = (made.build / "SOUP.md").read_text()
    assert "onnxruntime_c_api.h" in page
    assert "openvino/c/openvino.h" in page
