"""The run directory: made once, never overwritten, resumed only with what it was made with."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdr_edge.errors import CheckpointError, DatasetError, OutputError, RecipeError
from qdr_edge.files import atomic_write, make_folder, sha256_bytes
from qdr_edge.labels import LabelSet
from qdr_edge.samples import SampleSet, read_csv, write_csv
from qdr_train.recipe import Recipe
from qdr_train.recipe.files import dump_recipe, load_recipe

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "qdr-run"
VERSION = 1
RUN_FILE, RECIPE_FILE, DATA_FILE, LOCK_FILE = "run.json", "recipe.yaml", "data.csv", ".lock"
OWN_WEIGHTS = "own-weights.safetensors"
"""What a user's own network begins with."""

BEGINNING = "beginning"
"""The status of a run whose folder is not complete yet: there is nothing in it to resume."""

# What a killed process leaves of a file that it was about to replace.
_LEFTOVER = re.compile(r"\.[\w-]+\.(json|yaml|csv|safetensors)\.[a-z0-9_]{8}")


@dataclass
class Run:
    """A run directory and what it holds.

    Args:
        folder: Where.
        recipe: What to train.
        samples: The images, every split filled in.
        record: The content of run.json.
        writes: Whether this process is the one that writes run.json.
    """

    folder: Path
    recipe: Recipe
    samples: SampleSet
    record: dict[str, Any] = field(default_factory=dict)
    writes: bool = True

    @property
    def recipe_sha256(self) -> str:
        """Fingerprint of the complete recipe."""
        return sha256_bytes(dump_recipe(self.recipe).encode())

    @property
    def synthetic(self) -> bool:
        """Whether the images are synthetic."""
        return bool(self.record["synthetic"])

    def stage(self, name: str) -> dict[str, Any]:
        """The entry of a stage in run.json."""
        entry: dict[str, Any] = next(e for e in self.record["stages"] if e["name"] == name)
        return entry

    def own_weights(self) -> dict[str, Tensor]:
        """The weights that a user's own network begins with.

        Raises:
            CheckpointError: They are not those that the run began with.
        """
        import safetensors.torch

        path = self.folder / OWN_WEIGHTS
        content = path.read_bytes() if path.is_file() else b""
        if sha256_bytes(content) != self.record.get("own_weights_sha256"):
            raise CheckpointError(
                "not the weights that the run began with" if content else "missing",
                where=str(path),
                expected="the file as it was written",
                fix="restore it, or begin again in another folder",
            )
        return safetensors.torch.load(content)

    def save(self) -> None:
        """Write run.json, in one of several processes."""
        if self.writes:
            atomic_write(self.folder / RUN_FILE, json.dumps(self.record, indent=1, allow_nan=False))


