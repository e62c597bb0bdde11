"""What a device imports is light, and the public names are the documented ones."""

import subprocess
import sys

import qdr_edge

HEAVY = ("torch", "cv2", "PIL", "onnxruntime", "openvino", "cryptography", "pydantic", "numpy")


def _loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_import_loads_nothing_heavy():
    assert _loaded_after("import qdr_edge") == set()


def test_listing_every_command_loads_nothing_heavy():
    statement = (
        "import contextlib, io\nfrom qdr_edge.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(['--help'])"
    )
    assert _loaded_after(statement) == set()


def test_all_names_exist_and_are_the_public_ones():
    assert sorted(qdr_edge.__all__) == qdr_edge.__all__ == dir(qdr_edge)
    for name in qdr_edge.__all__:
        assert getattr(qdr_edge, name) is not None


def test_opening_a_bundle_needs_no_torch():
    assert "torch" not in _loaded_after("import qdr_edge; qdr_edge.load")
