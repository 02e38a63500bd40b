"""Prototype heads tile by tile against the same heads with all logits at once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from components.data.batch import CropBatch
from components.errors import UserError
from components.models.heads import Prototypes
from components.models.vit import ViTConfig
from components.objectives import StepState, columns
from components.objectives.branch import Branch, HeadParams
from components.objectives.columns import Columns
from components.objectives.dinov2 import DINOv2Objective, DINOv2Params
from components.objectives.distillation import DistillationObjective, DistillationParams
from components.objectives.tiled_loss import Section, tiled_cross_entropy
from components.objectives.tiled_targets import TargetRule

MakeBatch = Callable[..., CropBatch]
CONFIG = ViTConfig(image_size=16, patch_size=4, width=16, depth=2, heads=2, layer_scale=0.5)
HEAD = HeadParams(hidden=24, bottleneck=8, prototypes=12)
STATE = StepState(step=3, seed=0, teacher_temperature=0.05)
RELATIVE = 1e-6
"""Of fp32, as a share of the norm: the same sums in another order."""


@pytest.fixture(autouse=True)
def narrow_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of columns, the last one narrower than the others."""
    monkeypatch.setattr(columns, "CHUNK_ELEMENTS", 40)


def objective(tile_rows: int | None, **params: Any) -> DINOv2Objective:
    values = {"dino_head": HEAD, "ibot_head": HEAD.model_copy(update={"prototypes": 10}), **params}
    made = DINOv2Objective.build(CONFIG, DINOv2Params(**values, tile_rows=tile_rows), seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        parameter.data.normal_(std=0.3, generator=generator)
    for name, buffer in made.named_buffers():
        if name.endswith("centre"):
            buffer.normal_(std=0.1, generator=generator)
    return made


def distance(found: Tensor, expected: Tensor) -> float:
    """Relative to the norm of what is expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30))


def assert_alike(tiled: DINOv2Objective, whole: DINOv2Objective, batch: CropBatch) -> None:
    state = replace(STATE, measure=True)
    some, expected = (made(batch=batch, state=state) for made in (tiled, whole))
    assert list(some.parts) == list(expected.parts)
    for name, value in expected.parts.items():
        assert distance(some.parts[name], value) <= RELATIVE, name
    some.loss.backward()
    expected.loss.backward()
    for (name, left), right in zip(tiled.student.named_parameters(), whole.student.parameters(), strict=True):
        if right.grad is not None:
            # what lies before the head adds its own rounding to that of the two ways
            assert distance(left.grad, right.grad) <= (RELATIVE if "prototypes" in name else 5 * RELATIVE), name
    for made in (tiled, whole):
        made.commit()
    for (name, left), (_, right) in zip(tiled.named_buffers(), whole.named_buffers(), strict=True):
        assert distance(left, right) <= RELATIVE, name


@pytest.mark.parametrize("tile_rows", [1, 7, 1000])
@pytest.mark.parametrize("centring", ["softmax", "sinkhorn"])
@pytest.mark.parametrize("shared", [False, True], ids=["separate heads", "shared head"])
def test_tiles_give_the_losses_gradients_measures_and_centres_of_whole_logits(
    make_batch: MakeBatch, shared: bool, centring: str, tile_rows: int
) -> None:
    params = {"centring": centring, "ibot_weight": 0.7, **({"ibot_head": None} if shared else {})}
    assert_alike(objective(tile_rows, **params), objective(None, **params), make_batch(5))


@pytest.mark.parametrize("centring", ["softmax", "sinkhorn"])
@pytest.mark.parametrize("masked", [0.0, 1.0], ids=["none masked", "all masked"])
@pytest.mark.parametrize("shared", [False, True], ids=["separate heads", "shared head"])
def test_tiles_agree_without_local_views_and_at_the_ends_of_masking(
    make_batch: MakeBatch, shared: bool, masked: float, centring: str
) -> None:
    params = {"centring": centring, "koleo_weight": 0.0, **({"ibot_head": None} if shared else {})}
    batch = make_batch(local_views=0, masked=masked)
    assert_alike(objective(4, **params), objective(None, **params), batch)


def test_tiles_agree_without_ibot(make_batch: MakeBatch) -> None:
    assert_alike(objective(9, ibot_weight=0.0), objective(None, ibot_weight=0.0), make_batch())


def test_tiles_agree_in_distillation_from_a_teacher_with_a_wider_bottleneck(make_batch: MakeBatch) -> None:
    teacher_head = HEAD.model_copy(update={"bottleneck": 20})
    made = []
    for tile_rows in (6, None):
        torch.manual_seed(0)
        teacher = Branch.build(CONFIG, teacher_head, teacher_head)
        params = DistillationParams(dino_head=HEAD, ibot_head=HEAD, centring="sinkhorn", tile_rows=tile_rows)
        made.append(DistillationObjective.from_teacher(CONFIG, params, teacher=teacher, seed=0))
    assert_alike(made[0], made[1], make_batch())


def test_bfloat16_tiles_are_as_near_to_fp32_as_whole_bfloat16_logits(make_batch: MakeBatch) -> None:
    exact = objective(None)
    exact(batch=make_batch(), state=STATE).loss.backward()
    expected = exact.student.dino_head.prototypes.weight.grad
    errors = []
    for tile_rows in (6, None):
        rough = objective(tile_rows).bfloat16()
        rough(batch=make_batch(), state=STATE).loss.backward()
        found = rough.student.dino_head.prototypes.weight.grad
        assert found.dtype == torch.bfloat16
        errors.append(distance(found, expected))
    assert errors[0] <= 1.2 * errors[1]


def test_the_gradient_is_scaled_by_what_follows_and_given_once() -> None:
    torch.manual_seed(0)
    student, teacher = Prototypes(8, 12), Prototypes(8, 12)
    rows, targets = (torch.nn.functional.normalize(torch.randn(1, 6, 8), dim=-1) for _ in range(2))
    gradients = []
    for factor in (1.0, 3.0):
        leaf = rows.clone().requires_grad_()
        section = Section(leaf, targets, TargetRule(0.05, 12), torch.ones(1, 6), crossed=False)
        loss = tiled_cross_entropy(student, teacher, [section], temperature=0.1, tile_rows=4) * factor
        loss.backward(retain_graph=True)
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], 3 * gradients[0])
    with pytest.raises(RuntimeError, match="twice"):
        loss.backward()


def test_columns_cover_every_prototype_once() -> None:
    made = Columns.of(torch.randn(101, 3))
    covered = [column for chunk in made.chunks(7) for column in range(chunk.start, chunk.stop)]
    assert covered == list(range(101))
    assert next(iter(made.chunks(10**6))) == slice(0, 1)


def test_temperatures_that_would_leave_the_range_of_fp32_are_refused(make_batch: MakeBatch) -> None:
    with pytest.raises(ValidationError, match=r"student_temperature 0.01 must be at least 0.025"):
        DINOv2Params(tile_rows=8, student_temperature=0.01)
    with pytest.raises(UserError, match=r"teacher temperature of 0.01"):
        objective(8)(batch=make_batch(), state=replace(STATE, teacher_temperature=0.01))
