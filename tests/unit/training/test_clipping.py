import pytest
import torch

from components.training.clipping import ClipParams, GradientNorms

NAMES = ["student.backbone.a", "student.dino_head.a", "student.backbone.b"]


def gradients() -> list[torch.Tensor]:
    return [torch.tensor([3.0, 0.0]), torch.tensor([1.0]), torch.tensor([4.0])]


def clipped(**params: object) -> list[float]:
    norms, found = GradientNorms(NAMES, ClipParams.model_validate(params)), gradients()
    norms.clip(found, norms.squares(found).sqrt())
    return [tensor.norm().item() for tensor in found]


def test_norms_are_those_of_modules() -> None:
    norms = GradientNorms(NAMES, ClipParams())
    assert norms.modules == ["backbone", "dino_head"]
    assert norms.squares(gradients()).sqrt().tolist() == pytest.approx([5.0, 1.0])


def test_each_module_is_clipped_by_its_own_norm() -> None:
    assert clipped(max_norm=2.5) == pytest.approx([1.5, 1.0, 2.0], rel=1e-5)


def test_the_global_norm_scales_all_modules_alike() -> None:
    bound = 26**0.5 / 2
    assert clipped(max_norm=bound, scope="global") == pytest.approx([1.5, 0.5, 2.0], rel=1e-5)


def test_gradients_within_the_bound_or_without_one_are_left_as_they_are() -> None:
    assert clipped(max_norm=5.1) == [3.0, 1.0, 4.0]
    assert clipped(max_norm=None) == [3.0, 1.0, 4.0]


def test_a_value_that_is_not_finite_shows_in_the_norm_of_its_module_only() -> None:
    found = gradients()
    found[1][0] = torch.inf
    finite = GradientNorms(NAMES, ClipParams()).squares(found).isfinite().tolist()
    assert finite == [True, False]


def test_an_empty_shard_has_norm_zero() -> None:
    norms = GradientNorms(["student.backbone.a"], ClipParams())
    assert norms.squares([torch.empty(0)]).tolist() == [0.0]
