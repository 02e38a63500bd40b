"""FLOPs of a plan against what torch counts while the real objective runs."""

import pytest
import torch
from planned import CASES, IMAGES, STATE, batch_of, distill, pretrain, with_patch_rows
from torch.utils.flop_counter import FlopCounterMode

from components.objectives import Objective
from components.objectives.branch import Branch
from components.objectives.distillation import DistillationObjective
from components.training.fast_path import checkpoint_activations
from components.training.planning.flops import model_flops, run_flops
from components.training.planning.workload import distillation, pretraining
from components.training.pretrain import build
from components.training.recipe import TrainingParams

TOLERANCE = 0.01
"""Not planned: resampling of positions, neighbours of KoLeo, Sinkhorn."""


def counted(objective: Objective, params: TrainingParams) -> tuple[int, float]:
    """FLOPs of a step, and the masked patches of an image."""
    batch = batch_of(params)
    # in bf16 every attention on a CPU is a plain product, which torch counts; it does not count the flash kernel there
    with FlopCounterMode(display=False) as counter:
        objective.bfloat16()(batch=batch, state=STATE).loss.backward()
    return counter.get_total_flops(), int(batch.masks.sum()) / IMAGES


@pytest.mark.parametrize("case", CASES)
def test_run_flops_are_what_a_step_of_pretraining_computes(case: str) -> None:
    params = pretrain(**CASES[case])
    found, rows = counted(build(params), params)
    planned = run_flops(with_patch_rows(pretraining(params, params.views), 0.0 if "no iBOT" in case else rows))
    assert planned.total * IMAGES == pytest.approx(found, rel=TOLERANCE)


@pytest.mark.parametrize("case", ["one head, MLP", "two heads, SwiGLU, registers"])
def test_activation_checkpointing_runs_each_block_once_more(case: str) -> None:
    params = pretrain(**CASES[case], engine={"activation_checkpointing": True})
    objective = build(params)
    checkpoint_activations(objective, params.engine)
    found, rows = counted(objective, params)
    planned = run_flops(with_patch_rows(pretraining(params, params.views), rows))
    assert planned.total * IMAGES == pytest.approx(found, rel=TOLERANCE)
    assert model_flops(pretraining(params, params.views)) == model_flops(
        pretraining(pretrain(**CASES[case]), params.views)
    )


def test_run_flops_are_what_a_step_of_distillation_computes() -> None:
    params, teacher = distill(), pretrain()
    branch = build(teacher).get_submodule("teacher")
    assert isinstance(branch, Branch)
    objective = DistillationObjective.from_teacher(params.model, params.objective, teacher=branch, seed=0)
    found, _ = counted(objective, params)
    assert run_flops(distillation(params, teacher)).total * IMAGES == pytest.approx(found, rel=TOLERANCE)


@pytest.mark.parametrize("case", [name for name in CASES if "depth" not in name])
def test_model_flops_of_the_backbone_are_those_of_every_token_at_full_depth(case: str) -> None:
    params = pretrain(**CASES[case])
    student = build(params).get_submodule("student.backbone").bfloat16()
    with FlopCounterMode(display=False) as counter:
        outputs = student(batch_of(params).crops)
        torch.stack([part.float().sum() for tokens in outputs for part in tokens]).sum().backward()
    assert model_flops(pretraining(params, params.views)).backbone * IMAGES == pytest.approx(
        counter.get_total_flops(), rel=TOLERANCE
    )


def test_the_expected_number_of_masked_patches_is_near_what_is_drawn() -> None:
    params = pretrain()
    drawn = sum(int(batch_of(params, images=64).masks.sum()) for _ in range(1)) / 64
    assert pretraining(params, params.views).student.patch_rows == pytest.approx(drawn, rel=0.1)


def test_stochastic_depth_saves_its_share_of_all_blocks_but_the_last() -> None:
    cases = [pretrain(**CASES[name]) for name in ("one head, MLP", "stochastic depth, no LayerScale")]
    whole, dropped = (run_flops(pretraining(params, params.views)) for params in cases)
    assert dropped.teacher == whole.teacher
    assert 0.75 < dropped.backbone / whole.backbone < 0.85
