"""Reading recipes: find the file, apply overrides, validate, and name the nearest valid key."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from qdr_edge.errors import QdrError, RecipeError
from qdr_train.recipe import Recipe, StudentStage, TeacherStage

EXTENDS = "extends"
ROLES = ("teacher", "student")
EPOCH_KEYS = ("epochs", "qat_epochs", "frozen_epochs")


class _Loader(yaml.SafeLoader):
    """YAML that reads 1e-3 as a number: YAML 1.1 asks for a dot and takes it for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def recipe_folders() -> tuple[Path, ...]:
    """Where recipes that ship with qdr-edge lie: beside the package, or inside it in a wheel."""
    package = Path(__file__).parents[1]
    return package.parent / "recipes", package / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Name to file of every shipped recipe, by name."""
    found = {p.stem: p for f in recipe_folders() if f.is_dir() for p in f.glob("*.yaml")}
    return dict(sorted(found.items()))


def find_recipe(name: str) -> Path:
    """The file of a recipe given by path or by name.

    Raises:
        RecipeError: There is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    near = difflib.get_close_matches(path.stem, shipped, n=1)
    raise RecipeError(
        "no such recipe",
        where=name,
        expected=f"a YAML file or one of {', '.join(shipped)}",
        fix=f"did you mean {near[0]}?" if near else "`qdr-edge train --list` explains them",
    )


def load_recipe(
    path: Path,
    *,
    overrides: Iterable[str] = (),
    size: int | None = None,
    seed: int | None = None,
    epochs_scale: float = 1.0,
) -> Recipe:
    """Read, complete and check a recipe.

    `extends: NAME` takes another recipe (a file beside this one, or a shipped one) and lays this
    one on top of it, mapping by mapping; a stage set to null is left out.

    Args:
        path: YAML file.
        overrides: `KEY=VALUE` with a dotted key (`student.epochs=3` sets it for all students,
            `stages.student-oct.epochs=3` for one, `stages.student-oct=null` leaves it out); the
            value is YAML.
        size: Replaces `size`.
        seed: Replaces `seed`.
        epochs_scale: Factor on all epoch counts; none falls from 1 or more to 0.

    Raises:
        RecipeError: Not YAML, an unknown key, or a value that does not fit; one line.
    """
    raw = _extended(path)
    defaults = _mapping(raw.pop("defaults", None), "defaults", path)
    _refuse_unknown(set(defaults) - set(ROLES), ROLES, "defaults", path)
    for override in overrides:
        _apply(raw, defaults, override, path)
    for key, value in (("size", size), ("seed", seed)):
        if value is not None:
            raw[key] = value
    stages = _mapping(raw.get("stages"), "stages", path)
    raw["stages"] = {
        str(name): _completed(_mapping(stage, f"stages.{name}", path), defaults, name, path)
        for name, stage in stages.items()
    }
    for stage in raw["stages"].values():
        _scale_epochs(stage, epochs_scale)
    return validate(raw, path)


def validate(raw: Mapping[str, Any], path: Path) -> Recipe:
    """A recipe of plain values.

    Raises:
        RecipeError: Names the first thing wrong.
    """
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise _explain(error, path) from error
    except QdrError as error:
        raise RecipeError(error.what, where=str(path), expected=error.expected) from error


def dump_recipe(recipe: Recipe) -> str:
    """The complete recipe as YAML that `load_recipe` reads back."""
    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, width=100)
    return text


