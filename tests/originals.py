"""The forward passes of the official DINOv2 code and of timm, written plainly from their state dicts.

Independent of `components.models`: parity of imported weights is measured against these where the libraries themselves
cannot be had.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Shape:
    """Of a random model."""

    width: int = 64
    depth: int = 2
    heads: int = 4
    patch: int = 4
    side: int = 5
    channels: int = 3
    registers: int = 0
    swiglu: bool = False
    layer_scale: bool = True


def official_state(shape: Shape, seed: int = 0) -> dict[str, Tensor]:
    """A random state dict in the layout of the released weights."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int, std: float = 0.1) -> Tensor:
        return torch.randn(*size, generator=generator) * std

    width, hidden = shape.width, 4 * shape.width
    state = {
        "cls_token": draw(1, 1, width),
        "pos_embed": draw(1, 1 + shape.side**2, width, std=0.5),
        "mask_token": draw(1, width),
        "patch_embed.proj.weight": draw(width, shape.channels, shape.patch, shape.patch),
        "patch_embed.proj.bias": draw(width),
        "norm.weight": 1 + draw(width),
        "norm.bias": draw(width),
    }
    if shape.registers:
        state["register_tokens"] = draw(1, shape.registers, width)
    gated = (hidden * 2 // 3 + 7) // 8 * 8
    feed = {"w12": (2 * gated, width), "w3": (width, gated)}
    feed = feed if shape.swiglu else {"fc1": (hidden, width), "fc2": (width, hidden)}
    for block in range(shape.depth):
        layers = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        layers |= {f"mlp.{name}": size for name, size in feed.items()}
        for name, size in layers.items():
            state[f"blocks.{block}.{name}.weight"] = draw(*size)
            state[f"blocks.{block}.{name}.bias"] = draw(size[0])
        for norm in ("norm1", "norm2"):
            state[f"blocks.{block}.{norm}.weight"] = 1 + draw(width)
            state[f"blocks.{block}.{norm}.bias"] = draw(width)
        if shape.layer_scale:
            for scale in ("ls1", "ls2"):
                state[f"blocks.{block}.{scale}.gamma"] = 0.5 + draw(width)
    return state


def official_forward(state: Mapping[str, Tensor], images: Tensor, heads: int) -> Tensor:
    """All tokens after the final norm, [batch, 1 + registers + patches, width]."""
    x, grid = _patches(state, images)
    registers = state.get("register_tokens")
    table = state["pos_embed"]
    side = math.isqrt(table.shape[1] - 1)
    positions = table[:, 1:]
    if grid != (side, side):
        plane = positions.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        if registers is None:
            factors = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
            plane = F.interpolate(plane, scale_factor=factors, mode="bicubic", antialias=False)
        else:
            plane = F.interpolate(plane, size=grid, mode="bicubic", antialias=True)
        positions = plane.flatten(2).transpose(1, 2)
    cls = (state["cls_token"] + table[:, :1]).expand(len(x), -1, -1)
    rest = [] if registers is None else [registers.expand(len(x), -1, -1)]
    return _blocks(state, torch.cat([cls, *rest, x + positions], dim=1), heads)


def timm_state(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What timm makes of official weights when it loads them."""
    state = {name: value for name, value in official.items() if name != "mask_token"}
    if "register_tokens" in state:
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, 0]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    return {name.replace("mlp.w12", "mlp.fc1").replace("mlp.w3", "mlp.fc2"): value for name, value in state.items()}


def timm_forward(state: Mapping[str, Tensor], images: Tensor, heads: int) -> Tensor:
    """The same of timm's model with `dynamic_img_size`."""
    x, grid = _patches(state, images)
    table, registers = state["pos_embed"], state.get("reg_token")
    prefix = 0 if registers is not None else 1
    side = math.isqrt(table.shape[1] - prefix)
    positions = table[:, prefix:]
    if grid != (side, side):
        plane = positions.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        plane = F.interpolate(plane, size=grid, mode="bicubic", antialias=True)
        positions = plane.permute(0, 2, 3, 1).reshape(1, -1, table.shape[-1])
    cls = state["cls_token"].expand(len(x), -1, -1)
    if registers is not None:
        tokens = torch.cat([cls, registers.expand(len(x), -1, -1), x + positions], dim=1)
    else:
        tokens = torch.cat([cls, x], dim=1) + torch.cat([table[:, :1], positions], dim=1)
    return _blocks(state, tokens, heads)


def _patches(state: Mapping[str, Tensor], images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    kernel = state["patch_embed.proj.weight"]
    grid = F.conv2d(images, kernel, state["patch_embed.proj.bias"], stride=kernel.shape[-1])
    return grid.flatten(2).transpose(1, 2), (grid.shape[2], grid.shape[3])


def _blocks(state: Mapping[str, Tensor], x: Tensor, heads: int) -> Tensor:
    width, block = x.shape[-1], 0
    while f"blocks.{block}.norm1.weight" in state:
        own = {
            name.removeprefix(f"blocks.{block}."): value
            for name, value in state.items()
            if name.startswith(f"blocks.{block}.")
        }
        block += 1
        normed = F.layer_norm(x, (width,), own["norm1.weight"], own["norm1.bias"], 1e-6)
        qkv = F.linear(normed, own["attn.qkv.weight"], own["attn.qkv.bias"])
        q, k, v = qkv.reshape(*x.shape[:2], 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        weights = (q * (width // heads) ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        mixed = (weights @ v).transpose(1, 2).reshape(x.shape)
        out = F.linear(mixed, own["attn.proj.weight"], own["attn.proj.bias"])
        x = x + out * own.get("ls1.gamma", torch.ones(width))
        normed = F.layer_norm(x, (width,), own["norm2.weight"], own["norm2.bias"], 1e-6)
        x = x + _feed_forward(own, normed) * own.get("ls2.gamma", torch.ones(width))
    return F.layer_norm(x, (width,), state["norm.weight"], state["norm.bias"], 1e-6)


def _feed_forward(own: Mapping[str, Tensor], x: Tensor) -> Tensor:
    first, second = ("mlp.w12", "mlp.w3") if "mlp.w12.weight" in own else ("mlp.fc1", "mlp.fc2")
    hidden = F.linear(x, own[f"{first}.weight"], own[f"{first}.bias"])
    inner = own[f"{second}.weight"].shape[1]
    hidden = F.silu(hidden[..., :inner]) * hidden[..., inner:] if hidden.shape[-1] == 2 * inner else F.gelu(hidden)
    return F.linear(hidden, own[f"{second}.weight"], own[f"{second}.bias"])
