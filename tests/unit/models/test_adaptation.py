from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from components.errors import UserError
from components.models.adaptation import adapt
from components.models.vit import VisionTransformer, ViTConfig

BASE: dict[str, Any] = {"image_size": 16, "patch_size": 4, "width": 16, "depth": 2, "heads": 2, "layer_scale": 0.5}


def model(**overrides: Any) -> VisionTransformer:
    torch.manual_seed(0)
    made = VisionTransformer(ViTConfig(**{**BASE, **overrides})).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def adapted(given: VisionTransformer, **overrides: Any) -> VisionTransformer:
    config = ViTConfig(**{**given.config.model_dump(), **overrides})
    made = VisionTransformer(config).eval()
    found = made.load_state_dict(adapt(given.state_dict(), given.config, config, "given"), strict=False)
    assert not found.unexpected_keys
    assert found.missing_keys in ([], ["embedding.registers"])
    return made


def tokens(made: VisionTransformer, images: Tensor) -> Tensor:
    with torch.no_grad():
        return made(images).patches


def test_the_same_architecture_keeps_every_bit() -> None:
    given = model(registers=2)
    state = adapt(given.state_dict(), given.config, given.config, "given")
    assert all(torch.equal(state[name], value) for name, value in given.state_dict().items())


@pytest.mark.parametrize("patch", [6, 8])
def test_patches_resized_to_a_larger_patch_keep_their_tokens(patch: int) -> None:
    given = model()
    images = torch.randn(2, 3, 16, 16)
    patches = F.unfold(images, 4, stride=4).mT.reshape(-1, 3, 4, 4)
    larger = F.interpolate(patches, size=(patch, patch), mode="bicubic", antialias=True)
    columns = larger.reshape(2, 16, -1).mT
    resized = F.fold(columns, (4 * patch, 4 * patch), patch, stride=patch)
    made = adapted(given, patch_size=patch, image_size=4 * patch)
    torch.testing.assert_close(tokens(made, resized), tokens(given, images), rtol=1e-4, atol=1e-4)


def test_no_kernel_of_a_smaller_patch_comes_closer_to_the_tokens_of_noise() -> None:
    given = model(patch_size=8, image_size=32)
    made = adapted(given, patch_size=4, image_size=16)
    basis = torch.eye(64).view(64, 1, 8, 8)
    resize = F.interpolate(basis, size=(4, 4), mode="bicubic", antialias=True).view(64, 16)
    old, new = (one.embedding.projection.weight.detach().view(16 * 3, -1) for one in (given, made))
    # the gradient of |old - resize new|²: tokens of white noise differ by just that on average
    assert ((new @ resize.T - old) @ resize).abs().max() < 1e-4


@pytest.mark.parametrize("channels", [1, 4, 16])
def test_images_of_equal_channels_keep_their_tokens(channels: int) -> None:
    given = model()
    grey = torch.randn(2, 1, 16, 16)
    made = adapted(given, channels=channels)
    expected = tokens(given, grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(tokens(made, grey.expand(-1, channels, -1, -1)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", ["antialias", "size", "dinov2"])
@pytest.mark.parametrize("side", [8, 24])
def test_positions_of_another_image_size_are_those_the_model_interpolates_to(rule: str, side: int) -> None:
    given = model(interpolation=rule)
    images = torch.randn(2, 3, side, side)
    made = adapted(given, image_size=side)
    torch.testing.assert_close(tokens(made, images), tokens(given, images), rtol=1e-5, atol=1e-5)


def test_new_registers_begin_as_drawn() -> None:
    made = adapted(model(), registers=3)
    assert made.embedding.registers.abs().max() < 1e-4


@pytest.mark.parametrize(
    ("given", "wanted", "says"),
    [
        ({}, {"width": 32}, "set model.width to 16"),
        ({}, {"depth": 3}, "set model.depth to 2"),
        ({}, {"heads": 4}, "set model.heads to 2"),
        ({}, {"ffn": "swiglu"}, "set model.ffn to mlp"),
        ({}, {"layer_scale": None}, r"set model.layer_scale to 1\.0e-5"),
        ({"layer_scale": None}, {"layer_scale": 0.1}, "set model.layer_scale to null"),
        ({"registers": 2}, {"registers": 0}, "set model.registers to 2"),
    ],
)
def test_what_cannot_be_adapted_is_named_with_its_remedy(
    given: dict[str, Any], wanted: dict[str, Any], says: str
) -> None:
    start = model(**given)
    with pytest.raises(UserError, match=says):
        adapt(start.state_dict(), start.config, ViTConfig(**{**BASE, **given, **wanted}), "given")
