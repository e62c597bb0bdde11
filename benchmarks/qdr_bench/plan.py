"""How to measure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from qdr_bench.scenarios import Scenario
from qdr_bench.verdict import Limits


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Args:
        scenarios: What to ask of every cell.
        seconds: Time measured for each cell in a scenario, warm-up not counted.
        rounds: Interleaved rounds the time is divided into.
        threads: Threads of one inference, the same for every cell.
        pool_images: Images drawn from, at most.
        stage_images: Images each stage is timed on.
        starts: Processes a cell is started in for ColdStart.
        soak_s: Length of a soak.
        soak_images_per_second: Pace of a soak.
        energy: Measure what an image costs, where there is a sensor.
        energy_loop_s: Length of each of five loops, and of the idle time before them.
        seed: Seed of everything drawn.
        allow_unsigned: Measure bundles without a signature.
        limits: Beyond which a measurement is INVALID.
    """

    scenarios: tuple[Scenario, ...] = (Scenario.SINGLE_STREAM,)
    seconds: float = 5.0
    rounds: int = 10
    threads: int = 2
    pool_images: int = 64
    stage_images: int = 24
    starts: int = 5
    soak_s: float = 30.0
    soak_images_per_second: float = 10.0
    energy: bool = False
    energy_loop_s: float = 10.0
    seed: int = 0
    allow_unsigned: bool = False
    limits: Limits = field(default_factory=Limits)

    def queries_per_round(self, fewest: int) -> int:
        """Fewest queries of a round, so that all rounds together carry the estimate."""
        return math.ceil(fewest / self.rounds)
