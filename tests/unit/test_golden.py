"""Golden images: those whose decision no tolerated difference changes come first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qdr_edge.decision import DecisionRule, decide
from qdr_edge.labels import LabelSet
from qdr_export.golden import _clear_first, _is_clear, _margin, _Seen

LABELS = LabelSet.custom(("NOR", "AMD", "DR"), "test")
RULE = DecisionRule(LABELS, 1.0, (0.5, -1.0, 2.0))


def _seen(name: str, logits: list[float]) -> _Seen:
    decision = decide(np.array(logits, np.float32), RULE, "fundus")
    return _Seen(name.encode(), None, decision, _margin(decision, RULE))


def test_the_margin_is_the_way_to_the_nearest_threshold() -> None:
    assert _seen("a", [3.0, -1.25, 0.0]).margin == 0.25
    assert _seen("b", [0.5, 9.0, 9.0]).margin == 0


@pytest.mark.parametrize("exclusive", [False, True])
def test_within_the_margin_no_decision_changes(exclusive: bool) -> None:
    rule = replace(RULE, labels=replace(LABELS, exclusive=exclusive))
    random = np.random.default_rng(3)
    for _ in range(200):
        logits = random.normal(0, 2, 3).astype(np.float32)
        before = decide(logits, rule, "fundus")
        change = 0.999 * _margin(before, rule) * random.choice([-1, 1], 3)
        after = decide((logits + change).astype(np.float32), rule, "fundus")
        assert [x.positive for x in after.labels] == [x.positive for x in before.labels]
        assert after.outcome == before.outcome


def test_clear_images_come_first_and_the_widest_of_the_others_next() -> None:
    seen = [
        _seen("narrow", [3.0, -1.1, 0.0]),
        _seen("clear", [3.0, 3.0, -3.0]),
        _seen("wide", [3.0, -0.6, 0.0]),
        _seen("clear too", [-3.0, -9.0, 9.0]),
    ]
    order = [one.image.decode() for one in _clear_first(seen, 0.5)]
    assert order == ["clear", "clear too", "wide", "narrow"]
    # Where targets are bit-equal, the table's order stands.
    assert _clear_first(seen, 0) == seen
    assert all(_is_clear(one, 0) for one in seen)