def require_vacant(folder: Path) -> None:
    """Check that a run directory can be made here without touching anything.

    Raises:
        OutputError: Something stands there already.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(
            "it is a file", where=str(folder), expected="a new folder", fix="name another --out"
        )
    if folder.is_dir() and not _is_vacant(folder):
        is_run = (folder / RUN_FILE).is_file()
        raise OutputError(
            "the folder holds a training run" if is_run else "the folder is not empty",
            where=str(folder),
            expected="a new or empty folder",
            fix="continue it with --resume or name another --out"
            if is_run
            else "name another --out; nothing was touched",
        )


def create_run(
    folder: Path,
    recipe: Recipe,
    samples: SampleSet,
    facts: dict[str, Any],
    own_weights: bytes | None = None,
) -> Run:
    """Make a run directory.

    Args:
        folder: Must be missing or empty.
        recipe: Complete recipe.
        samples: With splits.
        facts: What else run.json records.
        own_weights: What a user's own network begins with, as a safetensors file.

    Raises:
        OutputError: Something stands there already, or it cannot be written.
    """
    require_vacant(folder)
    make_folder(folder)
    run = Run(folder, recipe, samples)
    run.record = {
        "format": FORMAT,
        "version": VERSION,
        "name": recipe.name,
        "seed": recipe.seed,
        "status": BEGINNING,
        "recipe_sha256": run.recipe_sha256,
        "data_sha256": samples.sha256,
        "labels": samples.labels.to_dict(),
        **facts,
        **({"own_weights_sha256": sha256_bytes(own_weights)} if own_weights else {}),
        "stages": [
            {"name": n, "role": s.role, "modality": s.modality, "status": "waiting"}
            for n, s in recipe.stages.items()
        ],
    }
    # First, to say whose the other files are if this process is killed before the last line.
    run.save()
    atomic_write(folder / RECIPE_FILE, dump_recipe(recipe))
    write_csv(folder / DATA_FILE, samples)
    if own_weights:
        atomic_write(folder / OWN_WEIGHTS, own_weights)
    run.record["status"] = "running"
    run.save()
    sweep(run)
    return run


def open_run(folder: Path, recipe: Recipe | None = None) -> Run:
    """An existing run directory, to continue it.

    Args:
        folder: Where.
        recipe: If given, must be the recipe of the run.

    Raises:
        CheckpointError: No run there, or of another format.
        RecipeError: The recipe is another one.
        DatasetError: Images or rows have changed.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        raise CheckpointError(
            "no training run to resume here",
            where=str(folder),
            expected=f"a folder with {RUN_FILE}",
            fix="leave --resume out to begin one",
        )
    try:
        record = json.loads(path.read_bytes())
        if (record["format"], record["version"]) != (FORMAT, VERSION):
            raise ValueError(f"format {record['format']} version {record['version']}")
        labels = LabelSet.from_dict(record["labels"])
        expected = record["recipe_sha256"], record["data_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"not a training run: {error}",
            where=str(path),
            expected=f"{FORMAT} version {VERSION}",
            fix="begin again in another folder",
        ) from error
    if record["status"] == BEGINNING:
        raise CheckpointError(
            "the run was stopped before it began to train",
            where=str(folder),
            expected="a run with something to resume",
            fix="begin it again: leave --resume out",
        )
    run = Run(folder, load_recipe(folder / RECIPE_FILE), read_csv(folder / DATA_FILE, labels))
    run.record = record
    if run.recipe_sha256 != expected[0]:
        raise RecipeError(
            "the recipe was edited after the run began",
            where=str(folder / RECIPE_FILE),
            expected="the recipe as it was",
            fix="undo the edit, or train the new recipe into another --out",
        )
    if recipe is not None and dump_recipe(recipe) != dump_recipe(run.recipe):
        raise RecipeError(
            f"not the recipe of this run: {_first_difference(recipe, run.recipe)}",
            where=str(folder),
            expected="the same recipe and options as when the run began",
            fix="resume without naming a recipe, or name another --out",
        )
    if run.samples.sha256 != expected[1]:
        raise DatasetError(
            "rows or image files have changed since the run began",
            where=str(folder / DATA_FILE),
            expected="the data it began with",
            fix="restore them, or train into another --out",
        )
    return run


def sweep(run: Run) -> None:
    """Remove what killed processes left half written; only while the run is locked."""
    for folder in (run.folder, *(run.folder / name for name in run.recipe.stages)):
        for path in folder.glob(".*") if folder.is_dir() else ():
            if _LEFTOVER.fullmatch(path.name):
                path.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run directory alone.

    Raises:
        OutputError: Another process trains in it.
    """
    make_folder(folder)
    try:
        handle = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror}", where=str(folder)) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(
                "another process is training in this folder",
                where=str(folder),
                expected="one process a run",
                fix="wait for it, or name another --out",
            ) from error
        yield


def _is_vacant(folder: Path) -> bool:
    """Whether a folder holds nothing, or no more than a run that was killed as it was made."""
    names = {e.name for e in folder.iterdir() if not _LEFTOVER.fullmatch(e.name)} - {LOCK_FILE}
    if not names <= {RUN_FILE, RECIPE_FILE, DATA_FILE, OWN_WEIGHTS}:
        return False
    if RUN_FILE not in names:
        return not names
    try:
        record = json.loads((folder / RUN_FILE).read_bytes())
        return (record["format"], record["status"]) == (FORMAT, BEGINNING)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _first_difference(left: Recipe, right: Recipe) -> str:
    flat = [dict(_flatten("", recipe.model_dump(mode="json"))) for recipe in (left, right)]
    for key in sorted({*flat[0], *flat[1]}):
        if flat[0].get(key) != flat[1].get(key):
            return f"{key} is {flat[0].get(key)!r}, in the run {flat[1].get(key)!r}"
    return "their stages stand in another order"


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else str(key), below)
    else:
        yield prefix, value
