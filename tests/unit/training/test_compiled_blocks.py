import pytest
import torch

from components.models.vit import VisionTransformer, ViTConfig
from components.training.engine_config import EngineParams
from components.training.fast_path import compile_blocks


def gradients(*, compiled: bool) -> list[torch.Tensor]:
    """Of two steps that read out different numbers of tokens of the last block."""
    torch.manual_seed(0)
    model = VisionTransformer(ViTConfig(image_size=16, patch_size=4, width=16, depth=2, heads=2, layer_scale=0.5))
    compile_blocks(model, EngineParams(compile=compiled), device="cpu")
    generator = torch.Generator().manual_seed(1)
    crops = [torch.randn(4, 3, side, side, generator=generator) for side in (16, 8)]
    for rows in ([1, 5, 30], [0, 2, 3, 40, 41]):
        found = model.read_out(crops, [torch.tensor(rows), None])
        sum(part.cls.square().sum() + part.patches.sum() for part in found).backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
def test_compiled_blocks_give_the_gradients_of_others_but_for_rounding() -> None:
    plain, compiled = (gradients(compiled=compiled) for compiled in (False, True))
    assert len(plain) == len(compiled) > 20
    for left, right in zip(plain, compiled, strict=True):
        torch.testing.assert_close(right, left, rtol=1e-4, atol=1e-5)
