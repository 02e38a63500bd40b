from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from components.data.batch import CropBatch
from components.errors import UserError
from components.models.vit import ViTConfig
from components.objectives import OBJECTIVES, StepState
from components.objectives.branch import HeadParams
from components.objectives.dinov2 import DINOObjective, DINOParams, DINOv2Objective, DINOv2Params

MakeBatch = Callable[..., CropBatch]
CONFIG = ViTConfig(image_size=16, patch_size=4, width=16, depth=2, heads=2, layer_scale=0.5)
HEAD = HeadParams(hidden=24, bottleneck=8, prototypes=12)
STATE = StepState(step=3, seed=0, teacher_temperature=0.05)


def objective(drop_path: float = 0.0, **params: object) -> DINOv2Objective:
    values = {"dino_head": HEAD, "ibot_head": HEAD.model_copy(update={"prototypes": 10}), **params}
    config = CONFIG.model_copy(update={"drop_path": drop_path})
    made = DINOv2Objective.build(config, DINOv2Params(**values), seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        parameter.data.normal_(std=0.3, generator=generator)
    return made


def plain_loss(made: DINOv2Objective, batch: CropBatch) -> Tensor:
    """The loss of softmax centring with a zero centre, crop by crop and patch by patch, in float64."""
    made = made.double()
    crops = [part.double() for part in batch.crops]
    images = len(batch.ids)
    views = [view for part in crops for view in part.split(images)]
    student, teacher = made.student, made.teacher
    masks = batch.masks.split(images)

    def log_p(logits: Tensor) -> Tensor:
        return F.log_softmax(logits / 0.1, dim=-1)

    tokens = [student.backbone(view, [masks[v] if v < 2 else None]) for v, view in enumerate(views)]
    targets = [teacher.backbone(view) for view in views[:2]]
    teacher_p = [(teacher.dino_head(target.cls) / STATE.teacher_temperature).softmax(-1).detach() for target in targets]
    pairs = [(t, s) for t in range(2) for s in range(len(views)) if s != t]
    dino = sum(-(teacher_p[t] * log_p(student.dino_head(tokens[s].cls))).sum(-1).mean() for t, s in pairs) / len(pairs)
    ibot = torch.zeros((), dtype=torch.float64)
    patch_head = student.ibot_head or student.dino_head
    teacher_head = teacher.ibot_head or teacher.dino_head
    for v in range(2):
        for i in range(images):
            chosen = masks[v][i]
            if chosen.any():
                p = (teacher_head(targets[v].patches[i][chosen]) / STATE.teacher_temperature).softmax(-1).detach()
                ibot = ibot - (p * log_p(patch_head(tokens[v].patches[i][chosen]))).sum(-1).mean() / (2 * images)
    koleo = torch.zeros((), dtype=torch.float64)
    for v in range(2 if made.params.koleo_weight else 0):
        unit = F.normalize(tokens[v].cls, dim=-1)
        distances = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")
        koleo = koleo - (distances + torch.eye(images) * 9).amin(1).log().mean()
    return dino + ibot + 0.1 * koleo


@pytest.mark.parametrize("local_views", [0, 3])
@pytest.mark.parametrize("masked", [0.0, 0.3, 1.0], ids=["none masked", "some masked", "all masked"])
@pytest.mark.parametrize("shared", [False, True], ids=["separate heads", "shared head"])
def test_objective_equals_the_plain_loss_on_value_and_gradients(
    make_batch: MakeBatch, shared: bool, masked: float, local_views: int
) -> None:
    batch = make_batch(local_views=local_views, masked=masked)
    # images that are masked all over are equal: KoLeo is then a matter of its epsilon
    values = {"koleo_weight": 0.0 if masked == 1.0 else 0.1, **({"ibot_head": None} if shared else {})}
    made, plain = objective(**values), objective(**values)
    found = made(batch=batch, state=STATE).loss
    expected = plain_loss(plain, batch)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    found.backward()
    expected.backward()
    for (name, left), (_, right) in zip(made.student.named_parameters(), plain.student.named_parameters(), strict=True):
        gradient = torch.zeros_like(right) if right.grad is None else right.grad
        torch.testing.assert_close(left.grad.double(), gradient, rtol=2e-3, atol=2e-4, msg=name)


def test_every_student_parameter_gets_a_gradient_when_nothing_is_masked(make_batch: MakeBatch) -> None:
    made = objective()
    made(batch=make_batch(masked=0.0), state=STATE).loss.backward()
    assert [name for name, parameter in made.student.named_parameters() if parameter.grad is None] == []
    assert made.student.ibot_head.prototypes.weight.grad.abs().max() == 0


def test_teacher_gets_no_gradient(make_batch: MakeBatch) -> None:
    made = objective()
    made(batch=make_batch(), state=STATE).loss.backward()
    assert all(parameter.grad is None for parameter in made.teacher.parameters())
    assert not any(parameter.requires_grad for parameter in made.teacher.parameters())


@pytest.mark.parametrize("centring", ["softmax", "sinkhorn"])
@pytest.mark.parametrize("shared", [False, True])
def test_parts_add_up_to_the_loss(make_batch: MakeBatch, centring: str, shared: bool) -> None:
    heads = {"ibot_head": None} if shared else {}
    made = objective(centring=centring, ibot_weight=0.5, koleo_weight=0.2, **heads)
    loss, parts = made(batch=make_batch(), state=STATE)
    expected = parts["dino_global"] + parts["dino_local"] + 0.5 * parts["ibot"] + 0.2 * parts["koleo"]
    torch.testing.assert_close(loss.detach(), expected)
    assert not any(part.requires_grad for part in parts.values())


def test_health_measures_come_on_request_only(make_batch: MakeBatch) -> None:
    made = objective()
    plain = made(batch=make_batch(), state=STATE).parts
    measured = made(batch=make_batch(), state=replace(STATE, measure=True)).parts
    assert measured.keys() - plain.keys() == {
        "teacher_entropy",
        "student_entropy",
        "prototype_usage",
        "student_prototype_usage",
        "feature_std",
        "effective_rank",
        "teacher_student_cosine",
    }
    assert all(value.isfinite() for value in measured.values())


def test_softmax_centres_move_on_commit_only(make_batch: MakeBatch) -> None:
    made = objective()
    made(batch=make_batch(), state=STATE)
    made.reject()
    made.commit()
    assert made.dino_centring.centre.abs().max() == 0
    made(batch=make_batch(), state=STATE)
    made.commit()
    assert made.dino_centring.centre.abs().max() > 0
    assert made.ibot_centring.centre.abs().max() > 0
    assert {"dino_centring.centre", "ibot_centring.centre"} <= made.state_dict().keys()


def test_batch_of_one_is_refused(make_batch: MakeBatch) -> None:
    with pytest.raises(UserError, match="batch of one"):
        objective()(batch=make_batch(1), state=STATE)
    assert objective(koleo_weight=0.0)(batch=make_batch(1), state=STATE).loss.isfinite()


def halves(batch: CropBatch) -> list[CropBatch]:
    """What two processes get of a batch."""
    images = len(batch.ids)

    def rows(tensor: Tensor, part: slice) -> Tensor:
        return torch.cat([view[part] for view in tensor.split(images)])

    return [
        CropBatch(
            [rows(crop, part) for crop in batch.crops],
            rows(batch.masks, part),
            batch.ids[part],
            batch.positions[part],
            batch.step,
        )
        for part in (slice(0, images // 2), slice(images // 2, images))
    ]


@pytest.mark.parametrize("drop_path", [0.0, 0.4])
def test_mean_over_two_halves_is_the_loss_of_the_whole(make_batch: MakeBatch, drop_path: float) -> None:
    """Softmax centring needs no communication: dropped samples, KoLeo groups and norms must agree."""
    batch = make_batch(16)
    made, split = (objective(drop_path, koleo_group=4, drop_path_group=8) for _ in range(2))
    whole = made(batch=batch, state=STATE).loss
    whole.backward()
    parts = [split(batch=half, state=STATE).loss for half in halves(batch)]
    (sum(parts) / 2).backward()
    torch.testing.assert_close(sum(parts) / 2, whole, rtol=1e-5, atol=1e-5)
    for (name, left), (_, right) in zip(made.student.named_parameters(), split.student.named_parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_stochastic_depth_is_for_the_student_only(make_batch: MakeBatch) -> None:
    batch = make_batch(16)
    with_drop, without = objective(0.5), objective(0.0)
    rows = with_drop._patch_rows(batch, STATE)
    torch.testing.assert_close(with_drop._targets(batch, rows, STATE).cls, without._targets(batch, rows, STATE).cls)
    left, right = (made(batch=batch, state=STATE).loss for made in (with_drop, without))
    assert not torch.allclose(left, right)


def test_same_step_gives_the_same_loss_and_another_step_another(make_batch: MakeBatch) -> None:
    made, batch = objective(0.5), make_batch(16)
    first = made(batch=batch, state=STATE).loss
    assert torch.equal(first, made(batch=batch, state=STATE).loss)
    assert not torch.equal(first, made(batch=batch, state=replace(STATE, step=4)).loss)


@pytest.mark.parametrize("heads", [{}, {"ibot_head": None}, {"ibot_weight": 0.0}])
def test_ema_pairs_cover_every_parameter_of_the_teacher_once(heads: dict[str, object]) -> None:
    made = objective(**heads)
    sources, averages = zip(*made.ema_pairs(), strict=True)
    named = dict(made.named_parameters())
    assert sorted(averages) == sorted(name for name in named if name.startswith("teacher."))
    assert sorted(sources) == sorted(name for name in named if name.startswith("student."))
    assert all(named[left].shape == named[right].shape for left, right in made.ema_pairs())


def test_teacher_starts_as_the_student_and_seeds_decide_the_weights() -> None:
    params = DINOv2Params(dino_head=HEAD)
    made, again, other = (DINOv2Objective.build(CONFIG, params, seed=seed) for seed in (0, 0, 1))
    for (name, left), right in zip(made.student.named_parameters(), made.teacher.parameters(), strict=True):
        assert torch.equal(left, right), name
    weights = [built.student.dino_head.mlp[0].weight for built in (made, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    DINOv2Objective.build(CONFIG, DINOv2Params(dino_head=HEAD), seed=0)
    assert torch.equal(torch.rand(1), expected)


def test_bfloat16_gives_a_loss_near_the_float32_one(make_batch: MakeBatch) -> None:
    exact = objective()(batch=make_batch(), state=STATE).loss
    rough = objective().bfloat16()(batch=make_batch(), state=STATE).loss
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)


def test_dino_masks_nothing_and_has_no_ibot_head(make_batch: MakeBatch) -> None:
    made = OBJECTIVES["dino"].build(CONFIG, DINOParams(dino_head=HEAD), seed=0)
    assert isinstance(made, DINOObjective)
    assert made.student.ibot_head is None
    losses = [made(batch=make_batch(masked=masked), state=STATE) for masked in (0.0, 1.0)]
    assert torch.equal(losses[0].loss, losses[1].loss)
    assert losses[0].parts.keys() == {"loss", "dino", "dino_global", "dino_local"}


def test_gradient_of_the_objective_learns(make_batch: MakeBatch) -> None:
    """A student that follows the gradient comes nearer to a fixed teacher."""
    made, batch = objective(koleo_weight=0.0), make_batch(8)
    optimiser = torch.optim.Adam(made.student.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = made(batch=batch, state=STATE).loss
        made.reject()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
