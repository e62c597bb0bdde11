"""What a child process does with a whole bundle: stages, self-test, cold start and soak.

Modules are imported by the request that needs them: a cold start must find a cold process.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdr_bench.memory import peak_rss_bytes, rss_bytes
from qdr_edge.errors import BenchmarkError, QdrError

if TYPE_CHECKING:
    import numpy as np

    from qdr_edge.screener import Screener

WARM_UP_IMAGES = 2


def time_stages(screener: Screener, file: Path) -> dict[str, int]:
    """Take one image file through every stage; nanoseconds of each, in their order."""
    from qdr_edge.decision import decide
    from qdr_edge.gate import check
    from qdr_edge.preprocess import decode, preprocess
    from qdr_edge.runtime import DeviceSession

    spec, session, clock = screener.spec, screener.session, time.perf_counter_ns
    marks = [clock()]
    rgb = decode(file, spec)
    marks.append(clock())
    pixels = preprocess(rgb, spec)
    marks.append(clock())
    check(pixels, spec.modality, screener.intake.limits)
    marks.append(clock())
    if isinstance(session, DeviceSession):
        logits, device = session.infer_stages(pixels[None])
    else:
        logits, device = session.infer(pixels[None]), {"infer": clock() - marks[-1]}
    marks.append(clock())
    decide(logits[0], screener.rule, spec.modality)
    marks.append(clock())
    decoded, prepared, gated, _, decided = (b - a for a, b in itertools.pairwise(marks))
    return {
        "decode": decoded,
        "preprocess": prepared,
        "gate": gated,
        **device,
        "postprocess": decided,
    }


class Screening:
    """The state between requests: the screener that a soak keeps open."""

    def __init__(self) -> None:
        self._screener: Screener | None = None
        self._files: list[str] = []
        self._draw: np.random.Generator | None = None
        self._screened = 0

    def stages(
        self, bundle: str, target: str, threads: int, allow_unsigned: bool, files: list[str]
    ) -> dict[str, Any]:
        """Time every stage from image file to decision, and the whole way through the Screener."""
        from qdr_edge import load
        from qdr_edge.decision import Outcome

        times: dict[str, list[int]] = {}
        outcomes: dict[str, int] = {}
        clock = time.perf_counter_ns
        with load(
            Path(bundle), target=target, threads=threads, allow_unsigned=allow_unsigned
        ) as screener:
            for turn, file in enumerate([*files[:WARM_UP_IMAGES], *files]):
                start = clock()
                decision = screener.screen(Path(file))
                end_to_end = clock() - start
                if turn >= WARM_UP_IMAGES:
                    outcome = decision.outcome.value
                    outcomes[outcome] = outcomes.get(outcome, 0) + 1
                if decision.outcome not in (Outcome.POSITIVE, Outcome.NEGATIVE):
                    continue
                stages = time_stages(screener, Path(file))
                if turn >= WARM_UP_IMAGES:
                    for name, taken in {**stages, "end_to_end": end_to_end}.items():
                        times.setdefault(name, []).append(taken)
        return {
            "times_ns": times,
            "outcomes": outcomes,
            "screen_peak_rss_bytes": peak_rss_bytes(),
        }

    def self_test(
        self, bundle: str, target: str, threads: int, allow_unsigned: bool
    ) -> dict[str, Any]:
        """Run the bundle's own self-test, as a device does at power-on."""
        from qdr_edge import load

        try:
            # load() runs the golden vectors before it returns.
            load(
                Path(bundle),
                target=target,
                threads=threads,
                allow_unsigned=allow_unsigned,
                full_self_test=True,
            ).close()
        except QdrError as error:
            return {"failure": str(error)}
        return {"failure": ""}

    def cold_start(
        self, bundle: str, target: str, threads: int, allow_unsigned: bool, image: str
    ) -> dict[str, Any]:
        """Time what a device pays between power-on and its first decision, process start apart."""
        clock = time.perf_counter_ns
        marks = [clock()]
        # load imports these two late; they belong to the imports, not to opening.
        import cv2  # noqa: F401
        import PIL.Image  # noqa: F401

        from qdr_edge import load

        marks.append(clock())
        screener = load(Path(bundle), target=target, threads=threads, allow_unsigned=allow_unsigned)
        marks.append(clock())
        screener.screen(Path(image))
        marks.append(clock())
        screener.close()
        parts = [after - before for before, after in itertools.pairwise(marks)]
        names = ("import", "open", "first_decision")
        return {**dict(zip(names, parts, strict=True)), "total": marks[-1] - marks[0]}

    def soak_open(
        self,
        bundle: str,
        target: str,
        threads: int,
        allow_unsigned: bool,
        files: list[str],
        seed: int,
    ) -> dict[str, Any]:
        """Open a bundle for a soak, with all golden vectors, and screen a few files uncounted."""
        import numpy as np

        from qdr_edge import load

        self._files, self._draw, self._screened = files, np.random.default_rng(seed), 0
        self._screener = load(
            Path(bundle),
            target=target,
            threads=threads,
            allow_unsigned=allow_unsigned,
            full_self_test=True,
        )
        for file in files[:WARM_UP_IMAGES]:
            self._screener.screen(Path(file))
        return {"rss_bytes": rss_bytes()}

    def soak_slice(
        self, seconds: float, images_per_second: float, golden_every: int
    ) -> dict[str, Any]:
        """Screen images at a steady pace for a while."""
        screener, draw, clock = self._screener, self._draw, time.perf_counter_ns
        if screener is None or draw is None:
            raise BenchmarkError("no bundle is open", expected="a `soak_open` request first")
        latencies: list[int] = []
        late = checks = wrong = 0
        period = 1e9 / images_per_second
        start = clock()
        for turn in range(max(1, round(seconds * images_per_second))):
            due = start + round(turn * period)
            wait = (due - clock()) / 1e9
            if wait > 0:
                time.sleep(wait)
            late += clock() - due > period
            file = Path(self._files[int(draw.integers(0, len(self._files)))])
            before = clock()
            screener.screen(file)
            latencies.append(clock() - before)
            self._screened += 1
            if self._screened % golden_every == 0:
                checks += 1
                try:
                    screener.self_test()
                except QdrError:
                    wrong += 1
        return {
            "latency_ns": latencies,
            "late": late,
            "golden_checks": checks,
            "golden_wrong": wrong,
            "rss_bytes": rss_bytes() or peak_rss_bytes(),
        }
