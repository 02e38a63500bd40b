from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from components.data.batch import CropBatch
from components.errors import UserError
from components.models.backbone import Preprocess, save_backbone
from components.models.vit import ViTConfig
from components.objectives import StepState
from components.objectives.branch import Branch, HeadParams, seeded_weights
from components.objectives.distillation import DistillationObjective, DistillationParams

MakeBatch = Callable[..., CropBatch]
TEACHER = ViTConfig(image_size=16, patch_size=4, width=24, depth=2, heads=2, layer_scale=0.5)
STUDENT = ViTConfig(image_size=16, patch_size=4, width=16, depth=1, heads=2, layer_scale=0.5, drop_path=0.5)
HEAD = HeadParams(hidden=20, bottleneck=8, prototypes=12)
PATCH_HEAD = HeadParams(hidden=20, bottleneck=8, prototypes=10)
STATE = StepState(step=3, seed=0, teacher_temperature=0.05)


def teacher() -> Branch:
    with seeded_weights(7):
        return Branch.build(TEACHER, HEAD, PATCH_HEAD)


def objective(**values: object) -> DistillationObjective:
    given = {"dino_head": HEAD.model_copy(update={"bottleneck": 6}), "ibot_head": PATCH_HEAD, **values}
    return DistillationObjective.from_teacher(STUDENT, DistillationParams(**given), teacher=teacher(), seed=1)


def test_masks_and_stochastic_depth_do_not_touch_the_student(make_batch: MakeBatch) -> None:
    made = objective()
    losses = [
        made(batch=make_batch(8, masked=masked), state=StepState(step=step, seed=0, teacher_temperature=0.05)).loss
        for masked, step in [(0.0, 0), (1.0, 0), (0.3, 9)]
    ]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


def test_ibot_term_is_the_mean_over_all_patches_of_both_global_crops(make_batch: MakeBatch) -> None:
    made, batch = objective(), make_batch()
    found = made(batch=batch, state=STATE).parts["ibot"]
    logits = made.student.ibot_head(made.student.backbone(batch.crops[0]).patches)
    targets = made.teacher.ibot_head(made.teacher.backbone(batch.crops[0]).patches) / STATE.teacher_temperature
    expected = -(targets.softmax(-1) * F.log_softmax(logits / 0.1, dim=-1)).sum(-1).mean()
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)


def test_a_share_of_the_patches_estimates_the_same_mean(make_batch: MakeBatch) -> None:
    batch = make_batch()
    whole = objective()(batch=batch, state=STATE).parts["ibot"]
    sampled = objective(patch_fraction=0.25)
    draws = torch.stack(
        [
            sampled(batch=batch, state=StepState(step=step, seed=0, teacher_temperature=0.05)).parts["ibot"]
            for step in range(100)
        ]
    )
    assert draws.std() > 0
    assert (draws.mean() - whole).abs() < 5 * draws.std() / 10


def test_only_the_student_learns_and_the_spare_follows_its_backbone(make_batch: MakeBatch) -> None:
    made = objective()
    made(batch=make_batch(), state=STATE).loss.backward()
    assert {name.split(".")[0] for name, p in made.named_parameters() if p.requires_grad} == {"student"}
    named = dict(made.named_parameters())
    assert sorted(right for _, right in made.ema_pairs()) == sorted(name for name in named if name.startswith("spare."))
    assert all(torch.equal(named[left], named[right]) for left, right in made.ema_pairs())


def test_every_student_parameter_gets_a_gradient(make_batch: MakeBatch) -> None:
    made = objective()
    made(batch=make_batch(), state=STATE).loss.backward()
    assert [name for name, parameter in made.student.named_parameters() if parameter.grad is None] == []


def test_student_and_spare_are_measured_each_by_its_own_features(make_batch: MakeBatch) -> None:
    measured, batch = replace(STATE, measure=True), make_batch()
    healthy = objective()(batch=batch, state=measured).parts
    names = {f"{who}_{what}" for who in ("student", "spare") for what in ("feature_std", "effective_rank")}
    assert names <= healthy.keys()
    assert not names & objective()(batch=batch, state=STATE).parts.keys()
    for collapsed in ("student", "spare"):
        made = objective()
        for parameter in getattr(made, collapsed).backbone.norm.parameters():
            parameter.data.fill_(1.0 if parameter is made.get_parameter(f"{collapsed}.backbone.norm.bias") else 0.0)
        parts = made(batch=batch, state=measured).parts
        for name in names:
            if name.startswith(collapsed):
                assert parts[name] < healthy[name] / 2, name
            else:
                assert torch.equal(parts[name], healthy[name]), name
        assert torch.equal(parts["feature_std"], healthy["feature_std"]), "that of the teacher"


def test_teacher_comes_from_its_artifact_with_its_heads(make_batch: MakeBatch, tmp_path: Path) -> None:
    original, batch = teacher(), make_batch()
    save_backbone(original.backbone, Preprocess(image_size=16, resize=16), tmp_path, lineage={}, card="")
    original.save_heads(tmp_path)
    loaded = Branch.load(tmp_path)
    with torch.no_grad():
        cls = original.backbone(batch.crops[0]).cls
        assert torch.equal(loaded.dino_head(loaded.backbone(batch.crops[0]).cls), original.dino_head(cls))
        assert torch.equal(loaded.ibot_head(cls), original.ibot_head(cls))


def test_teacher_without_heads_is_refused(tmp_path: Path) -> None:
    save_backbone(teacher().backbone, Preprocess(image_size=16, resize=16), tmp_path, lineage={}, card="")
    with pytest.raises(UserError, match=r"heads\.safetensors"):
        Branch.load(tmp_path)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"dino_head": PATCH_HEAD}, "dino_head.prototypes is 10, the teacher has 12"),
        ({"ibot_head": HEAD}, "ibot_head.prototypes is 12, the teacher has 10"),
        ({"ibot_head": None}, "shares its head"),
    ],
)
def test_heads_that_do_not_fit_the_teacher_are_refused(values: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        objective(**values)


def test_another_patch_size_than_the_teachers_is_refused() -> None:
    config = STUDENT.model_copy(update={"patch_size": 8})
    with pytest.raises(UserError, match="patch 8"):
        DistillationObjective.from_teacher(config, DistillationParams(dino_head=HEAD), teacher=teacher(), seed=1)
