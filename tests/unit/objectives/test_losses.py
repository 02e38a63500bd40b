import pytest
import torch
from torch import Tensor

from components.objectives.losses import dino_loss, ibot_loss, koleo_loss

TEMPERATURE = 0.1


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 0.4


def cross_entropy(teacher: Tensor, student: Tensor) -> Tensor:
    """Plain formula for one row."""
    scaled = student / TEMPERATURE
    return -(teacher * (scaled - scaled.exp().sum().log())).sum()


def plain_dino(student: Tensor, teacher: Tensor) -> Tensor:
    views, batch, _ = student.shape
    pairs = [(t, s) for t in range(2) for s in range(views) if s != t]
    terms = [sum(cross_entropy(teacher[t, i], student[s, i]) for i in range(batch)) / batch for t, s in pairs]
    return sum(terms) / len(terms)


def assert_same_value_and_gradient(fast: Tensor, fast_input: Tensor, plain: Tensor, plain_input: Tensor) -> None:
    torch.testing.assert_close(fast.double(), plain, rtol=1e-5, atol=1e-6)
    fast.backward()
    plain.backward()
    torch.testing.assert_close(fast_input.grad.double(), plain_input.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("local_views", [0, 1, 8])
@pytest.mark.parametrize("batch", [1, 3])
def test_dino_loss_equals_the_mean_over_all_pairs_of_views(local_views: int, batch: int) -> None:
    teacher = draw(2, batch, 7, seed=1).softmax(-1)
    plain_input = draw(2 + local_views, batch, 7).requires_grad_()
    fast_input = plain_input.detach().float().requires_grad_()
    global_term, local_term = dino_loss(fast_input, teacher.float(), temperature=TEMPERATURE)
    assert_same_value_and_gradient(global_term + local_term, fast_input, plain_dino(plain_input, teacher), plain_input)


def test_every_dino_term_of_ten_crops_weighs_one_eighteenth() -> None:
    """With a uniform teacher and uniform students every term is log K, whatever its weight; so vary one crop."""
    teacher = torch.full((2, 1, 5), 0.2)
    flat = torch.zeros(10, 1, 5)
    base = sum(dino_loss(flat, teacher, temperature=TEMPERATURE))
    for view, terms in [(0, 1), (1, 1), (2, 2), (9, 2)]:
        changed = flat.clone()
        changed[view] = draw(1, 5).float()
        extra = cross_entropy(teacher[0, 0].double(), changed[view, 0].double()) - torch.tensor(5.0).log()
        difference = sum(dino_loss(changed, teacher, temperature=TEMPERATURE)) - base
        assert difference.item() == pytest.approx(extra.item() * terms / 18, rel=1e-4)


def test_dino_loss_never_compares_a_view_with_itself() -> None:
    teacher = torch.zeros(2, 1, 4)
    teacher[0, 0, 0] = teacher[1, 0, 1] = 1.0
    student = torch.zeros(2, 1, 4)
    student[0, 0, 1] = student[1, 0, 0] = 5.0
    assert sum(dino_loss(student, teacher, temperature=TEMPERATURE)).item() < 1e-6


def plain_ibot(student: Tensor, teacher: Tensor, masks: Tensor) -> Tensor:
    """Each crop's sum over its number of masked patches, mean over all crops."""
    total, row = torch.zeros((), dtype=torch.float64), 0
    for mask in masks:
        count = int(mask.sum())
        for _ in range(count):
            total = total + cross_entropy(teacher[row], student[row]) / count
            row += 1
    return total / len(masks)


@pytest.mark.parametrize(
    "masks",
    [
        torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=torch.bool),
        torch.ones(4, 3, dtype=torch.bool),
    ],
    ids=["some masked", "all masked"],
)
def test_ibot_loss_equals_the_mean_of_per_crop_means(masks: Tensor) -> None:
    rows = int(masks.sum())
    teacher = draw(rows, 7, seed=1).softmax(-1)
    plain_input = draw(rows, 7).requires_grad_()
    fast_input = plain_input.detach().float().requires_grad_()
    counts = masks.sum(1)
    weights = torch.cat([torch.full((int(count),), 1 / int(count)) for count in counts if count])
    fast = ibot_loss(fast_input, teacher.float(), weights, crops=4, temperature=TEMPERATURE)
    assert_same_value_and_gradient(fast, fast_input, plain_ibot(plain_input, teacher, masks), plain_input)


def test_a_padding_row_adds_nothing_to_ibot() -> None:
    student = draw(1, 7).float().requires_grad_()
    loss = ibot_loss(student, torch.zeros(1, 7), torch.zeros(1), crops=4, temperature=TEMPERATURE)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros(1, 7))


def test_losses_are_float32_and_gradients_in_the_logits_own_precision() -> None:
    teacher = draw(2, 3, 7, seed=1).softmax(-1).float()
    student = draw(4, 3, 7).bfloat16().requires_grad_()
    loss = sum(dino_loss(student, teacher, temperature=TEMPERATURE))
    loss.backward()
    assert loss.dtype == torch.float32
    assert student.grad.dtype == torch.bfloat16


def plain_koleo(features: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for group in features:
        unit = [row / row.norm() for row in group]
        for i, row in enumerate(unit):
            distances = torch.stack([(row - other).norm() for j, other in enumerate(unit) if j != i])
            total = total - distances.min().log()
    return total / features.shape[0] / features.shape[1]


@pytest.mark.parametrize("members", [2, 5])
def test_koleo_equals_the_log_distance_to_the_nearest_neighbour(members: int) -> None:
    plain_input = draw(3, members, 6).requires_grad_()
    fast_input = plain_input.detach().float().requires_grad_()
    assert_same_value_and_gradient(koleo_loss(fast_input), fast_input, plain_koleo(plain_input), plain_input)


def test_koleo_is_finite_for_two_equal_images() -> None:
    features = torch.ones(1, 2, 4, requires_grad=True)
    loss = koleo_loss(features)
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()


def test_koleo_refuses_a_group_of_one() -> None:
    with pytest.raises(ValueError, match="at least two"):
        koleo_loss(torch.randn(4, 1, 6))
