"""How a report was measured, in words, from its own plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qdr_bench.report_page.cards import Card, Entry, Table, headings
from qdr_bench.report_page.text import at, fixed, number, percent, words

RULES = """\
Each row is measured in a process of its own; only one is active at a time, in interleaved rounds \
A B C … A B C …, so that a slow moment of the machine meets all of them.
SingleStream: one image a query, the next sent when the last has completed; images drawn at random \
(seed {seed}) from up to {pool} preprocessed images; {rounds} rounds{each}; warm-up is not counted.
“At 99 %” is the early-stopping estimate of MLPerf Inference: what the percentile is at most, at \
99 % confidence. The method is borrowed; this is no MLPerf result.
× float: the median over rounds of float time divided by the row's time, with a bootstrap interval \
over rounds.
Peak memory: of a process that opened and ran the model, minus that of one that only imported the \
runtime.
INVALID: the machine or the artefact was not fit to be measured: fewer than {queries} queries, \
round medians varying by more than {variation} %, other load on the cores, a clock that changed, a \
processor slowed down for heat, a failed self-test, or no accuracy. FAILED: it crashed or was \
refused. UNAVAILABLE: it cannot run here. The reasons stand beneath the first table."""
QUICK = "Quick: less than the 600 s a row that the full scenarios ask for."


def method_cards(report: Mapping[str, Any]) -> list[Card]:
    """The rules of the scenarios that were asked for, and what each group was measured with."""
    return [Card("Rules", points=_rules(report)), *_groups(report.get("groups") or [])]


def _rules(report: Mapping[str, Any]) -> list[str]:
    plan = report.get("plan") or {}
    limits = plan.get("limits") or {}
    seconds, rounds = number(plan.get("seconds")), number(plan.get("rounds"))
    text = RULES.format(
        seed=words(plan.get("seed")),
        pool=words(plan.get("pool_images")),
        rounds=fixed(rounds),
        each=f" of at least {seconds / rounds:g} s" if seconds is not None and rounds else "",
        queries=fixed(limits.get("queries")),
        variation=percent(limits.get("round_variation"), 0),
    )
    rules = text.splitlines()
    if report.get("quick"):
        rules.append(QUICK)
    if "soak" in (report.get("scenarios") or ()):
        pace = words(plan.get("soak_images_per_second"))
        rules.append(f"Soak: {words(plan.get('soak_s'))} s at {pace} images/s.")
    return rules


def _groups(groups: list[Any]) -> list[Card]:
    if len(groups) < 2:
        return []
    lines = [
        [
            Entry(words(at(group, "bundles"))),
            Entry(fixed(at(group, "plan", "threads"))),
            Entry(words(at(group, "plan", "scenarios"))),
            Entry(fixed(at(group, "plan", "seconds"))),
            Entry(words(at(group, "created"))),
        ]
        for group in groups
    ]
    heads = headings("Bundles", "threads", "scenarios", "seconds", "measured",
                     text=("scenarios", "measured"))  # fmt: skip
    note = "Rows of one group were measured in the same rounds; groups one after the other."
    return [Card("Groups", note, table=Table(heads, lines))]
