from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components.errors import UserError
from components.parameters import validate
from components.training.distill import DistillParams
from components.training.pretrain import PretrainParams
from components.training.recipe import resumable, run_key
from tests.tiny_training import DISTILL, PRETRAIN

ROOT = Path(__file__).parents[3]
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
        ({"method": "dino", "objective": {"ibot_weight": 1.0}}, "'objective.ibot_weight' is 1.0"),
        ({"method": "dino", "objective": {"dino_head": {"hiden": 8}}}, "'objective.dino_head.hiden'"),
        ({"model": {**PRETRAIN["model"], "channels": 4}}, "model.channels 4 must be 3"),
        ({"resize": 15}, "resize 15 must be at least model.image_size 16"),
    ],
)
def test_F16_impossible_parameters_are_refused_with_key_and_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        params(**changes)
    assert message in str(caught.value)
    assert "params.yaml" in str(caught.value)


def test_F16_compiled_blocks_whose_layers_gather_weights_are_refused() -> None:
    engine = {"compile": True, "zero_stage": 3}
    assert params(engine=engine).share(1) == 8
    assert params(engine={**engine, "zero_stage": 2}).share(2) == 4
    with pytest.raises(UserError, match=r"engine.compile with engine.zero_stage 3 on several processes"):
        params(engine=engine).share(2)


def test_how_a_step_is_computed_is_not_part_of_the_key() -> None:
    changed = params(
        engine={"activation_checkpointing": True, "compile": True, "micro_batch": 4},
        objective={**PRETRAIN["objective"], "tile_rows": 8},
    )
    assert run_key("pretrain", changed, IDS) == run_key("pretrain", params(), IDS)


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


@pytest.mark.parametrize(
    ("changes", "processes", "message"),
    [
        ({"objective": {"koleo_group": 8}}, 2, "objective.koleo_group 8 does not divide the 4 images .* set it to 4"),
        ({"objective": {"koleo_group": 3}}, 2, "objective.koleo_group 3 does not divide the 4 images .* set it to 2"),
        ({"objective": {"koleo_group": 4}, "engine": {"micro_batch": 2}}, 1, "koleo_group 4 does not divide the 2"),
        ({"batch_size": 6, "objective": {"koleo_group": 2, "drop_path_group": 2}}, 2, "koleo_group 2 .* set it to 3"),
        ({"objective": {"koleo_weight": 0.0, "drop_path_group": 8}}, 2, "drop_path_group 8 does not divide the 4"),
    ],
)
def test_F6_groups_that_parts_of_a_batch_cannot_form_are_refused(
    changes: dict[str, Any], processes: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        params(**changes).share(processes)


@pytest.mark.parametrize(
    ("changes", "processes"),
    [
        ({"objective": {"koleo_group": 32, "drop_path_group": 3}}, 1),
        ({"objective": {"koleo_group": 4, "drop_path_group": 2}}, 2),
        ({"objective": {"koleo_weight": 0.0, "koleo_group": 32, "drop_path_group": 4}}, 2),
        ({"method": "dino", "objective": {"koleo_group": 32, "drop_path_group": 4}}, 2),
        ({"objective": {"koleo_group": 4}, "model": {**PRETRAIN["model"], "drop_path": 0.0}}, 2),
    ],
    ids=["one forward pass is one group", "they divide", "no KoLeo loss", "DINO has none", "no stochastic depth"],
)
def test_groups_matter_only_where_a_batch_is_divided_and_they_are_used(changes: dict[str, Any], processes: int) -> None:
    assert params(**changes).share(processes) == 8 // processes


def test_distillation_has_no_stochastic_depth_and_no_group_of_it() -> None:
    values = {**DISTILL, "model": {**DISTILL["model"], "drop_path": 0.5}, "objective": {"koleo_group": 8}}
    section = validate(DistillParams, values, where="params.yaml")
    assert section.batch_groups() == {"objective.koleo_group": 8}
    with pytest.raises(UserError, match=r"objective\.koleo_group 8"):
        section.share(2)


@pytest.mark.parametrize("recipe", sorted(ROOT.glob("infra/recipes/*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("processes", [1, 2])
def test_the_shipped_recipes_can_be_trained_by_one_process_and_by_two(recipe: Path, processes: int) -> None:
    read = YAML(typ="safe", pure=True).load
    sections = read((ROOT / "params.yaml").read_text()) | read(recipe.read_text())
    for name, kind in (("pretrain", PretrainParams), ("distill", DistillParams)):
        section = validate(kind, sections[name], where=recipe.name)
        assert section.share(processes) * processes == section.batch_size


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
        params(health={"max_rollbacks": 3}),
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
    interrupted = {"step": 5, "total_steps": 10, "code": "a", "health_params": {"margin": 1}}
    completed = {**interrupted, "step": 10}
    same = {"margin": 1}
    assert resumable(interrupted, total_steps=10, code="b", health={})
    assert resumable(interrupted, total_steps=20, code="a", health=same)
    assert not resumable(interrupted, total_steps=4, code="a", health=same)
    assert resumable(completed, total_steps=10, code="a", health=same)
    assert not resumable(completed, total_steps=10, code="b", health=same)
    assert not resumable(completed, total_steps=20, code="a", health=same)
    assert not resumable(completed, total_steps=10, code="a", health={"margin": 2})


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
