"""The real TensorRT bindings of two versions, without TensorRT's libraries.

The bindings package holds the compiled Python module, which needs nine C symbols of the libraries.
Three shared objects that define them as empty functions let it be imported: every class, enum and
signature is NVIDIA's own, and whatever would need a GPU comes back as a null pointer. Everything is
downloaded into a temporary folder and nothing of it is kept.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
SYMBOLS = """
    createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL
    createNvOnnxParser_INTERNAL createNvOnnxParserRefitter_INTERNAL getBuilderPluginRegistry
    getNvOnnxParserVersion getPluginRegistry initLibNvInferPlugins
"""


@dataclass(frozen=True)
class Api:
    """One version's bindings, importable as `tensorrt` in a process of their own.

    Args:
        version: TensorRT's version.
        libraries: Folder of the empty shared objects.
        package: Folder that holds the package `tensorrt`.
        stubs: Folder that holds its type stubs.
        untyped: Functions whose signature the stubs cannot say.
    """

    version: str
    libraries: Path
    package: Path
    stubs: Path
    untyped: frozenset[str]

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    def run(self, code: str, *, libraries: bool = True) -> Any:
        """Run Python code where `tensorrt` is the real module; returns what it hands to `done`.

        Without `libraries` only the package is there, as where JetPack's are not on the path.
        """
        program = f"import json\ndone = lambda x: print('\\n' + json.dumps(x))\n{code}"
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            env=os.environ
            | {
                "LD_LIBRARY_PATH": str(self.libraries) if libraries else "",
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(self.package)]),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout.splitlines()[-1])


def install(folder: Path, *arguments: str) -> None:
    """pip install into a folder, or skip the test and say why."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = next((x for x in result.stderr.splitlines()[::-1] if x.startswith("ERROR")), "?")
        pytest.skip(f"NOT CHECKED: pip cannot install {' '.join(arguments)}: {reason}")


@pytest.fixture(scope="session")
def stubgen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of pybind11-stubgen."""
    folder = tmp_path_factory.mktemp("stubgen")
    install(folder, "pybind11-stubgen==3.0.0")
    return folder


@pytest.fixture(
    scope="session",
    params=["tensorrt-cu12-bindings==10.3.0", "tensorrt-cu13-bindings==11.4.0.106"],
    ids=["10.3", "11.4"],
)
def api(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, stubgen: Path
) -> Api:
    """The bindings of TensorRT 10.3 (JetPack 6) and of 11.4."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("NOT CHECKED: there is no gcc")
    version = request.param.partition("==")[2]
    folder = tmp_path_factory.mktemp(f"tensorrt-{version}")
    install(folder / "site", "--no-deps", request.param)
    package = folder / "package"
    shutil.copytree(folder / "site" / "tensorrt_bindings", package / "tensorrt")
    libraries = folder / "libraries"
    libraries.mkdir()
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in SYMBOLS.split()))
    for name in LIBRARIES:
        file = f"lib{name}.so.{version.split('.')[0]}"
        options = ["-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", str(libraries / file)]
        subprocess.run([gcc, *options, str(source)], check=True)
    stubs = folder / "stubs"
    subprocess.run(
        [sys.executable, "-m", "pybind11_stubgen", "tensorrt", "--output-dir", str(stubs)],
        env=os.environ
        | {
            "LD_LIBRARY_PATH": str(libraries),
            "PYTHONPATH": os.pathsep.join([str(package), str(stubgen)]),
        },
        capture_output=True,
        check=True,
    )
    untyped = _mend(stubs / "tensorrt" / "tensorrt.pyi")
    return Api(version, libraries, package, stubs, untyped)


def _mend(stub: Path) -> frozenset[str]:
    """Make a generated stub readable; returns the functions whose signature had to be given up."""
    text = stub.read_text()
    # The module has a member called bool, which would stand for the type.
    text = re.sub(r"(-> |: |\[)bool\b(?!:)", r"\1builtins.bool", text)
    lines = ["import builtins", *text.splitlines()]
    if lines[1].startswith("from __future__"):
        lines[:2] = [lines[1], lines[0]]
    given_up = set()
    while (number := _broken_line("\n".join(lines))) is not None:
        found = re.match(r"(\s*)def (\w+)\(", lines[number])
        assert found is not None, lines[number]
        lines[number] = f"{found[1]}def {found[2]}(self, *a: typing.Any) -> typing.Any:"
        given_up.add(found[2])
    stub.write_text("\n".join(lines) + "\n")
    return frozenset(given_up)


def _broken_line(text: str) -> int | None:
    """Index of the first line that is no Python."""
    try:
        ast.parse(text)
    except SyntaxError as error:
        return (error.lineno or 1) - 1
    return None
