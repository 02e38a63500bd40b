import math
from itertools import pairwise

import pytest
from pydantic import ValidationError

from components.training.schedules import ScheduleParams, Schedules


def schedules(steps: int = 101, batch_size: int = 1024, **params: object) -> Schedules:
    return Schedules(ScheduleParams.model_validate(params), steps, batch_size)


def test_the_learning_rate_rises_linearly_then_falls_to_the_minimum() -> None:
    made = schedules(lr=1.0, warmup=10 / 101, min_lr=0.1)
    rates = [made.at(step).lr for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_halfway_down_the_cosine_is_the_mean_of_both_ends() -> None:
    made = schedules(lr=1.0, warmup=0.0, min_lr=0.0, weight_decay=0.04, weight_decay_end=0.4, momentum=0.9)
    middle = made.at(50)
    assert middle.lr == pytest.approx(0.5)
    assert middle.weight_decay == pytest.approx(0.22)
    assert middle.momentum == pytest.approx(0.95)


def test_the_learning_rate_scales_with_the_root_of_the_batch() -> None:
    assert schedules(lr=4e-3, batch_size=256).peak_lr == pytest.approx(4e-3 / 2)
    assert schedules(lr=4e-3, batch_size=256, lr_reference_batch=None).peak_lr == 4e-3


def test_prototypes_do_not_learn_at_first() -> None:
    made = schedules(freeze_last_layer=5 / 101)
    assert [made.at(step).last_layer_lr == 0 for step in range(7)] == [True] * 5 + [False] * 2
    assert made.at(3).lr > 0
    assert made.at(6).last_layer_lr == made.at(6).lr


def test_the_teacher_warms_up_linearly_and_stays() -> None:
    made = schedules(teacher_warmup=10 / 101, teacher_temperature=0.04, teacher_temperature_end=0.07)
    found = [made.at(step).teacher_temperature for step in (0, 5, 10, 100)]
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07])


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_runs_have_finite_values(steps: int) -> None:
    made = schedules(steps=steps, warmup=1.0, teacher_warmup=1.0)
    for step in range(steps):
        values = made.at(step)
        assert all(math.isfinite(x) for x in vars(values).values())
        assert values.lr > 0


def test_a_momentum_that_falls_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"momentum 0\.99 must not be above"):
        ScheduleParams(momentum=0.99, momentum_end=0.9)
