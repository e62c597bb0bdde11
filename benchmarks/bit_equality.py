"""Equal bits on every runtime, or how far from it: ``python benchmarks/bit_equality.py``.

Three families of networks are calibrated on synthetic eyes and exported under each scheme. Every
form then answers the same images: the trainer's folded network, the integer reference, ONNX Runtime
with its quantization rewrites on and off, and OpenVINO; the runtimes once more in a child process
that oneDNN holds to AVX2. Under the exact schemes every logit
must be equal bit for bit; under the others at most 0.2 % of the decisions may flip.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from qdr_bench.built import ROOT, build, prepare, run_script
from qdr_edge.bundle import read_bundle
from qdr_edge.checkpoint import load_checkpoint
from qdr_edge.decision import label_decisions
from qdr_edge.files import atomic_write
from qdr_edge.preprocess import PreprocessSpec, load_image
from qdr_edge.runtime import open_model
from qdr_edge.samples import read_csv
from qdr_edge.scheme import SCHEMES, QuantScheme
from qdr_export.proof.rungs import AS_WRITTEN
from qdr_export.reference import Reference
from qdr_export.sealing.seal import CANONICAL_ENTRY

FAMILIES = ("qdr-small", "resnet50", "mobilenetv3-small")
TARGETS = ("ort-x86", "openvino")
MAX_FLIPS = 0.002
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
STAGE = "student-fundus"
_BATCH = 16


@dataclass(frozen=True)
class Row:
    """One form of one network on all images."""

    family: str
    scheme: str
    form: str
    source: str
    images: int
    equal: int
    decisions: int
    flips: int
    steps: float

    @property
    def holds(self) -> bool:
        """Whether it is what the scheme promises."""
        if QuantScheme.named(self.scheme).power_of_two:
            return self.equal == self.images
        return self.flips <= MAX_FLIPS * self.decisions


def main() -> int:
    """Make, run, compare, print; return 1 if a promise does not hold."""
    names = [scheme.name for scheme in SCHEMES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "bit-equality")
    parser.add_argument("--patients", type=int, default=360, help="about 2.8 images each")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument(
        "--schemes", nargs="+", choices=names, default=names, help="default: every scheme"
    )
    parser.add_argument(
        "--real", type=Path, nargs="+", default=[], help="CSV tables and folders of more images"
    )
    parser.add_argument("--report", type=Path, help="also write everything as JSON here")
    parser.add_argument("--child", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        np.savez(options.child[1], **_runtimes(options.child[0], np.load(options.child[1])["x"]))
        return 0
    folder = options.build.resolve()
    table = prepare(folder, patients=options.patients, size=2 * options.size)
    synthetic, real = _images([table]), _images(options.real)
    rows: list[Row] = []
    for family in options.families:
        for scheme in options.schemes:
            settings = (
                f"size={options.size}",
                f"scheme={scheme}",
                "data.max_images=200",
                f"stages.{STAGE}.model.name={family}",
                f"stages.{STAGE}.calibration_images=64",
            )
            bundle = build("student-latency", folder, table, name=f"{family}-{scheme}",
                           settings=settings, targets=TARGETS)  # fmt: skip
            rows += compare(family, scheme, bundle, "synthetic", synthetic)
            if real:
                rows += compare(family, scheme, bundle, "real", real)
    show(rows, Console(width=120))
    if options.report:
        document = [{**asdict(row), "holds": row.holds} for row in rows]
        atomic_write(options.report, json.dumps(document, indent=1) + "\n")
        print(f"saved {options.report}")
    return 0 if all(row.holds for row in rows) else 1


def _images(sources: list[Path]) -> list[Path]:
    """Every image of some tables and folders, scans too: to equal bits all pixels are alike."""
    files: list[Path] = []
    for source in sources:
        if source.is_dir():
            files += sorted(file for file in source.iterdir() if file.is_file())
        else:
            files += [sample.file for sample in read_csv(source)]
    return files


def compare(family: str, scheme: str, path: Path, source: str, files: list[Path]) -> list[Row]:
    """Every form of one bundle beside its reference."""
    bundle = read_bundle(path)
    manifest = bundle.manifest
    spec = PreprocessSpec.from_dict(dict(manifest.preprocess.spec))
    pixels = np.stack([load_image(file, spec) for file in files])
    reference = Reference(bundle.entries[CANONICAL_ENTRY])
    starts = range(0, len(pixels), _BATCH)
    expected = np.concatenate([reference.infer(pixels[i : i + _BATCH]) for i in starts])
    rule = manifest.decision.rule(manifest.labels.label_set())
    step = float(np.abs(expected).max()) / 127
    forms = {"folded torch": _trainer(path.parent.parent, pixels), **_runtimes(path, pixels)}
    forms |= {f"{name}, AVX2": found for name, found in _in_child(path, pixels).items()}
    rows = []
    for name, found in forms.items():
        flips = int((label_decisions(found, rule) != label_decisions(expected, rule)).sum())
        equal = int((found == expected).all(axis=1).sum())
        steps = float(np.abs(found - expected).max()) / step if step else 0.0
        rows.append(Row(family, scheme, name, source, len(found), equal, found.size, flips, steps))
    return rows


def show(rows: list[Row], console: Console) -> None:
    """Print one line a form."""
    table = Table(title="Against the integer reference", title_justify="left")
    for column in ("network", "scheme", "form", "images are"):
        table.add_column(column)
    for column in ("images", "equal", "flips", "steps, max"):
        table.add_column(column, justify="right")
    table.add_column("")
    for row in rows:
        flips = f"{row.flips} of {row.decisions}"
        verdict = "[green]PASS[/]" if row.holds else "[bold red]FAIL[/]"
        steps = f"{row.steps:.2f}"
        table.add_row(row.family, row.scheme, row.form, row.source, str(row.images),
                      str(row.equal), flips, steps, verdict)  # fmt: skip
    console.print(table)


def _runtimes(path: Path, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    bundle = read_bundle(path)
    forms = {
        "ort-x86": ("ort-x86", {}),
        "ort-x86, rewrites off": ("ort-x86", AS_WRITTEN),
        "openvino": ("openvino", {}),
    }
    found = {}
    for name, (target, options) in forms.items():
        artefact = bundle.artefact(target)
        session = open_model(artefact.backend, bundle.entries[artefact.entry], options=options)
        found[name] = session.infer(pixels)
        session.close()
    return found


def _in_child(path: Path, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """The same in a process whose oneDNN may use AVX2 only; it reads that when it is loaded."""
    with tempfile.TemporaryDirectory() as folder:
        exchange = Path(folder, "x.npz")
        np.savez(exchange, x=pixels)
        command = [sys.executable, __file__, "--child", str(path), str(exchange)]
        subprocess.run(command, check=True, env={**os.environ, **AVX2})
        with np.load(exchange) as answers:
            return {name: answers[name] for name in answers.files}


def _trainer(run: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits of the network that the run selected, folded, in torch."""
    import torch

    from qdr_train.data.images import network_input
    from qdr_train.engine.networks import BEST_QAT, new_network
    from qdr_train.engine.state import load_state
    from qdr_train.quant import qat
    from qdr_train.recipe import StudentStage
    from qdr_train.recipe.files import load_recipe

    recipe = load_recipe(run / "recipe.yaml")
    stage = recipe.stages[STAGE]
    assert isinstance(stage, StudentStage)
    labels = load_checkpoint(run / STAGE).labels
    network = qat.prepare_qat(
        new_network(stage, recipe, labels), recipe.quant_scheme(), stage.quantization
    )
    network.load_state_dict(load_state(run / STAGE, BEST_QAT)[0])
    folded = qat.reference_form(network)
    with torch.inference_mode():
        parts = torch.split(torch.from_numpy(pixels), _BATCH)
        return np.concatenate([folded(network_input(part)).numpy() for part in parts])


if __name__ == "__main__":
    run_script(main)
