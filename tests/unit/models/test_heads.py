import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.utils.parametrizations import weight_norm

from components.errors import UserError
from components.models.heads import PrototypeHead, Prototypes, load_heads, save_heads


def test_logits_are_cosines_whatever_the_length_of_the_weights() -> None:
    head = PrototypeHead(8, 16, 4, 32)
    rows = torch.randn(5, 8)
    before = head(rows)
    with torch.no_grad():
        head.prototypes.weight.mul_(torch.rand(32, 1) * 10 + 0.1)
    torch.testing.assert_close(head(rows), before, rtol=1e-5, atol=1e-6)
    assert before.abs().max() <= 1.0 + 1e-6


def test_prototypes_equal_weight_norm_with_gain_one() -> None:
    ours, rows = Prototypes(4, 32), torch.randn(5, 4)
    theirs = torch.nn.Linear(4, 32, bias=False)
    theirs.weight = torch.nn.Parameter(ours.weight.detach().clone())
    weight_norm(theirs)
    with torch.no_grad():
        theirs.parametrizations.weight.original0.fill_(1.0)
    torch.testing.assert_close(ours(rows), theirs(rows))
    ours(rows).square().sum().backward()
    theirs(rows).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.parametrizations.weight.original1.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_heads_come_back_from_their_file(tmp_path: Path, layers: int) -> None:
    heads = {"dino_head": PrototypeHead(8, 16, 4, 32, layers), "ibot_head": PrototypeHead(8, 12, 6, 24, layers)}
    save_heads(heads, tmp_path / "heads.safetensors")
    loaded = load_heads(tmp_path / "heads.safetensors")
    rows = torch.randn(5, 8)
    for name, head in heads.items():
        assert torch.equal(loaded[name](rows), head(rows))


def test_F7_a_full_disk_is_an_error_of_the_system_and_not_of_the_format(tmp_path: Path) -> None:
    (tmp_path / "heads.safetensors").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        save_heads({"dino_head": PrototypeHead(8, 16, 4, 32)}, tmp_path / "heads.safetensors")
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("content", [None, b"", b"damaged" * 100])
def test_missing_or_damaged_heads_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "heads.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"heads\.safetensors"):
        load_heads(path)


def test_a_file_without_heads_is_refused(tmp_path: Path) -> None:
    save_file({"norm.weight": torch.ones(3)}, tmp_path / "heads.safetensors")
    with pytest.raises(UserError, match="no readable heads"):
        load_heads(tmp_path / "heads.safetensors")
