"""The vision transformer as an ONNX graph in which batch, height and width are free.

The graph is written out operator by operator rather than traced: a trace would fix the sizes that the position
embedding is interpolated to, and needs an exporter beside `onnx`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from components.errors import UserError
from components.models.block import NORM_EPS
from components.models.conversion.imported import as_convolution
from components.models.embedding import LEGACY_OFFSET
from components.models.vit import ViTConfig

FILE = "model.onnx"
OPSET = 20
"""The first with GELU."""
IR_VERSION = 10
EXTERNAL_ABOVE = 1_500_000_000
"""Bytes of weights that one file of the format cannot hold any more: they go into a file beside it."""
CUBIC = {"antialias": -0.5, "dinov2": -0.75, "size": -0.75}
"""Coefficient of the cubic that torch uses with and without antialias."""


class _Graph:
    """Collects nodes and constants."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """One node with one output, which is returned."""
        from onnx import helper

        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def weight(self, name: str, value: Tensor | np.ndarray) -> str:
        """A weight by its name."""
        array = value.detach().cpu().float().numpy() if isinstance(value, Tensor) else value
        self.constants[name] = array.copy(order="C")
        return name

    def integers(self, *values: int) -> str:
        """A constant vector of integers; the same values are kept once."""
        return self.weight(f"integers_{'_'.join(str(one) for one in values)}", np.array(values, dtype=np.int64))

    def linear(self, x: str, tensors: Mapping[str, Tensor], name: str) -> str:
        """`nn.Linear` on the last dimension."""
        product = self.add("MatMul", [x, self.weight(f"{name}.weight", tensors[f"{name}.weight"].T)], f"{name}.product")
        return self.add("Add", [product, self.weight(f"{name}.bias", tensors[f"{name}.bias"])], name)

    def norm(self, x: str, tensors: Mapping[str, Tensor], name: str) -> str:
        """`nn.LayerNorm` on the last dimension."""
        parts = [self.weight(f"{name}.{leaf}", tensors[f"{name}.{leaf}"]) for leaf in ("weight", "bias")]
        return self.add("LayerNormalization", [x, *parts], name, epsilon=NORM_EPS, axis=-1)


def write_onnx(config: ViTConfig, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write `model.onnx`: `images` [batch, channels, height, width], prepared; to `cls`, `patches` and `registers`.

    Sides need not be a multiple of the patch: what is left over at the right and at the bottom is not looked at.

    Args:
        config: the architecture.
        tensors: weights by the names of `VisionTransformer`.
        folder: to make.

    Raises:
        UserError: if the package onnx is missing.
        OSError: if the disk is full.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        raise UserError("the package onnx is missing", remedy="pip install -c constraints.txt onnx") from None
    model = _model(config, tensors)
    folder.mkdir(parents=True, exist_ok=True)
    large = sum(value.numel() * value.element_size() for value in tensors.values()) > EXTERNAL_ABOVE
    if large:
        onnx.save_model(model, folder / FILE, save_as_external_data=True, location=f"{FILE}.data")
    else:
        (folder / FILE).write_bytes(model.SerializeToString(deterministic=True))


def _model(config: ViTConfig, tensors: Mapping[str, Tensor]) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    graph = _Graph()
    tokens = _embedded(graph, config, tensors)
    for block in range(config.depth):
        tokens = _block(graph, config, tensors, tokens, f"blocks.{block}")
    tokens = graph.norm(tokens, tensors, "norm")
    first = 1 + config.registers
    graph.add("Gather", [tokens, graph.weight("cls_index", np.array(0, dtype=np.int64))], "cls", axis=1)
    outputs: dict[str, list[int | str]] = {"cls": ["batch", config.width]}
    outputs["patches"] = ["batch", "patches", config.width]
    graph.add("Slice", [tokens, *(graph.integers(one) for one in (first, np.iinfo(np.int64).max, 1))], "patches")
    if config.registers:
        outputs["registers"] = ["batch", config.registers, config.width]
        graph.add("Slice", [tokens, *(graph.integers(one) for one in (1, first, 1))], "registers")
    made = helper.make_graph(
        graph.nodes,
        config.name,
        [_value(TensorProto, helper, "images", ["batch", config.channels, "height", "width"])],
        [_value(TensorProto, helper, name, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
    )
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="selfsight"
    )


def _value(types: Any, helper: Any, name: str, shape: Sequence[int | str]) -> Any:
    return helper.make_tensor_value_info(name, types.FLOAT, shape)


def _embedded(graph: _Graph, config: ViTConfig, tensors: Mapping[str, Tensor]) -> str:
    """Class token, registers and patches, with their positions."""
    kernel = graph.weight("kernel", as_convolution(tensors["embedding.projection.weight"], config))
    bias = graph.weight("kernel_bias", tensors["embedding.projection.bias"])
    patch = [config.patch_size] * 2
    grid = graph.add("Conv", ["images", kernel, bias], "grid", kernel_shape=patch, strides=patch)
    summed = graph.add("Add", [grid, _positions(graph, config, tensors, grid)], "grid_at_positions")
    flat = graph.add("Reshape", [summed, graph.integers(0, config.width, -1)], "grid_flat")
    patches = graph.add("Transpose", [flat], "patch_tokens", perm=[0, 2, 1])
    position = tensors["embedding.position"]
    fixed = [graph.weight("class_token", tensors["embedding.cls_token"] + position[:, :1])]
    if config.registers:
        fixed.append(graph.weight("register_tokens", tensors["embedding.registers"]))
    batch = graph.add("Shape", ["images"], "batch_size", start=0, end=1)
    shape = graph.add("Concat", [batch, graph.integers(1, 1)], "batch_shape", axis=0)
    repeated = [graph.add("Expand", [one, shape], f"{one}_repeated") for one in fixed]
    return graph.add("Concat", [*repeated, patches], "tokens", axis=1)


def _positions(graph: _Graph, config: ViTConfig, tensors: Mapping[str, Tensor], grid: str) -> str:
    """Position embedding [1, width, rows, columns], interpolated by the rule of the configuration."""
    side = config.image_size // config.patch_size
    stored = tensors["embedding.position"][:, 1:].reshape(1, side, side, config.width).permute(0, 3, 1, 2)
    plane = graph.weight("positions", stored)
    sides = graph.add("Shape", [grid], "grid_sides", start=2, end=4)
    antialias = config.interpolation == "antialias"
    how = {
        "mode": "cubic",
        "coordinate_transformation_mode": "half_pixel",
        "cubic_coeff_a": CUBIC[config.interpolation],
        "antialias": int(antialias),
        "exclude_outside": int(antialias),
    }
    if config.interpolation != "dinov2":
        target = graph.add("Concat", [graph.integers(1, config.width), sides], "position_sizes", axis=0)
        return graph.add("Resize", [plane, "", "", target], "positions_resized", **how)
    # the offset belongs to every size but the stored one, whose embedding is used as it is
    count = graph.add("Cast", [sides], "grid_sides_float", to=1)
    native = graph.weight("stored_side", np.float32(side).reshape(1))
    shifted = graph.add("Add", [count, graph.weight("offset", np.float32(LEGACY_OFFSET).reshape(1))], "shifted_sides")
    factors = graph.add("Div", [shifted, native], "shifted_factors")
    same = graph.add("Equal", [sides, graph.integers(side, side)], "sides_are_stored")
    same = graph.add("Cast", [same], "sides_are_stored_int", to=7)
    same = graph.add("ReduceMin", [same], "size_is_stored_int", keepdims=1)
    same = graph.add("Cast", [same], "size_is_stored", to=9)
    one = graph.weight("ones", np.ones(2, dtype=np.float32))
    chosen = graph.add("Where", [same, one, factors], "factors")
    scales = graph.add("Concat", [one, chosen], "position_scales", axis=0)
    return graph.add("Resize", [plane, "", scales], "positions_resized", **how)


def _block(graph: _Graph, config: ViTConfig, tensors: Mapping[str, Tensor], x: str, name: str) -> str:
    attended = _attention(graph, config, tensors, graph.norm(x, tensors, f"{name}.norm1"), f"{name}.attention")
    x = _residual(graph, tensors, x, attended, f"{name}.scale1")
    fed = graph.norm(x, tensors, f"{name}.norm2")
    if config.ffn == "mlp":
        hidden = graph.add("Gelu", [graph.linear(fed, tensors, f"{name}.ffn.fc1")], f"{name}.ffn.gelu")
        out = graph.linear(hidden, tensors, f"{name}.ffn.fc2")
    else:
        out = graph.linear(_gated(graph, tensors, fed, f"{name}.ffn"), tensors, f"{name}.ffn.w3")
    return _residual(graph, tensors, x, out, f"{name}.scale2")


def _gated(graph: _Graph, tensors: Mapping[str, Tensor], x: str, name: str) -> str:
    both = graph.linear(x, tensors, f"{name}.w12")
    hidden = tensors[f"{name}.w3.weight"].shape[1]
    axis, step = graph.integers(-1), graph.integers(1)
    bounds = [graph.integers(one) for one in (0, hidden, 2 * hidden)]
    gate = graph.add("Slice", [both, bounds[0], bounds[1], axis, step], f"{name}.gate")
    value = graph.add("Slice", [both, bounds[1], bounds[2], axis, step], f"{name}.value")
    open_ = graph.add("Mul", [gate, graph.add("Sigmoid", [gate], f"{name}.sigmoid")], f"{name}.silu")
    return graph.add("Mul", [open_, value], f"{name}.gated")


def _attention(graph: _Graph, config: ViTConfig, tensors: Mapping[str, Tensor], x: str, name: str) -> str:
    dim = config.width // config.heads
    qkv = graph.linear(x, tensors, f"{name}.qkv")
    split = graph.add("Reshape", [qkv, graph.integers(0, 0, 3, config.heads, dim)], f"{name}.split")
    parts = graph.add("Transpose", [split], f"{name}.parts", perm=[2, 0, 3, 1, 4])
    index = [graph.weight(f"part_{number}", np.array(number, dtype=np.int64)) for number in range(3)]
    query, key, value = (
        graph.add("Gather", [parts, one], f"{name}.{part}", axis=0)
        for one, part in zip(index, ("query", "key", "value"), strict=True)
    )
    turned = graph.add("Transpose", [key], f"{name}.key_turned", perm=[0, 1, 3, 2])
    scale = graph.weight("attention_scale", np.float32(dim**-0.5).reshape(1))
    scores = graph.add("Mul", [graph.add("MatMul", [query, turned], f"{name}.product"), scale], f"{name}.scores")
    weights = graph.add("Softmax", [scores], f"{name}.weights", axis=-1)
    mixed = graph.add("MatMul", [weights, value], f"{name}.mixed")
    together = graph.add("Transpose", [mixed], f"{name}.together", perm=[0, 2, 1, 3])
    flat = graph.add("Reshape", [together, graph.integers(0, 0, config.width)], f"{name}.flat")
    return graph.linear(flat, tensors, f"{name}.projection")


def _residual(graph: _Graph, tensors: Mapping[str, Tensor], x: str, branch: str, scale: str) -> str:
    if f"{scale}.gamma" in tensors:
        branch = graph.add("Mul", [branch, graph.weight(f"{scale}.gamma", tensors[f"{scale}.gamma"])], f"{scale}.out")
    return graph.add("Add", [x, branch], f"{scale}.sum")
