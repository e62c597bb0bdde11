"""Target profiles: the YAML files in export/targets, one for each device family."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdr_edge.errors import ExportError
from qdr_edge.scheme import QuantScheme
from qdr_edge.target import Target

DEFAULT_TARGETS = ("ort-x86", "openvino", "tensorrt-10", "tensorrt-11")
ALL = "all"
_KEYS = {"name", "backend", "emitter", "runtime", "requires", "description", "tolerance_steps"}


@dataclass(frozen=True)
class Profile:
    """What to emit for a target.

    Args:
        target: What the device must be able to do.
        emitter: Name of the emitter.
        tolerance_steps: How many steps a golden logit may differ there; 0 demands equal bits.
    """

    target: Target
    emitter: str
    tolerance_steps: int


def profile_folder() -> Path:
    """Where the profiles lie: in the package of a wheel, beside it in the repository."""
    inside = Path(__file__).parent / "targets"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "targets"


def profile_names() -> list[str]:
    """Targets there is a profile for."""
    return sorted(path.stem for path in profile_folder().glob("*.yaml"))


def target_names(wanted: Iterable[str] | None) -> list[str]:
    """The targets that `--target` asks for, each once: the default ones, or every one for "all"."""
    names = list(wanted or DEFAULT_TARGETS)
    return profile_names() if ALL in names else list(dict.fromkeys(names))


def load_profile(name: str) -> Profile:
    """The profile of a target.

    Raises:
        ExportError: There is none, or it is malformed.
    """
    import difflib

    import yaml

    path = profile_folder() / f"{name}.yaml"
    if name not in profile_names():
        near = difflib.get_close_matches(name, profile_names(), n=1)
        raise ExportError(
            f"unknown target {name!r}",
            expected=f"one of {', '.join(profile_names())}",
            fix=f"did you mean {near[0]}?" if near else "correct --target",
        )
    try:
        value: Any = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ExportError(f"not YAML: {error}", where=str(path)) from error
    if not isinstance(value, dict) or not _KEYS - {"tolerance_steps"} <= set(value) <= _KEYS:
        raise ExportError(
            "keys missing or unknown", where=str(path), expected=f"{', '.join(sorted(_KEYS))}"
        )
    steps, emitter = value.pop("tolerance_steps", 0), value.pop("emitter")
    if not isinstance(steps, int) or not 0 <= steps <= 255:
        raise ExportError(f"tolerance_steps {steps!r}", where=str(path), expected="0..255")
    return Profile(Target.from_dict(value), str(emitter), steps)


def suited(
    profiles: Sequence[Profile],
    scheme: QuantScheme | None,
    asked: Sequence[str],
    *,
    in_float: bool = False,
) -> tuple[list[Profile], list[str]]:
    """The profiles that a scheme has a form for, and the names of those it has none for.

    TensorRT has no uint8 codes with zero points; a plan has no scales but powers of two, and no
    float layer. A target that was asked for by its own name is kept: its emitter then says why it
    cannot be.
    """
    unfit = set()
    if scheme is not None and scheme.unsigned:
        unfit.add("tensorrt")
    if in_float or (scheme is not None and not scheme.power_of_two):
        unfit.add("native")
    left_out = [
        profile
        for profile in profiles
        if profile.target.backend in unfit and profile.target.name not in asked
    ]
    kept = [profile for profile in profiles if profile not in left_out]
    return kept, [profile.target.name for profile in left_out]
