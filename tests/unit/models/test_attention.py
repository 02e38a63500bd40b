from contextlib import AbstractContextManager

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from components.errors import UserError
from components.models import attention
from components.models.attention import attention_kernel, packed_attention, require_kernel

SHAPES = [(3, 5), (2, 7)]
HEADS = 2


def reference(qkv: torch.Tensor) -> torch.Tensor:
    """One crop and one head at a time."""
    width = qkv.shape[1] // 3
    out, start = [], 0
    for batch, tokens in SHAPES:
        for _ in range(batch):
            crop = qkv[start : start + tokens]
            heads = []
            for head in range(HEADS):
                size = width // HEADS
                query, key, value = (crop[:, i * width + head * size : i * width + (head + 1) * size] for i in range(3))
                heads.append(F.softmax(query @ key.T / size**0.5, dim=-1) @ value)
            out.append(torch.cat(heads, dim=1))
            start += tokens
    return torch.cat(out)


def tokens() -> torch.Tensor:
    return torch.randn(29, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_attention_stays_within_each_crop_and_equals_the_plain_formula() -> None:
    torch.testing.assert_close(packed_attention(tokens(), SHAPES, HEADS), reference(tokens()))


def test_flash_kernel_equals_the_plain_formula() -> None:
    with torch.no_grad():
        found = packed_attention(tokens().float(), SHAPES, HEADS)
    torch.testing.assert_close(found.double(), reference(tokens()), rtol=1e-4, atol=1e-5)


def test_bfloat16_is_near_the_plain_formula() -> None:
    found = packed_attention(tokens().bfloat16(), SHAPES, HEADS)
    torch.testing.assert_close(found.double(), reference(tokens()), rtol=0.05, atol=0.02)


def test_long_crops_go_the_other_way_with_the_same_gradient() -> None:
    left = torch.randn(300, 24, generator=torch.Generator().manual_seed(2)).requires_grad_()
    right = left.detach().double().requires_grad_()
    for qkv in (left, right):
        packed_attention(qkv, [(2, 150)], HEADS).square().sum().backward()
    torch.testing.assert_close(left.grad.double(), right.grad, rtol=1e-3, atol=1e-5)


def test_gradient_equals_that_of_the_plain_formula() -> None:
    left, right = tokens(), tokens()
    weight = torch.randn(29, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (packed_attention(left, SHAPES, HEADS) * weight).sum().backward()
    (reference(right) * weight).sum().backward()
    torch.testing.assert_close(left.grad, right.grad)


def test_gradient_may_come_in_any_layout() -> None:
    left, right = tokens(), tokens()
    packed_attention(left, SHAPES, HEADS).sum().backward()
    reference(right).sum().backward()
    torch.testing.assert_close(left.grad, right.grad)


@pytest.mark.parametrize(
    ("device", "dtype", "tokens", "training", "kernel"),
    [
        ("cuda", torch.bfloat16, 257, True, "flash"),
        ("cuda", torch.float32, 257, True, "efficient"),
        ("cpu", torch.float32, 128, True, "plain"),
        ("cpu", torch.float32, 129, True, "flash"),
        ("cpu", torch.float32, 17, False, "flash"),
        ("cpu", torch.bfloat16, 1024, False, "plain"),
        ("cpu", torch.bfloat16, 1370, True, "flash"),
    ],
)
def test_the_kernel_follows_from_device_precision_and_length(
    device: str, dtype: torch.dtype, tokens: int, training: bool, kernel: str
) -> None:
    assert attention_kernel(device, dtype, tokens, training=training) == kernel


def test_the_record_of_a_run_names_the_kernel() -> None:
    found = require_kernel("cpu", torch.bfloat16, head_width=64, tokens=[257, 50])
    assert found == "plain (cpu, bfloat16, 257 tokens)"


def test_a_compiler_can_follow_whether_a_kernel_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_required", {(torch.bfloat16, 64)})

    def asked(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if (x.dtype, x.shape[1]) in attention._required else x - 1

    compiled = torch.compile(asked, backend="eager", fullgraph=True)
    assert compiled(torch.zeros(2, 64, dtype=torch.bfloat16)).sum() > 0
    assert compiled(torch.zeros(2, 64)).sum() < 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("training", [True, False])
def test_on_a_gpu_a_kernel_that_was_asked_for_is_the_one_that_runs_with_and_without_gradients(
    monkeypatch: pytest.MonkeyPatch, training: bool
) -> None:
    allowed: list[object] = []

    def noted(backend: object) -> AbstractContextManager[None]:
        allowed.append(backend)
        return sdpa_kernel(backend)

    monkeypatch.setattr(attention, "_required", set())
    monkeypatch.setattr(attention, "sdpa_kernel", noted)
    odd = torch.zeros(29, 3 * 24, device="cuda", requires_grad=training)
    packed_attention(odd, SHAPES, HEADS)
    assert not allowed, "of nobody who has not asked: an evaluation of any model in any precision"
    require_kernel("cuda", torch.bfloat16, head_width=64, tokens=[257])
    allowed.clear()
    packed_attention(torch.zeros(29, 3 * 128, device="cuda", dtype=torch.bfloat16, requires_grad=training), SHAPES, 2)
    assert allowed == [SDPBackend.FLASH_ATTENTION]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_must_have_the_flash_kernel() -> None:
    assert require_kernel("cuda", torch.bfloat16, head_width=64, tokens=[257, 50]).startswith("flash")
    with pytest.raises(UserError, match="no flash attention for heads of 512"):
        require_kernel("cuda", torch.bfloat16, head_width=512, tokens=[257])
