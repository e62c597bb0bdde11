"""The scenarios, one file each: what is asked of a cell, and what is kept of the answers.

Names and rules are those of MLPerf Inference; the method is borrowed, no MLPerf result is claimed.

    single_stream   one image a query, the next when the last has completed: latency
    multi_stream    eight images a query: latency of the last
    offline         all images at once: throughput
    cold_start      a new process each time: until the first decision
    soak            a camera's pace for a long time: drift, late frames, wrong answers

Accuracy belongs to every row and is not chosen: a latency without it is no result.
"""

from __future__ import annotations

from enum import StrEnum


class Scenario(StrEnum):
    """What can be asked for."""

    SINGLE_STREAM = "single-stream"
    MULTI_STREAM = "multi-stream"
    OFFLINE = "offline"
    COLD_START = "cold-start"
    SOAK = "soak"


TITLES = {
    Scenario.SINGLE_STREAM: "SingleStream",
    Scenario.MULTI_STREAM: "MultiStream",
    Scenario.OFFLINE: "Offline",
    Scenario.COLD_START: "ColdStart",
    Scenario.SOAK: "Soak",
}
