import json
import math
from typing import Any

import pytest

from components.errors import UserError
from components.training.collapse import CollapseParams, CollapseWatch
from components.training.health import Health, HealthParams, Setback
from components.training.spikes import SpikeParams, SpikeWatch

HEALTHY = {"teacher_entropy": 3.0, "prototype_usage": 0.5, "feature_std": 0.8, "effective_rank": 20.0, "loss": 5.0}
PROTOTYPES = 64


def test_a_good_step_ends_the_row_of_bad_ones_but_not_their_count() -> None:
    health = Health(HealthParams(max_skipped=3))
    assert [health.bad(step) for step in range(2)] == [None, None]
    assert health.troubled
    health.good(2, {"loss": 1.0})
    assert not health.troubled
    assert [health.bad(step) for step in (3, 4)] == [None, None]
    assert health.bad(5) == Setback("not finite", 3, 5)
    assert (health.skipped, health.in_a_row) == (5, 3)


def test_windows_of_two_setbacks_do_not_overlap() -> None:
    health = Health(HealthParams(margin=5))
    health.rolled_back(Setback("not finite", 20, 22), step=10, rollbacks=0)
    health.rolled_back(Setback("not finite", 24, 25), step=10, rollbacks=1)
    assert health.passed_over == [(15, 23), (23, 26)]
    assert [step for step in range(30) if health.passes_over(step)] == list(range(15, 26))
    assert health.rollbacks == 2


def test_what_is_restored_decides_alike() -> None:
    first = Health(HealthParams(spike=SpikeParams(window=4, patience=3)), prototypes=PROTOTYPES, steps=10)
    for step, loss in enumerate((1.0, 1.1, 1.0, 1.1, 9.0, 9.0)):
        assert first.good(step, {**HEALTHY, "loss": loss}) is None
    again = Health(HealthParams(spike=SpikeParams(window=4, patience=3)), prototypes=PROTOTYPES, steps=10)
    again.restore(json.loads(json.dumps(first.as_json())))
    assert again.as_json() == first.as_json()
    assert again.good(6, {**HEALTHY, "loss": 9.0}) == Setback("spike", 4, 6)


def losses_until_judged(params: SpikeParams) -> SpikeWatch:
    watch = SpikeWatch(params)
    for step in range(params.window):
        assert not watch.add(10.0 + 0.1 * (step % 3))
    return watch


def test_a_spike_is_far_above_the_spread_and_the_level_of_recent_losses() -> None:
    watch = losses_until_judged(SpikeParams(window=9, factor=20.0, rise=0.1))
    assert watch.bound == pytest.approx(10.1 + 20 * 1.4826 * 0.1)
    watch = losses_until_judged(SpikeParams(window=9, factor=20.0, rise=0.5))
    assert watch.bound == pytest.approx(10.1 * 1.5)


def test_spikes_do_not_move_the_bound_that_judges_them() -> None:
    watch = losses_until_judged(SpikeParams(window=9, patience=3))
    bound = watch.bound
    assert [watch.add(99.0) for _ in range(3)] == [False, False, True]
    assert watch.bound == bound
    watch.accept()
    assert watch.bound is None


def test_losses_that_fall_or_wander_as_in_the_shipped_recipe_are_no_spikes() -> None:
    """The demonstration falls from 10.9 to 10.0 with a spread of 0.03; here with five times that."""
    watch = SpikeWatch(SpikeParams())
    for step in range(2000):
        assert not watch.add(10.0 + 0.9 * math.exp(-step / 20) + 0.15 * math.sin(step * 1.7))
        assert watch.in_a_row == 0


def test_nothing_is_a_spike_where_none_is_looked_for() -> None:
    assert losses_until_judged(SpikeParams(window=4, factor=None)).bound is None


