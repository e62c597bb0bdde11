"""Our early-stopping estimate against MLCommons LoadGen's, on the latencies that LoadGen measured.

LoadGen takes no latencies: it times a system under test itself. So one is given to it that waits
for random times, its trace tells what it measured of each query, and its log what it estimates.
"""

from __future__ import annotations

import random
import re
import time
from collections import defaultdict
from pathlib import Path

import pytest

from qdr_bench.statistics import early_stopping_ns, minimum_queries

loadgen = pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen has no wheel here")

ESTIMATE = re.compile(r"Early stopping (\d+\.\d)th percentile estimate: (\d+)")
SAMPLE = re.compile(r'"query_seq":(\d+),"sample_idx":\d+,"issue_start_ns":\d+,"complete_ns":(\d+)')


def run_loadgen(folder: Path, scenario: str, queries: int, seed: int) -> dict[float, int]:
    """Let LoadGen measure; returns its estimates by percentile."""
    folder.mkdir()
    draw = random.Random(seed)
    # From nearly constant to a long tail with ties at the clock's grain.
    mean_s, shape = draw.choice([2e-6, 1e-5, 3e-5]), draw.choice([0.1, 1.0, 3.0])

    def issue(samples: list[object]) -> None:
        due = time.perf_counter() + mean_s * draw.weibullvariate(1.0, 1.0 / shape)
        while time.perf_counter() < min(due, time.perf_counter() + 1e-3):
            pass
        done = [loadgen.QuerySampleResponse(sample.id, 0, 0) for sample in samples]  # type: ignore[attr-defined]
        loadgen.QuerySamplesComplete(done)

    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = 0
    settings.min_query_count = settings.max_query_count = queries
    settings.single_stream_expected_latency_ns = 1000
    settings.multi_stream_expected_latency_ns = 1000
    settings.multi_stream_samples_per_query = 8
    output = loadgen.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout = str(folder), False
    log = loadgen.LogSettings()
    log.log_output, log.enable_trace = output, True
    system = loadgen.ConstructSUT(issue, lambda: None)
    library = loadgen.ConstructQSL(64, 64, lambda _s: None, lambda _s: None)
    loadgen.StartTestWithLogSettings(system, library, settings, log, "")
    loadgen.DestroyQSL(library)
    loadgen.DestroySUT(system)
    summary = (folder / "mlperf_log_summary.txt").read_text()
    return {float(share) / 100: int(value) for share, value in ESTIMATE.findall(summary)}


def measured_ns(folder: Path) -> list[int]:
    """What LoadGen measured: a query takes as long as its last sample."""
    queries: dict[int, int] = defaultdict(int)
    # Line by line: LoadGen quotes the keys of other events twice, so that the whole is no JSON.
    for query, took in SAMPLE.findall((folder / "mlperf_log_trace.json").read_text()):
        queries[int(query)] = max(queries[int(query)], int(took))
    return list(queries.values())


def compare(folder: Path, scenario: str, queries: int, seed: int) -> int:
    """Compare every estimate of a run; returns how many there were."""
    estimates = run_loadgen(folder, scenario, queries, seed)
    latencies = measured_ns(folder)
    assert len(latencies) == queries
    # LoadGen's MultiStream estimates p99 only, its SingleStream p90 and p99.
    for percentile in (0.9, 0.99) if scenario == "SingleStream" else (0.99,):
        ours = early_stopping_ns(latencies, percentile)
        assert ours == estimates.get(percentile), (scenario, queries, seed, percentile)
        assert (ours is None) == (queries < minimum_queries(percentile))
    return len(estimates)


def lists(number: int, seed: int) -> list[tuple[str, int, int]]:
    """Scenarios with query counts about the limits, where an error by one shows, and far off."""
    draw = random.Random(seed)
    edges = [63, 64, 65, 129, 130, 131, 661, 662, 663, 1050, 1300]
    return [
        (
            draw.choice(["SingleStream", "SingleStream", "MultiStream"]),
            draw.choice(edges) if draw.random() < 0.4 else draw.randint(1, 900),
            index,
        )
        for index in range(number)
    ]


def test_the_smallest_samples_are_those_of_the_rules() -> None:
    assert (minimum_queries(0.9), minimum_queries(0.99)) == (64, 662)


def test_our_estimate_is_loadgens(tmp_path: Path) -> None:
    found = [compare(tmp_path / str(run[-1]), *run) for run in lists(60, seed=1)]
    assert sum(found) > 40


@pytest.mark.full
def test_our_estimate_is_loadgens_on_thousands_of_lists(tmp_path: Path) -> None:
    import shutil

    estimates = 0
    for run in lists(3000, seed=2):
        estimates += compare(tmp_path / str(run[-1]), *run)
        shutil.rmtree(tmp_path / str(run[-1]))
    assert estimates > 2500  # lists of fewer than 64 queries carry none
