"""Decisions in C and in Python: the same rules, labels and eyes, bit for bit."""

from __future__ import annotations

import ctypes
import math
from random import Random
from typing import Any

import numpy as np
import pytest

from qdr_edge.bundle import read_bundle
from qdr_edge.decision import DecisionRule, aggregate, decide
from qdr_edge.errors import BundleError
from qdr_edge.labels import LabelSet
from tests.attacks import (
    evil,
)
from tests.native_bundles import (
    BAD_BUNDLE,
    OK,
    OUTCOMES,
    TRUST,
    CDecision,
    Rule,
    c_open,
    compiled,
    f64,
    float_bytes,
    size_t,
    u32,
)


@pytest.fixture(scope="module")
def lib() -> ctypes.CDLL:
    return compiled()


@pytest.mark.parametrize("temperature", ["1.0", "0.0", "-1.0", "inf", "5e-324", "-0.0"])
def test_the_rule(lib: ctypes.CDLL, temperature: str) -> None:
    decision = {**evil.manifest_of()["decision"], "temperature": temperature}
    data = evil.signed({**evil.manifest_of(), "decision": decision})
    described = read_bundle(data, trust=TRUST).manifest
    _, bundle, _ = c_open(lib, data)
    rule = Rule()
    status = lib.qdr_manifest_rule(ctypes.byref(bundle.manifest), ctypes.byref(rule))
    try:
        python = described.decision.rule(described.labels.label_set())
    except BundleError:
        assert status == BAD_BUNDLE
        return
    assert status == OK
    assert rule.label_count == len(python.labels)
    assert rule.normal == python.labels.normal
    assert tuple(rule.thresholds[: rule.label_count]) == python.logit_thresholds


def c_rule(rule: DecisionRule) -> Rule:
    count = len(rule.labels)
    normal = count if rule.labels.normal is None else rule.labels.normal
    thresholds = (f64 * 64)(*rule.logit_thresholds)
    return Rule(count, normal, rule.labels.exclusive, rule.temperature, thresholds)


def _same_decision(c: CDecision, python: Any) -> None:
    assert OUTCOMES[c.outcome] == python.outcome.value
    assert c.label_count == len(python.labels)
    for mine, theirs in zip(c.labels, python.labels, strict=False):
        assert mine.positive == theirs.positive
        for name in ("logit", "score", "probability", "threshold"):
            assert float_bytes(getattr(mine, name)) == float_bytes(getattr(theirs, name)), name


def _rules_and_logits(random: np.random.Generator, exclusive: bool, count: int) -> Any:
    from qdr_edge.decision import label_scores

    for _ in range(count):
        k = int(random.integers(2 if exclusive else 1, 65 if random.random() < 0.1 else 12))
        codes = (
            ["NOR", *(f"L{i}" for i in range(1, k))]
            if random.random() < 0.8
            else [f"L{i}" for i in range(k)]
        )
        random.shuffle(codes)
        labels = LabelSet.custom(codes, exclusive=exclusive)
        spread = 10.0 ** random.integers(-3, 38 if random.random() < 0.1 else 3)
        logits = (random.normal(0, spread, k)).astype(np.float32)
        if random.random() < 0.1:
            logits = np.round(logits).astype(np.float32)
        # Thresholds at a score, one float beside it, and elsewhere: where answers could part.
        scores = label_scores(logits[None], labels)[0]
        chosen = [
            random.choice([s, np.nextafter(s, np.inf), np.nextafter(s, -np.inf), s + 1, np.inf])
            for s in scores
        ]
        temperature = float(10.0 ** random.uniform(-1, 1))
        if random.random() < 0.05:
            temperature = float(random.choice([5e-324, 1e-300, 1e300]))
        yield DecisionRule(labels, temperature, tuple(float(v) for v in chosen)), logits


def test_a_sum_is_rounded_once(lib: ctypes.CDLL) -> None:
    """Ties that a much smaller term breaks among them."""
    random, corrected = Random(13), 0
    for _ in range(20_000):
        terms = [random.random() * 2.0 ** -random.choice([0, 0, 1, 50, 53, 54, 60, 107, 900])]
        for _ in range(random.randint(0, 8)):
            terms.append(2.0 ** -random.choice([0, 1, 2, 52, 53, 53, 54, 105, 106, 107, 160, 1074]))
        if random.random() < 0.1:
            terms += [random.random() for _ in range(64 - len(terms))]
        terms = [term * random.choice([1, 1, -1]) for term in terms]
        total = lib.qdr_exact_sum((f64 * len(terms))(*terms), u32(len(terms)))
        assert float_bytes(total + 0.0) == float_bytes(math.fsum(terms) + 0.0)
        corrected += total != sum(sorted(terms, key=abs))
    assert corrected > 100


@pytest.mark.parametrize("exclusive", [False, True], ids=["together", "exclusive"])
def test_decisions_are_the_same_bit_for_bit(lib: ctypes.CDLL, exclusive: bool) -> None:
    random = np.random.default_rng(7)
    seen = set()
    for rule, logits in _rules_and_logits(random, exclusive, 6000):
        if random.random() < 0.02:
            logits[random.integers(len(logits))] = random.choice([np.nan, np.inf, -np.inf])
        out, point = CDecision(), c_rule(rule)
        pointer = logits.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        status = lib.qdr_decide(
            ctypes.byref(point), pointer, size_t(len(logits)), ctypes.byref(out)
        )
        assert status == OK
        _same_decision(out, decide(logits, rule, "fundus"))
        seen.add(OUTCOMES[out.outcome])
    assert seen == {"POSITIVE", "NEGATIVE", "FAULT"}


@pytest.mark.parametrize("exclusive", [False, True], ids=["together", "exclusive"])
def test_an_eye_is_decided_alike(lib: ctypes.CDLL, exclusive: bool) -> None:
    random = np.random.default_rng(8)
    for rule, logits in _rules_and_logits(random, exclusive, 500):
        images = [logits, *(random.permutation(logits) for _ in range(random.integers(0, 4)))]
        eye, image, point = CDecision(), CDecision(), c_rule(rule)
        lib.qdr_eye_start(ctypes.byref(eye))
        for one in images:
            pointer = one.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            lib.qdr_decide(ctypes.byref(point), pointer, size_t(len(one)), ctypes.byref(image))
            added = lib.qdr_eye_add(ctypes.byref(point), ctypes.byref(eye), ctypes.byref(image))
            assert added == OK
        _same_decision(eye, aggregate(images, rule, "fundus"))


# The torsion points of edwards25519 that have more than one encoding, or a small order.
