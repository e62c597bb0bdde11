"""What a suite file may say."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qdr_bench.plan import Plan
from qdr_bench.scenarios import Scenario
from qdr_bench.verdict import Limits
from qdr_edge.errors import BenchmarkError
from qdr_edge.files import read_input
from qdr_edge.target import available_cores

FULL_SECONDS = 600.0
FULL_SOAK_S = 600.0
_PACKAGE = Path(__file__).resolve().parents[1]
# Beside the package in the repository, inside it in a wheel.
SHIPPED = next(
    (f for f in (_PACKAGE / "suites", _PACKAGE.parent / "suites") if f.is_dir()), _PACKAGE
)

_Threads = Annotated[int, Field(ge=0, le=1024)]
_Seconds = Annotated[float, Field(ge=0.1, le=86_400)]


class Suite(BaseModel):
    """Bundles × threads × scenarios, and what else is measured beside them.

    Args:
        name: What the report calls it.
        bundles: Paths and globs of `.qdr` files; those named on the command line count instead.
        together: Measure all bundles in the same rounds; if not, one group after the other.
        targets: Targets to measure; empty for all that run here.
        threads: Threads of one inference, one group each; 0 takes every core.
        scenarios: What to ask of every cell.
        float_twins: Measure the float twins too.
        peers: What else a user could pick, made from the float twin.
        data: Table of labelled images; None finds the run's own.
        split: Split to evaluate on.
        seconds: Time measured for each cell in a scenario.
        rounds: Interleaved rounds that time is divided into.
        starts: Processes a cell is started in for ColdStart.
        soak_seconds: Length of a soak.
        soak_images_per_second: Its pace.
        energy: Measure what an image costs, where there is a sensor: a minute a cell.
        min_map: Smallest mAP of a VALID row, 0..1.
        seed: Seed of everything drawn.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "bench"
    bundles: tuple[str, ...] = ()
    together: bool = True
    targets: tuple[str, ...] = ()
    threads: Annotated[tuple[_Threads, ...], Field(min_length=1)] = (2,)
    scenarios: Annotated[tuple[Scenario, ...], Field(min_length=1)] = (Scenario.SINGLE_STREAM,)
    float_twins: bool = True
    peers: tuple[str, ...] = ()
    data: Path | None = None
    split: str = "test"
    seconds: _Seconds = 5.0
    rounds: Annotated[int, Field(ge=2, le=1000)] = 10
    starts: Annotated[int, Field(ge=1, le=1000)] = 5
    soak_seconds: _Seconds = 30.0
    soak_images_per_second: Annotated[float, Field(gt=0, le=1000)] = 10.0
    energy: bool = False
    min_map: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    def plan(self, threads: int, *, allow_unsigned: bool) -> Plan:
        """How the cells of one thread count are measured."""
        return Plan(
            scenarios=self.scenarios,
            seconds=self.seconds,
            rounds=self.rounds,
            threads=threads or available_cores(),
            starts=self.starts,
            soak_s=self.soak_seconds,
            soak_images_per_second=self.soak_images_per_second,
            energy=self.energy,
            seed=self.seed,
            allow_unsigned=allow_unsigned,
            limits=replace(Limits(), duration_s=self.seconds, min_map=self.min_map),
        )


def full(suite: Suite) -> Suite:
    """The suite at the length that the scenarios' rules ask for."""
    longer = {"seconds": FULL_SECONDS, "soak_seconds": FULL_SOAK_S, "starts": 20}
    return suite.model_copy(update=longer)


def load_suite(name: str) -> Suite:
    """Read a suite.

    Args:
        name: A YAML file, or the name of one that ships.

    Raises:
        BenchmarkError: There is none, it is not YAML, or a key or value does not fit.
    """
    shipped = {file.stem: file for file in sorted(SHIPPED.glob("*.yaml"))}
    path = shipped.get(name, Path(name))
    if name not in shipped and not path.suffix:
        near = difflib.get_close_matches(name, shipped, n=1)
        raise BenchmarkError(
            f"no suite {name!r}",
            expected=f"a YAML file or one of {', '.join(shipped)}",
            fix=f"did you mean {near[0]}?" if near else "name a file",
        )
    content = read_input(path, BenchmarkError, expected="a suite in YAML")
    try:
        raw = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"not YAML: {error}", where=str(path)) from error
    if not isinstance(raw, Mapping):
        raise BenchmarkError("no keys", where=str(path), expected="a suite in YAML")
    return parse({"name": path.stem, **raw}, str(path))


def parse(raw: Mapping[str, Any], where: str) -> Suite:
    """A suite from plain values.

    Raises:
        BenchmarkError: A key or value does not fit; all of them are named.
    """
    try:
        return Suite.model_validate(dict(raw))
    except ValidationError as error:
        found = error.errors()
        # A list with a wrong item is also told to be too short: the item says enough.
        within = {
            problem["loc"][:depth] for problem in found for depth in range(len(problem["loc"]))
        }
        problems = [_told(p["loc"], p["msg"]) for p in found if p["loc"] not in within]
        raise BenchmarkError(
            "; ".join(problems),
            where=where,
            expected=f"the keys {', '.join(Suite.model_fields)}",
            fix="correct the suite",
        ) from error


def _told(place: Sequence[str | int], message: str) -> str:
    key = ".".join(str(part) for part in place)
    if message == "Extra inputs are not permitted":
        near = difflib.get_close_matches(key, Suite.model_fields, n=1)
        return f"unknown key {key}" + (f", did you mean {near[0]}?" if near else "")
    return f"{key}: {message[0].lower()}{message[1:]}"
