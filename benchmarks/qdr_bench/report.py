"""The benchmark as a file: report.json (schema versioned, raw latencies kept) and report.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import qdr_edge
from qdr_bench.evaluation_data import EvaluationData
from qdr_bench.machine.environment import Environment, MachineState
from qdr_bench.measurement import Row
from qdr_bench.plan import Plan
from qdr_bench.statistics import Ratio, paired_ratio, round_medians
from qdr_bench.subject import Subject

FORMAT = "qdr-benchmark"
SCHEMA_VERSION = 3
QUICK_BELOW_S = 600.0
JSON_NAME = "report.json"
HTML_NAME = "report.html"


@dataclass(frozen=True, eq=False)
class BenchmarkReport:
    """Everything one `qdr-edge bench` measured.

    Args:
        subjects: The bundles.
        rows: One a cell, in the order of the cells.
        data: Evaluation data by subject name.
        plan: How it was measured.
        environment: On what.
        before: The machine's state before the first round.
        after: The same after the last one.
        interrupted: Whether Ctrl-C ended it.
        created: UTC time.
    """

    subjects: tuple[Subject, ...]
    rows: tuple[Row, ...]
    data: Mapping[str, EvaluationData]
    plan: Plan
    environment: Environment
    before: MachineState
    after: MachineState
    interrupted: bool
    created: str

    @property
    def quick(self) -> bool:
        """Whether less was measured than the full scenario asks for."""
        return self.plan.seconds < QUICK_BELOW_S

    @property
    def synthetic(self) -> bool:
        """Whether any bundle was made from synthetic images."""
        return any(subject.bundle.manifest.synthetic for subject in self.subjects)

    def rows_of(self, subject: Subject) -> list[Row]:
        """The rows of one bundle."""
        return [row for row in self.rows if row.cell.bundle == subject.name]

    def ratios(self) -> list[dict[str, Any]]:
        """How many times faster each artefact is than its float twin: on the same runtime, or, for
        one that runs no float network, on the fastest."""
        found = []
        for subject in self.subjects:
            rows = self.rows_of(subject)
            twins = {row.cell.backend: row for row in rows if row.cell.target == "float"}
            # A peer on another device has no twin there: what differs would be the device.
            rows = [r for r in rows if r.cell.target != "peer" or r.cell.device == "cpu"]
            for row in rows:
                twin = twins.get(row.cell.backend)
                if twin is None and row.cell.target != "peer":
                    twin = min(twins.values(), key=_mean_ms, default=None)
                if row.cell.target == "float" or twin is None:
                    continue
                ratio = self._times_faster(row, twin)
                if ratio is not None:
                    found.append(
                        {
                            "row": row.cell.id,
                            "bundle": subject.name,
                            "target": row.cell.target,
                            "backend": row.cell.backend,
                            "faster_than_float": ratio.to_dict(),
                        }
                    )
        return found

    def against_peers(self) -> list[dict[str, Any]]:
        """How many times faster artefacts are than what else one could pick: the fastest than each
        peer and each other artefact, and that of a peer's own runtime than the peer."""
        found = []
        for subject in self.subjects:
            rows = [row for row in self.rows_of(subject) if row.latency is not None]
            ours = [row for row in rows if row.cell.target not in ("float", "peer")]
            fastest = min(ours, key=_mean_ms, default=None)
            for other in (row for row in rows if row.cell.target != "float"):
                same = [row for row in ours if row.cell.backend == other.cell.backend]
                mine = min(same, key=_mean_ms, default=None)
                for row in dict.fromkeys(r.cell.id for r in (mine, fastest) if r is not None):
                    faster = next(r for r in ours if r.cell.id == row)
                    ratio = None if faster is other else self._times_faster(faster, other)
                    if ratio is not None:
                        found.append({"row": other.cell.id, "ours": row, "times": ratio.to_dict()})
        return found

    def _times_faster(self, fast: Row, slow: Row) -> Ratio | None:
        """How many times faster one row is than another; None if they have no common rounds."""
        if fast.latency is None or slow.latency is None:
            return None
        return paired_ratio(
            round_medians(slow.latency.rounds),
            round_medians(fast.latency.rounds),
            seed=self.plan.seed,
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "tool_version": qdr_edge.__version__,
            "created": self.created,
            "scenarios": list(self.plan.scenarios),
            "quick": self.quick,
            "interrupted": self.interrupted,
            "synthetic": self.synthetic,
            "plan": asdict(self.plan),
            "environment": self.environment.to_dict(),
            "state": {"before": asdict(self.before), "after": asdict(self.after)},
            "bundles": [
                {
                    **subject.to_dict(),
                    "data": self.data[subject.name].to_dict()
                    if subject.name in self.data
                    else None,
                }
                for subject in self.subjects
            ],
            "ratios": self.ratios(),
            "against_peers": self.against_peers(),
            "rows": [row.to_dict() for row in self.rows],
        }


def _mean_ms(row: Row) -> float:
    return row.latency.mean_ms if row.latency else float("inf")


def now() -> str:
    """Return the time for `created`, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def headline(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the row a bundle is introduced by: its fastest int8 result, VALID ones first."""
    results = [
        row
        for row in rows
        if row["variant"] == "int8"
        and row["target"] != "peer"  # another tool's
        and row["latency"] is not None
        and row["accuracy"] is not None
    ]
    return min(
        results, key=lambda row: (row["status"] != "VALID", row["latency"]["mean_ms"]), default=None
    )
