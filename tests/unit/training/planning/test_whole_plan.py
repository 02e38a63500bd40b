"""A plan as a whole: numbers that follow from each other, warnings, and its text."""

import re
from dataclasses import replace
from typing import Any

import pytest
from planned import MODEL, PRETRAIN, VIEWS, distill, pretrain

from components.errors import UserError
from components.training.planning.matmul_rate import matmul_tflops
from components.training.planning.plan import Machines, Plan, plan_distillation, plan_pretraining
from components.training.planning.report import report

MACHINES = Machines(gpus=2, memory=80 * 2**30, tflops=100.0, measured=False, utilisation=0.5)
FITTING = {"image_size": 28, "patch_size": 4, "width": 256, "depth": 2, "heads": 4, "registers": 6}
FITTING_VIEWS = {**VIEWS, "global_size": 28, "local_size": 12}


def plan(machines: Machines = MACHINES, dataset: int | None = None, **changes: Any) -> Plan:
    return plan_pretraining(
        pretrain(**{"objective": {**PRETRAIN["objective"], "koleo_group": 2}, **changes}), machines, dataset
    )


def test_time_is_work_over_rate() -> None:
    found = plan()
    [rate] = found.images_per_second
    assert rate * found.run_flops.total == pytest.approx(2 * 100e12 * 0.5)
    assert found.seconds == pytest.approx(100 * 8 / rate)
    assert plan(replace(MACHINES, gpus=4)).images_per_second == pytest.approx((2 * rate,))


def test_a_phase_on_larger_crops_takes_its_own_time_and_decides_the_memory() -> None:
    larger = {"global_size": 64, "local_size": 32}
    before, after = plan(), plan(views={**VIEWS, **larger})
    both = plan(high_resolution={"share": 0.25, **larger})
    assert both.memory == after.memory
    assert both.memory.total > before.memory.total
    assert both.seconds == pytest.approx(0.75 * (before.seconds or 0) + 0.25 * (after.seconds or 0))
    text = report(both)
    assert "crops 2 x 32 + 3 x 16, then 2 x 64 + 3 x 32 pixels" in text
    assert "in the last phase" in text
    assert [one for one in both.warnings if "of 64 pixels" in one]


def test_a_last_phase_that_leaves_no_steps_before_it_is_refused() -> None:
    with pytest.raises(UserError, match="high_resolution takes 100 of 100 steps"):
        plan(high_resolution={"steps": 100, "global_size": 64, "local_size": 32})


def test_what_saves_memory_is_planned_with_and_advised_where_it_is_not_there() -> None:
    [text] = [one for one in plan(replace(MACHINES, memory=1.0)).warnings if "of memory" in one]
    assert "engine.activation_checkpointing to true" in text
    assert "objective.tile_rows to 64" in text
    objective = {**PRETRAIN["objective"], "koleo_group": 2, "tile_rows": 8}
    saving = {"engine": {"activation_checkpointing": True}, "objective": objective}
    found = plan(replace(MACHINES, memory=1.0), **saving)
    [text] = [one for one in found.warnings if "of memory" in one]
    assert "activation_checkpointing" not in text
    assert "tile_rows" not in text
    assert found.memory.activations < plan().memory.activations
    assert found.memory.heads < plan().memory.heads
    assert (found.seconds or 0) > (plan().seconds or 0)


def test_a_recipe_in_epochs_has_no_end_without_the_number_of_images() -> None:
    found = plan(steps=None, epochs=3)
    assert (found.steps, found.seconds) == (None, None)
    assert "give --images" in report(found)
    assert plan(steps=None, epochs=3, dataset=80).steps == 30


def test_the_learning_rate_follows_the_batch_by_the_square_root_rule() -> None:
    rates = [plan(batch_size=size, schedule={"lr": 1e-3, "lr_reference_batch": 8}).peak_lr for size in (8, 32)]
    assert rates == pytest.approx([1e-3, 2e-3])


def test_micro_batches_divide_the_share_of_a_gpu() -> None:
    found = plan(batch_size=32, engine={"micro_batch": 4})
    assert (found.images, found.micro_batches) == (4, 4)


def test_shapes_that_fill_the_chip_give_no_warning() -> None:
    objective = {**PRETRAIN["objective"], "koleo_group": 2}
    found = plan(model={**FITTING, "registers": 6}, views=FITTING_VIEWS, objective=objective)
    assert [kind.tokens for kind in found.workload.student.crops] == [56, 16]
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model": {**FITTING, "heads": 8}},
            "attention heads are 32 wide, not a multiple of 64: take 4 heads instead of 8",
        ),
        (
            {"model": {**FITTING, "width": 320, "heads": 5}},
            "the embedding is 320 wide, not a multiple of 256: 256 would be",
        ),
        (
            {"model": {**FITTING, "registers": 0}},
            "global crops of 28 pixels have 50 tokens, not a multiple of 8: 6 regis",
        ),
        ({"batch_size": 9}, "training would refuse this: batch_size 9 on 2 processes: take a multiple of 2"),
        ({"engine": {"micro_batch": 3}}, "micro_batch 3 does not divide the 4 images"),
        (
            {"objective": {"dino_head": {"prototypes": 64}, "koleo_group": 3}},
            "objective.koleo_group 3 does not divide the 4",
        ),
        (
            {"engine": {"micro_batch": 2}, "objective": {"koleo_group": 2, "centring": "sinkhorn"}},
            "Sinkhorn balances the 4",
        ),
        ({"dataset": 7}, "a batch of 8 needs as many images, and there are 7"),
    ],
)
def test_what_is_wrong_or_wasteful_is_said_with_its_remedy(changes: dict[str, Any], words: str) -> None:
    found = plan(**{"model": FITTING, "views": FITTING_VIEWS, **changes})
    assert [text for text in found.warnings if words in text], found.warnings


def test_memory_that_is_not_there_is_said_with_the_micro_batch_that_fits() -> None:
    whole = plan().memory.total
    [text] = [one for one in plan(replace(MACHINES, memory=0.9 * whole)).warnings if "of memory" in one]
    assert "set engine.micro_batch to 2" in text
    [text] = [one for one in plan(replace(MACHINES, memory=0.01 * whole)).warnings if "of memory" in one]
    assert "take more GPUs, or larger ones" in text


def test_the_report_of_a_distillation_names_the_three_branches() -> None:
    text = report(plan_distillation(distill(), pretrain(), MACHINES, None))
    for branch in ("student backbone", "teacher dino head", "spare backbone"):
        assert branch in text


def test_the_parts_of_the_report_add_up() -> None:
    text = report(plan(model={**MODEL, "depth": 12, "width": 768, "heads": 12}, batch_size=2048))
    section = text[text.index("memory of a GPU") :].splitlines()[1:9]
    sizes = [float(re.findall(r"\d+\.\d+", line)[0]) for line in section]
    assert sum(sizes[:-1]) == pytest.approx(sizes[-1], abs=0.05)


def test_a_measured_rate_is_that_of_a_product() -> None:
    assert 1e-4 < matmul_tflops("cpu", "fp32", side=128) < 100
