"""The commands as a user types them: output, exit codes, one line for every error."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qdr_edge.bundle import write_bundle
from qdr_edge.cli import main
from qdr_edge.commands.show import printable
from qdr_edge.keys import SigningKey, trust
from qdr_edge.manifest import Manifest
from tests.bundles import ORT, fundus, onnx_model, png, working_entries

KEY = SigningKey.generate()
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def parts() -> tuple[Manifest, dict[str, bytes]]:
    return working_entries()


@pytest.fixture
def files(
    parts: tuple[Manifest, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setenv("QDR_EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    trust(KEY.public)
    write_bundle(tmp_path / "good.qdr", *parts, KEY)
    write_bundle(tmp_path / "unsigned.qdr", *parts, None)
    (tmp_path / "eye.png").write_bytes(png(fundus()))
    (tmp_path / "text.png").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(files: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(list(arguments))
        out, err = capsys.readouterr()
        code = caught.value.code
        return (code if isinstance(code, int) else 1), out, err

    return call


def test_run_prints_a_table(run: Run) -> None:
    code, out, err = run("run", "good.qdr", "eye.png", "text.png", "--threads", "1")
    assert (code, err) == (0, "")
    assert "eye.png" in out
    assert "INVALID_INPUT" in out
    assert "POSITIVE" in out or "NEGATIVE" in out
    assert "SYNTHETIC" in out
    assert "not a medical device" in out


def test_run_prints_json(run: Run) -> None:
    code, out, _ = run(
        "run", "good.qdr", "eye.png", "missing.png", "--json", "--target", "openvino"
    )
    assert code == 0
    document = json.loads(out)
    assert document["target"] == "openvino"
    assert document["signed_by"] == KEY.key_id
    good, bad = document["results"]
    assert good["outcome"] in ("POSITIVE", "NEGATIVE")
    assert {label["code"] for label in good["labels"]} == {"NOR", "AMD", "DR"}
    assert good["ms"] > 0
    assert bad["outcome"] == "INVALID_INPUT"
    assert bad["reason"]


def test_run_with_no_readable_image_has_the_images_exit_code(run: Run) -> None:
    code, out, _ = run("run", "good.qdr", "text.png", "missing.png")
    assert code == 3
    assert out.count("INVALID_INPUT") == 2


def test_run_on_an_unsigned_bundle_needs_a_word_and_says_so(run: Run) -> None:
    code, out, err = run("run", "unsigned.qdr", "eye.png")
    assert (code, out) == (8, "")
    assert "--allow-unsigned" in err
    code, out, _ = run("run", "unsigned.qdr", "eye.png", "--allow-unsigned")
    assert code == 0
    assert "UNSIGNED" in out


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda data: data[:-100], 7, "truncated"),
        (lambda data: data[:200] + b"X" + data[201:], 8, "tampered"),
        (lambda _: b"", 7, "empty"),
        (lambda _: b"hello" * 100, 7, "not a bundle"),
    ],
    ids=["truncated", "tampered", "empty", "text"],
)
@pytest.mark.parametrize("command", ["run", "verify"])
def test_a_damaged_bundle_is_one_line(
    run: Run, files: Path, command: str, change: Any, code: int, message: str
) -> None:
    (files / "bad.qdr").write_bytes(change((files / "good.qdr").read_bytes()))
    arguments = [command, "bad.qdr"] + (["eye.png"] if command == "run" else [])
    found, _, err = run(*arguments)
    assert found == code
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("error: bad.qdr")


def test_a_target_without_its_runtime_or_machine(run: Run) -> None:
    code, _, err = run("run", "good.qdr", "eye.png", "--target", "nothing")
    assert code == 9
    assert "ort-x86" in err
    code, _, err = run("verify", "good.qdr", "--target", "tensorrt-10")
    assert code in (9, 10, 11)
    assert "tensorrt" in err


def test_verify_prints_each_step_that_held(run: Run) -> None:
    code, out, err = run("verify", "good.qdr")
    assert (code, err) == (0, "")
    for step in ("container:", "signature:", "versions:", "hashes:", "ort-x86: self-test of 4"):
        assert step in out
    assert "openvino: self-test of 4 golden vectors, 2 through" in out
    code, _, err = run("verify", "good.qdr", "--minimum-security-version", "1")
    assert code == 9
    code, out, _ = run("verify", "unsigned.qdr", "--allow-unsigned", "--target", "ort-x86")
    assert code == 0
    assert "UNSIGNED" in out
    assert "openvino" not in out


def test_verify_with_given_keys_ignores_the_trust_store(run: Run, files: Path) -> None:
    other = SigningKey.generate().public
    (files / "other.pem").write_bytes(other.to_pem())
    (files / "key.pem").write_bytes(KEY.public.to_pem())
    assert run("verify", "good.qdr", "--key", "other.pem")[0] == 8
    assert run("verify", "good.qdr", "--key", "key.pem", "--target", "ort-x86")[0] == 0
    assert run("verify", "good.qdr", "--key", "missing.pem")[0] == 8


def test_verify_reports_a_failed_self_test(
    run: Run, files: Path, parts: tuple[Manifest, dict[str, bytes]]
) -> None:
    manifest, entries = parts
    write_bundle(files / "other.qdr", manifest, {**entries, ORT: onnx_model(seed=5)}, KEY)
    code, out, err = run("verify", "other.qdr", "--target", "ort-x86")
    assert code == 11
    assert "hashes:" in out
    assert "golden vector" in err


def test_inspect_shows_the_manifest(run: Run) -> None:
    code, out, _ = run("inspect", "good.qdr")
    assert code == 0
    for text in ("test-fundus", f"valid, key {KEY.key_id}", "ort-x86", "logit >=", "SYNTHETIC"):
        assert text in out
    code, out, _ = run("inspect", "unsigned.qdr", "--json")
    document = json.loads(out)
    assert code == 0
    assert "unsigned" in document["signature"]
    assert document["manifest"]["bundle_id"] == "test-fundus"
    assert run("inspect", "missing.qdr")[0] == 7


def test_doctor_names_what_is_missing(run: Run) -> None:
    code, out, _ = run("doctor", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["trust"]["keys"] == [KEY.key_id]
    assert document["cores"] >= 1
    for name, here in document["backends"].items():
        assert here["ok"] or here["install"] or here["reason"], name
    code, table, _ = run("doctor")
    assert code == 0
    for name, here in document["backends"].items():
        assert name in table
        assert here["ok"] or (here["install"] or here["reason"])[:20] in table
    assert KEY.key_id in table


def test_doctor_survives_a_damaged_trust_store(run: Run, files: Path) -> None:
    (files / "home" / "trust" / "bad.pem").write_text("damaged")
    code, out, _ = run("doctor", "--json")
    assert code == 0
    assert "bad.pem" in json.loads(out)["trust"]["problem"]


def test_text_of_a_file_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[31mb\nc\u202ed") == "a?[31mb?c?d"


def test_names_in_a_manifest_are_shown_as_they_are(
    run: Run, files: Path, parts: tuple[Manifest, dict[str, bytes]]
) -> None:
    manifest, entries = parts
    labels = manifest.labels.model_copy(update={"name": "[red]x[/red]\x1b[2J"})
    hostile = manifest.model_copy(
        update={"labels": labels, "provenance": {"[bold]k\x1b": "[link=x]v"}}
    )
    write_bundle(files / "hostile.qdr", hostile, entries, KEY)
    code, out, _ = run("inspect", "hostile.qdr")
    assert code == 0
    assert "Labels: [red]x[/red]?[2J" in out
    assert "[bold]k?" in out
    assert "[link=x]v" in out
    assert "\x1b" not in out


def test_command_modules_import_nothing_heavy() -> None:
    modules = "import qdr_edge.commands.run, qdr_edge.commands.inspect, "
    modules += "qdr_edge.commands.verify, qdr_edge.commands.keys, qdr_edge.commands.install, "
    modules += "qdr_edge.commands.doctor, sys; "
    heavy = ["numpy", "cv2", "onnxruntime", "openvino", "torch", "cryptography", "pydantic"]
    code = f"{modules}print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
