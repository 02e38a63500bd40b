import pytest
import torch
from torch.nn import functional as F

from components.models.embedding import Interpolation, TokenEmbedding


def embedding(interpolation: Interpolation = "antialias", image_size: int = 32) -> TokenEmbedding:
    torch.manual_seed(0)
    made = TokenEmbedding(
        image_size=image_size, patch_size=4, channels=3, width=6, registers=2, interpolation=interpolation
    )
    torch.nn.init.normal_(made.position)
    return made


def interpolated(made: TokenEmbedding, grid: tuple[int, int]) -> torch.Tensor:
    """Position embedding of the patches of a black image, without the projection's bias."""
    with torch.no_grad():
        black = torch.zeros(1, 3, grid[0] * 4, grid[1] * 4)
        return made([black], [None])[0][:, 3:] - made.projection.bias


def plane(made: TokenEmbedding) -> torch.Tensor:
    return made.position[:, 1:].detach().view(1, 8, 8, 6).permute(0, 3, 1, 2)


@pytest.mark.parametrize("grid", [(4, 4), (5, 3), (12, 12)])
@pytest.mark.parametrize("rule", ["dinov2", "antialias", "size"])
def test_position_embedding_follows_the_named_rule(rule: Interpolation, grid: tuple[int, int]) -> None:
    made = embedding(rule)
    if rule == "dinov2":
        scale = ((grid[0] + 0.1) / 8, (grid[1] + 0.1) / 8)
        expected = F.interpolate(plane(made), scale_factor=scale, mode="bicubic")
    else:
        expected = F.interpolate(plane(made), size=grid, mode="bicubic", antialias=rule == "antialias")
    torch.testing.assert_close(interpolated(made, grid), expected.flatten(2).mT, rtol=1e-5, atol=1e-5)


def test_position_embedding_is_used_as_stored_at_the_stored_size() -> None:
    made = embedding()
    torch.testing.assert_close(interpolated(made, (8, 8)), made.position[:, 1:].detach(), rtol=0, atol=1e-7)


def test_gradient_flows_through_a_cached_interpolation() -> None:
    made = embedding()
    for _ in range(2):
        made.position.grad = None
        made([torch.zeros(1, 3, 16, 16)], [None])[0][:, 3:].sum().backward()
    # a patch of the small grid is a weighted mean: each of the 16 passes a total weight of one on
    assert made.position.grad[:, 1:].sum().item() == pytest.approx(16 * 6, rel=1e-5)


def test_interpolation_follows_the_weights_after_an_update() -> None:
    made = embedding()
    before = interpolated(made, (4, 4))
    with torch.no_grad():
        made.position.add_(1.0)
    torch.testing.assert_close(interpolated(made, (4, 4)), before + 1.0, rtol=1e-5, atol=1e-5)


def test_patches_are_projected_as_a_strided_convolution_would() -> None:
    made = embedding(image_size=16)
    torch.nn.init.zeros_(made.position)
    images = torch.randn(2, 3, 16, 16)
    expected = F.conv2d(images, made.projection.weight.view(6, 3, 4, 4), made.projection.bias, stride=4)
    torch.testing.assert_close(made([images], [None])[0][:, 3:], expected.flatten(2).mT, rtol=1e-5, atol=1e-5)


def test_tokens_are_class_then_registers_then_patches() -> None:
    made = embedding(image_size=16)
    with torch.no_grad():
        made.registers.copy_(torch.arange(12.0).view(1, 2, 6))
        tokens = made([torch.randn(1, 3, 16, 16)], [None])[0]
    torch.testing.assert_close(tokens[:, :1], made.cls_token + made.position[:, :1])
    torch.testing.assert_close(tokens[:, 1:3], made.registers)
