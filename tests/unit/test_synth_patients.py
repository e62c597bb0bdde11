"""The plan behind the pixels: co-occurrence, correlation of both eyes, split, quality grades."""

from __future__ import annotations

import numpy as np
import pytest

from qdr_train.synth.patients import (
    CODES,
    SPLIT_SHARES,
    PatientPlan,
    condition_of,
    plan_patient,
    split_patients,
)


@pytest.fixture(scope="module")
def plans() -> list[PatientPlan]:
    return [plan_patient(3, index) for index in range(600)]


def test_a_plan_depends_on_seed_and_index_only(plans: list[PatientPlan]) -> None:
    assert plan_patient(3, 17) == plans[17]
    assert any(plan_patient(4, i).labels != plans[i].labels for i in range(30))


def test_normal_excludes_every_finding(plans: list[PatientPlan]) -> None:
    for plan in plans:
        for eye in plan.eyes:
            assert ("NOR" in eye.labels) == (not eye.findings)
            assert "NOR" not in eye.findings


def test_every_label_occurs_often_enough_to_be_learned(plans: list[PatientPlan]) -> None:
    eyes = [eye for plan in plans for eye in plan.eyes]
    for code in CODES:
        share = sum(code in eye.labels for eye in eyes) / len(eyes)
        assert 0.04 < share < 0.50, (code, share)


@pytest.mark.parametrize(
    ("condition", "companion"),
    [("WAMD", "CNV"), ("WAMD", "FLD"), ("DR", "EXU"), ("CSC", "FLD"), ("RVO", "FLD")],
)
def test_companions_are_commoner_beside_their_condition(
    plans: list[PatientPlan], condition: str, companion: str
) -> None:
    eyes = [set(eye.labels) for plan in plans for eye in plan.eyes]
    beside = np.mean([companion in labels for labels in eyes if condition in labels])
    without = np.mean([companion in labels for labels in eyes if condition not in labels])
    assert beside > 2 * without


def test_both_eyes_of_a_patient_are_correlated(plans: list[PatientPlan]) -> None:
    right = np.array(["DR" in plan.eyes[0].labels for plan in plans], float)
    left = np.array(["DR" in plan.eyes[1].labels for plan in plans], float)
    assert np.corrcoef(right, left)[0, 1] > 0.5


def test_severities_are_mostly_clear(plans: list[PatientPlan]) -> None:
    values = [v for plan in plans for eye in plan.eyes for v in eye.findings.values()]
    assert min(values) > 0.0
    assert max(values) <= 1.0
    assert np.mean(np.array(values) > 0.6) > 0.6
    assert np.mean(np.array(values) < 0.45) > 0.03


def test_share_of_ungradable_images(plans: list[PatientPlan]) -> None:
    grades = [shot.quality for plan in plans for eye in plan.eyes for shot in eye.shots]
    assert 0.06 < grades.count(3) / len(grades) < 0.09
    assert set(grades) == {0, 1, 2, 3}


@pytest.mark.parametrize("seed", range(12))
def test_every_split_has_every_label_from_sixty_patients(seed: int) -> None:
    plans = [plan_patient(seed, index) for index in range(60)]
    splits = split_patients(seed, plans)
    assert sorted(splits) == list(range(60))  # each patient in exactly one split
    for name in SPLIT_SHARES:
        held = {code for plan in plans if splits[plan.index] == name for code in plan.labels}
        assert held == set(CODES), name


def test_split_shares(plans: list[PatientPlan]) -> None:
    splits = list(split_patients(3, plans).values())
    for name, share in SPLIT_SHARES.items():
        assert abs(splits.count(name) / len(splits) - share) < 0.02


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_patients_still_get_a_split(count: int) -> None:
    plans = [plan_patient(0, index) for index in range(count)]
    assert len(split_patients(0, plans)) == count


def test_condition_blocks_hold_their_shares() -> None:
    conditions = [condition_of(5, index) for index in range(48)]
    assert conditions.count("NOR") == 8
    assert conditions.count("CNV") == 2