def collapse(measures: dict[str, float], **params: Any) -> UserError | None:
    bounds = CollapseParams(**{"least_steps": 50, "begin": 0.0, **params})
    watch = CollapseWatch(bounds, prototypes=PROTOTYPES, steps=1000)
    try:
        for step in range(10, 200, 10):
            watch.look(step, {**HEALTHY, **measures})
    except UserError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("measures", "named"),
    [
        ({"teacher_entropy": 0.001, "prototype_usage": 1 / PROTOTYPES}, "information -0.001"),
        ({"teacher_entropy": math.log(PROTOTYPES), "prototype_usage": 1.0}, "information 0"),
        ({"feature_std": 0.002}, "feature_std 0.002"),
        ({"effective_rank": 1.01}, "effective_rank 1.01"),
    ],
    ids=["one prototype for all", "all prototypes alike", "features alike", "one direction"],
)
def test_each_way_to_collapse_is_told_with_its_numbers(measures: dict[str, float], named: str) -> None:
    error = collapse(measures)
    assert error is not None
    assert f"training has collapsed: {named} has been below" in error.what
    assert "since step 10, now is step 60" in error.what
    for name in ("teacher_entropy", "prototype_usage", "feature_std", "effective_rank"):
        assert f"{name} {({**HEALTHY, **measures})[name]:.4g}" in error.what


STUDENT = {f"student_{name}": HEALTHY[name] for name in ("prototype_usage", "feature_std", "effective_rank")}
DISTILLATION = STUDENT | {"student_entropy": 3.0, "spare_feature_std": 0.8, "spare_effective_rank": 20.0}


@pytest.mark.parametrize(
    ("measures", "named", "remedy"),
    [
        ({"student_entropy": math.log(PROTOTYPES), "student_prototype_usage": 1.0}, "student_information 0", "lr"),
        ({"student_feature_std": 0.002}, "student_feature_std 0.002", "lr"),
        ({"student_effective_rank": 1.01}, "student_effective_rank 1.01", "lr"),
        ({"spare_feature_std": 0.0}, "spare_feature_std 0", "momentum"),
        ({"spare_effective_rank": 1.0}, "spare_effective_rank 1", "momentum"),
    ],
)
def test_a_student_or_its_average_that_collapses_beside_a_healthy_teacher_is_told(
    measures: dict[str, float], named: str, remedy: str
) -> None:
    assert collapse(DISTILLATION) is None
    error = collapse(DISTILLATION | measures)
    assert error is not None
    assert f"training has collapsed: {named} has been below" in error.what
    assert remedy in error.remedy


def test_in_pretraining_what_the_students_prototypes_tell_is_not_judged() -> None:
    """It is less sharp than its teacher, which follows it."""
    assert collapse({"student_entropy": math.log(PROTOTYPES), "student_prototype_usage": 1.0}) is None


def test_sharp_but_varied_assignments_are_no_collapse() -> None:
    """Low entropy alone is what training is for; so is an even use of prototypes."""
    assert collapse({"teacher_entropy": 0.0, "prototype_usage": 0.5}) is None
    assert collapse({"teacher_entropy": math.log(PROTOTYPES) - 0.3, "prototype_usage": 1.0}) is None


def test_features_that_begin_alike_are_given_their_time() -> None:
    assert collapse({"feature_std": 0.002}, begin=0.2) is None
    error = collapse({"feature_std": 0.002}, begin=0.1)
    assert error is not None
    assert "since step 100" in error.what


def test_a_long_run_is_given_a_share_of_its_length() -> None:
    bounds = CollapseParams(patience=0.1, least_steps=50, begin=0.0)
    watch = CollapseWatch(bounds, prototypes=PROTOTYPES, steps=1000)
    watch.look(10, {**HEALTHY, "feature_std": 0.0})
    watch.look(100, {**HEALTHY, "feature_std": 0.0})
    with pytest.raises(UserError, match="since step 10, now is step 110"):
        watch.look(110, {**HEALTHY, "feature_std": 0.0})


def test_a_measure_that_recovers_starts_over_and_one_that_is_no_number_says_nothing() -> None:
    watch = CollapseWatch(CollapseParams(least_steps=20, begin=0.0), prototypes=PROTOTYPES, steps=100)
    for step, value in enumerate((0.8, 0.001, 0.001, 0.8, 0.001, math.nan, 0.001, 0.001)):
        watch.look(10 * step, {**HEALTHY, "feature_std": value})
    assert watch.as_json() == {"since": {"feature_std": 60}}


def test_steps_without_measures_are_not_judged() -> None:
    watch = CollapseWatch(CollapseParams(least_steps=1, begin=0.0), prototypes=PROTOTYPES, steps=10)
    for step in range(10):
        watch.look(step, {"loss": 0.0})
    assert watch.as_json() == {"since": {}}