def _extended(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe's plain values on top of what it extends."""
    raw = _read_yaml(path)
    if EXTENDS not in raw:
        return raw
    name = raw.pop(EXTENDS)
    beside = path.parent / f"{name}.yaml"
    parent = beside if beside.is_file() else find_recipe(str(name))
    chain = (*below, path.resolve())
    if parent.resolve() in chain:
        raise RecipeError(
            f"{EXTENDS} {name!r} leads back to itself",
            where=str(path),
            expected="a recipe that does not extend this one",
        )
    merged = _merged(_extended(parent, chain), raw)
    stages = _mapping(merged.get("stages"), "stages", path)
    merged["stages"] = {key: stage for key, stage in stages.items() if stage is not None}
    # Runs and bundles are called by it: two recipes must not share one by accident.
    merged["name"] = raw.get("name", path.stem)
    return merged


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise RecipeError(
            f"cannot read: {error.strerror}", where=str(path), expected="a YAML file"
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError("not UTF-8 text", where=str(path), expected="a YAML file") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise RecipeError(
            f"not YAML: {getattr(error, 'problem', None) or error}",
            where=f"{path}:{mark.line + 1}" if mark else str(path),
            expected="key: value lines, indented by spaces",
        ) from error
    return _mapping(_unshared(raw), "recipe", path)


def _unshared(value: Any) -> Any:
    """A copy in which no mapping stands twice: anchors share them, and overrides change them."""
    if isinstance(value, dict):
        return {key: _unshared(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_unshared(below) for below in value]
    return value


def _mapping(value: Any, key: str, path: Path) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        raise RecipeError(
            f"{key} is {type(value).__name__}", where=str(path), expected=f"{key}: with keys below"
        )
    return value


def _completed(
    stage: dict[str, Any], defaults: Mapping[str, Any], name: str, path: Path
) -> dict[str, Any]:
    role = stage.get("role", str(name).split("-")[0])
    shared = _mapping(defaults.get(role), f"defaults.{role}", path)
    return _merged(shared, {**stage, "role": role})


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `under`, mapping by mapping; neither is changed."""
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        result[key] = _merged(below, value) if both and isinstance(below, dict) else value
    return result


def _apply(raw: dict[str, Any], defaults: dict[str, Any], override: str, path: Path) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise RecipeError(
            f"override {override!r}", where="--set", expected="KEY=VALUE, such as size=160"
        )
    parts = key.strip().split(".")
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"value {text!r} is not YAML", where=f"--set {key}") from error
    if parts[0] in ROLES and len(parts) > 1:
        # For all stages of the role, also where a stage sets the key itself.
        stages = _mapping(raw.get("stages"), "stages", path)
        chosen = [s for n, s in stages.items() if str(n).split("-")[0] == parts[0]]
        targets, parts = [defaults.setdefault(parts[0], {}), *chosen], parts[1:]
    else:
        targets = [raw]
        if parts[0] == "stages" and len(parts) > 1:
            stages = _mapping(raw.get("stages"), "stages", path)
            _refuse_unknown({parts[1]} - set(stages), tuple(stages), "--set stages", path)
    for target in targets:
        for part in parts[:-1]:
            below = target.get(part)
            target[part] = dict(below) if isinstance(below, dict) else {}
            target = target[part]
        target[parts[-1]] = value
    if parts[0] == "stages" and len(parts) == 2 and value is None:
        del raw["stages"][parts[1]]


def _scale_epochs(stage: dict[str, Any], scale: float) -> None:
    if scale == 1.0:
        return
    if not (scale > 0 and math.isfinite(scale)):
        raise RecipeError(f"factor {scale}", where="--epochs-scale", expected="above 0")
    kind = StudentStage if stage.get("role") == "student" else TeacherStage
    for key in EPOCH_KEYS:
        if key not in kind.model_fields:
            continue
        count = stage.get(key, kind.model_fields[key].default)
        if isinstance(count, int) and count > 0:
            stage[key] = max(1, round(count * scale))
    if "frozen_epochs" in stage and isinstance(stage.get("qat_epochs"), int):
        stage["frozen_epochs"] = min(stage["frozen_epochs"], stage["qat_epochs"])


def _refuse_unknown(unknown: set[str], known: tuple[str, ...], where: str, path: Path) -> None:
    for key in sorted(unknown):
        raise _unknown_key(key, known, f"{path}: {where}")


def _unknown_key(key: str, known: Iterable[str], where: str) -> RecipeError:
    known = tuple(known)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return RecipeError(
        f"unknown key {key!r}",
        where=where,
        expected=f"one of {', '.join(known)}",
        fix=f"did you mean {near[0]!r}?" if near else "take it out",
    )


def _explain(error: ValidationError, path: Path) -> RecipeError:
    """One line for the first of pydantic's findings; an unknown key goes first."""
    details = sorted(error.errors(), key=lambda d: d["type"] != "extra_forbidden")
    first = details[0]
    # The discriminator of the stage union stands in the location as if it were a key.
    location = [
        str(part)
        for i, part in enumerate(first["loc"])
        if not (i == 2 and first["loc"][0] == "stages" and part in ROLES)
    ]
    where = f"{path}: {'.'.join(location)}" if location else str(path)
    if first["type"] == "extra_forbidden":
        parent = ".".join(location[:-1])
        return _unknown_key(
            location[-1], _known_keys(first["loc"]), f"{path}: {parent}" if parent else str(path)
        )
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if first["type"] == "missing":
        return RecipeError("required key is missing", where=where, fix="add it")
    if first["type"] == "value_error":
        return RecipeError(message, where=where)
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return RecipeError("unknown role", where=where, expected="teacher or student")
    return RecipeError(f"value {first['input']!r}", where=where, expected=message)


def _known_keys(location: tuple[int | str, ...]) -> tuple[str, ...]:
    """The keys of the model at whose field pydantic stopped."""
    model: type[BaseModel] = Recipe
    for part in location[:-1]:
        if part in ROLES:
            model = TeacherStage if part == "teacher" else StudentStage
            continue
        field = model.model_fields.get(str(part))
        kind = field.annotation if field else None
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            model = kind
    return tuple(model.model_fields)
