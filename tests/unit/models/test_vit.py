import pytest
import torch
from torch import Tensor

from components.errors import UserError
from components.models.drop_path import DropPathRng
from components.models.presets import PRESETS, vit_config
from components.models.vit import VisionTransformer, ViTConfig


def small(**overrides: object) -> VisionTransformer:
    torch.manual_seed(0)
    values = {"image_size": 16, "patch_size": 4, "width": 16, "depth": 3, "heads": 2, "layer_scale": 0.5}
    model = VisionTransformer(ViTConfig(**{**values, **overrides}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def images(rows: int, side: int, channels: int = 3) -> Tensor:
    return torch.randn(rows, channels, side, side, generator=torch.Generator().manual_seed(side))


@pytest.mark.parametrize("overrides", [{}, {"registers": 3}, {"ffn": "swiglu"}, {"layer_scale": None}])
def test_crops_of_two_sizes_in_one_forward_equal_two_forwards(overrides: dict[str, object]) -> None:
    model = small(**overrides)
    mask = torch.rand(4, 16, generator=torch.Generator().manual_seed(1)) < 0.4
    packed = model([images(4, 16), images(6, 8)], [mask, None])
    apart = [model(images(4, 16), [mask]), model(images(6, 8))]
    for together, alone in zip(packed, apart, strict=True):
        for left, right in zip(together, alone, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


def test_gradients_of_packed_crops_equal_the_sum_of_separate_ones() -> None:
    model = small()
    both = model([images(4, 16), images(6, 8)])
    sum(tokens.cls.square().sum() + tokens.patches.square().sum() for tokens in both).backward()
    packed = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for batch in (images(4, 16), images(6, 8)):
        tokens = model(batch)
        (tokens.cls.square().sum() + tokens.patches.square().sum()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, rtol=1e-4, atol=1e-4, msg=name)


def test_training_path_equals_inference_path() -> None:
    model = small()
    trained = model([images(4, 16), images(6, 8)])
    with torch.no_grad():
        inferred = model([images(4, 16), images(6, 8)])
    for left, right in zip(trained, inferred, strict=True):
        torch.testing.assert_close(left.patches.detach(), right.patches, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
@pytest.mark.parametrize("registers", [0, 2])
def test_readout_gives_the_tokens_that_forward_gives(drop_path: float, registers: int) -> None:
    model = small(drop_path=drop_path, registers=registers)
    crops = [images(8, 16), images(12, 8)]
    masks = [torch.rand(8, 16, generator=torch.Generator().manual_seed(2)) < 0.3, None]
    rng = DropPathRng(seed=3, step=5, first=0, images=4, group=4)
    rows = masks[0].flatten().nonzero().squeeze(1)
    whole = model(crops, masks, rng=rng)
    read = model.read_out(crops, [rows, None], masks=masks, rng=rng)
    for full, part in zip(whole, read, strict=True):
        torch.testing.assert_close(part.cls, full.cls, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(read[0].patches, whole[0].patches.flatten(0, 1)[rows], rtol=1e-5, atol=1e-5)
    assert read[1].patches.shape == (0, 16)


def test_readout_gives_the_gradients_that_forward_gives() -> None:
    model = small(drop_path=0.5)
    rng = DropPathRng(seed=3, step=5, first=0, images=4, group=4)
    rows = torch.tensor([0, 5, 17, 100])
    model(images(8, 16), rng=rng).patches.flatten(0, 1)[rows].square().sum().backward()
    whole = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.read_out([images(8, 16)], [rows], rng=rng)[0].patches.square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("drop_path", [0.0, 0.4])
def test_blocks_that_are_computed_again_give_the_same_bits(drop_path: float) -> None:
    gradients = []
    for recompute in (False, True):
        model = small(drop_path=drop_path)
        model.recompute = recompute
        rng = DropPathRng(seed=0, step=0, first=0, images=4, group=4)
        parts = model.read_out([images(8, 16), images(12, 8)], [torch.tensor([1, 5, 30]), None], rng=rng)
        sum(part.cls.square().sum() + part.patches.sum() for part in parts).backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 20
    assert all(torch.equal(left, right) for left, right in zip(*gradients, strict=True))


def test_masked_patches_do_not_look_at_their_pixels() -> None:
    model = small()
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, 5] = True
    original, changed = images(2, 16), images(2, 16)
    changed[0, :, 4:8, 4:8] += 1.0
    torch.testing.assert_close(model(original, [mask]).cls, model(changed, [mask]).cls)
    assert not torch.allclose(model(original).cls, model(changed).cls)


@pytest.mark.parametrize("masked", [0.0, 1.0])
def test_every_parameter_gets_a_gradient_however_much_is_masked(masked: float) -> None:
    model = small(registers=1)
    mask = torch.full((2, 16), bool(masked))
    model([images(2, 16)], [mask])[0].cls.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_mask_token_gets_a_zero_gradient_without_masks() -> None:
    model = small()
    model(images(2, 16)).cls.sum().backward()
    assert torch.equal(model.embedding.mask_token.grad, torch.zeros(1, 16))


def test_without_rng_stochastic_depth_is_off() -> None:
    torch.testing.assert_close(small(drop_path=0.9)(images(2, 16)).cls, small()(images(2, 16)).cls)


def test_last_intermediate_layer_is_the_output() -> None:
    model = small()
    layers = model.intermediate(images(2, 16), 2)
    torch.testing.assert_close(layers[1].patches, model(images(2, 16)).patches)
    torch.testing.assert_close(layers[0].cls, model.intermediate(images(2, 16), [1])[0].cls)


def test_last_layers_go_from_shallow_to_deep_and_keep_registers_apart() -> None:
    model = small(registers=2)
    layers = model.intermediate(images(2, 16), 3)
    assert [layer.registers.shape for layer in layers] == [(2, 2, 16)] * 3
    for number, layer in enumerate(layers):
        torch.testing.assert_close(layer.cls, model.intermediate(images(2, 16), [number])[0].cls)


def test_intermediate_refuses_a_block_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="3 blocks"):
        small().intermediate(images(2, 16), [3])


def test_image_side_must_be_a_multiple_of_the_patch() -> None:
    with pytest.raises(ValueError, match="18x18"):
        small()(images(2, 18))


@pytest.mark.parametrize("channels", [1, 5, 16])
def test_channels_are_free(channels: int) -> None:
    assert small(channels=channels)(images(2, 16, channels=channels)).patches.shape == (2, 16, 16)


@pytest.mark.parametrize("overrides", [{}, {"registers": 2, "ffn": "swiglu", "channels": 4}])
def test_oblong_images_have_a_token_for_each_patch_and_need_no_company_of_their_size(
    overrides: dict[str, object],
) -> None:
    model = small(**overrides)
    oblong = [torch.randn(2, model.config.channels, 8, 24), torch.randn(3, model.config.channels, 20, 4)]
    together = model(oblong)
    assert [part.patches.shape for part in together] == [(2, 12, 16), (3, 5, 16)]
    for part, batch in zip(together, oblong, strict=True):
        torch.testing.assert_close(part.cls, model(batch).cls, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_gives_tokens_with_registers_and_more_channels(name: str) -> None:
    torch.manual_seed(0)
    config = vit_config(name, depth=1, registers=4, channels=6, image_size=28, layer_scale=0.1)
    with torch.no_grad():
        tokens = VisionTransformer(config)(torch.randn(1, 6, 42, 28))
    assert (tokens.registers.shape[1], tokens.patches.shape[1]) == (4, 6)
    assert tokens.cls.isfinite().all()


def test_stochastic_depth_keeps_the_expectation() -> None:
    model = small(drop_path=0.5, depth=1)
    kept_all = small(depth=1)
    with torch.no_grad():
        expected = kept_all(images(8, 16)).cls
        # without the final norm the output is linear in the branches of one block, up to the feed-forward's input
        model.norm = kept_all.norm = torch.nn.Identity()
        model.blocks[0].scale2.gamma.zero_()
        kept_all.blocks[0].scale2.gamma.zero_()
        expected = kept_all(images(8, 16)).cls
        draws = [model(images(8, 16), rng=DropPathRng(0, step, 0, 8, 8)).cls for step in range(400)]
    error = (torch.stack(draws).mean(0) - expected).abs().max()
    spread = torch.stack(draws).std(0).max()
    assert spread > 0
    assert error < 5 * spread / 400**0.5


def test_dropped_sample_passes_through_unchanged() -> None:
    model = small(drop_path=0.5, depth=1)
    rng = DropPathRng(seed=0, step=0, first=0, images=8, group=8)
    model.norm = torch.nn.Identity()
    with torch.no_grad():
        embedded = model.embedding([images(8, 16)], [None])[0][:, 0]
        output = model(images(8, 16), rng=rng).cls
    from components.models.drop_path import draw_kept

    [kept] = draw_kept(rng, [8], depth=1, rate=0.5)
    untouched = sorted(set(range(8)) - set(kept[0, 0].tolist()) - set(kept[0, 1].tolist()))
    changed = sorted(set(range(8)) - set(untouched))
    assert untouched
    torch.testing.assert_close(output[untouched], embedded[untouched])
    assert (output[changed] - embedded[changed]).abs().amax(dim=1).min() > 1e-3


@pytest.mark.parametrize(("name", "millions"), [("S", 22.1), ("B", 86.6), ("L", 304.4), ("g", 1136.5)])
def test_presets_have_the_published_number_of_parameters(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = VisionTransformer(vit_config(name, image_size=518))
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_every_preset_is_valid() -> None:
    assert [vit_config(name).name for name in PRESETS] == list(PRESETS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "huge"}, "backbone 'huge'"),
        ({"name": "S", "patch_size": 15}, "patch_size 15 must divide image_size 224"),
        ({"name": "S", "heads": 5}, "heads 5 must divide width 384"),
        ({"name": "S", "widht": 5}, "did you mean 'width'"),
        ({"name": "S", "channels": 17}, "channels"),
    ],
)
def test_impossible_architecture_is_refused_by_name(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        vit_config(**arguments)
