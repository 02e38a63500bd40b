from typing import Any

import pytest

from components.errors import UserError
from components.parameters import validate
from components.training.distill import DistillParams
from components.training.pretrain import PretrainParams
from components.training.recipe import resumable, run_key
from tests.tiny_training import PRETRAIN

IDS = ["a", "b", "c"]


def params(**changes: Any) -> PretrainParams:
    return validate(PretrainParams, {**PRETRAIN, **changes}, where="params.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": {**PRETRAIN["views"], "local_size": 10}}, "patch_size 4 must divide views.local_size 10"),
        ({"views": {**PRETRAIN["views"], "global_size": 18}}, "patch_size 4 must divide views.global_size 18"),
        ({"model": {**PRETRAIN["model"], "heads": 3}}, "heads 3 must divide width 32"),
        ({"batch_size": 1}, "batch_size 1 must be at least 2"),
        ({"epochs": 1.0}, "give either epochs or steps"),
        ({"steps": None}, "give either epochs or steps"),
        ({"engine": {"precision": "bf16", "zero_stage": 0}}, "zero_stage 0 keeps no fp32 weights"),
        ({"engine": {"zero_stage": 4}}, "engine.zero_stage"),
        ({"bach_size": 8}, "did you mean 'batch_size'"),
        ({"schedule": {"warm_up": 0.1}}, "did you mean 'warmup'"),
        ({"method": "dino", "objective": {"ibot_weight": 1.0}}, "ibot_weight"),
    ],
)
def test_F16_impossible_parameters_are_refused_with_key_and_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        params(**changes)
    assert message in str(caught.value)
    assert "params.yaml" in str(caught.value)


def test_a_local_size_that_no_crop_uses_may_be_anything() -> None:
    assert params(views={"global_size": 16, "local_size": 99, "local_crops": 0}).views.local_crops == 0


@pytest.mark.parametrize(
    ("processes", "micro_batch", "message"),
    [(3, None, "batch_size 8 on 3 processes"), (8, None, "batch_size 8 on 8"), (2, 3, "micro_batch 3 does not divide")],
)
def test_F16_a_batch_that_cannot_be_shared_out_is_refused(
    processes: int, micro_batch: int | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        params(engine={"micro_batch": micro_batch}).share(processes)


def test_a_batch_is_shared_out_evenly() -> None:
    assert params().share(1) == 8
    assert params(engine={"micro_batch": 2}).share(2) == 4


def test_epochs_count_images_and_round_up() -> None:
    assert params(steps=None, epochs=2.0).total_steps(100) == 25
    assert params(steps=None, epochs=0.5).total_steps(24) == 2
    assert params(steps=7).total_steps(10**6) == 7


def test_the_key_ignores_how_a_run_is_carried_out_and_nothing_else() -> None:
    key = run_key("pretrain", params(), IDS)
    carried_out = [
        params(steps=None, epochs=3.0),
        params(log_every=5),
        params(checkpoint={"seconds": 1.0, "keep": 9}),
        params(engine={"zero_stage": 1, "micro_batch": 2, "persistence_threshold": 0}),
    ]
    assert {run_key("pretrain", one, IDS) for one in carried_out} == {key}
    assert run_key("pretrain", params(), IDS[::-1]) == key
    computed = [
        params(seed=1),
        params(batch_size=16),
        params(engine={"precision": "bf16"}),
        params(schedule={"lr": 0.5}),
        params(model={**PRETRAIN["model"], "depth": 3}),
        params(clip={"max_norm": None}),
    ]
    others = {run_key("pretrain", one, IDS) for one in computed}
    others |= {run_key("pretrain", params(), IDS[:2]), run_key("pretrain", params(), IDS, "teacher")}
    others |= {run_key("distill", params(), IDS)}
    assert len(others | {key}) == len(computed) + 4


def test_an_interrupted_run_resumes_and_a_completed_one_only_if_it_would_be_the_same() -> None:
    interrupted = {"step": 5, "total_steps": 10, "code": "a"}
    completed = {"step": 10, "total_steps": 10, "code": "a"}
    assert resumable(interrupted, total_steps=10, code="b")
    assert resumable(interrupted, total_steps=20, code="a")
    assert not resumable(interrupted, total_steps=4, code="a")
    assert resumable(completed, total_steps=10, code="a")
    assert not resumable(completed, total_steps=10, code="b")
    assert not resumable(completed, total_steps=20, code="a")


def test_small_images_are_not_cropped_for_evaluation() -> None:
    small, large = (
        params().preprocess(),
        params(
            model={**PRETRAIN["model"], "image_size": 224}, views={"global_size": 224, "local_size": 96}
        ).preprocess(),
    )
    assert (small.resize, small.image_size) == (16, 16)
    assert (large.resize, large.image_size) == (256, 224)


def test_distillation_has_the_same_checks() -> None:
    with pytest.raises(UserError, match="must divide views"):
        validate(DistillParams, {**PRETRAIN, "views": {"global_size": 16, "local_size": 10}}, where="params.yaml")
