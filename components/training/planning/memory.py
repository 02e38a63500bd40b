"""Memory of one GPU by part, in bytes.

What stays between steps (weights, gradients, optimizer, averages) follows from what DeepSpeed keeps in each ZeRO stage,
and is tested against its tensors. What a forward pass keeps for the backward pass follows from what autograd saves, and
is tested against that. Neither includes the CUDA context and the gaps that an allocator leaves: about 1 GiB and a few
percent.
"""

from dataclasses import asdict, dataclass

from components.data.loader import PREFETCHED
from components.objectives.branch import HeadParams
from components.objectives.losses import GLOBAL_VIEWS
from components.training.engine_config import EngineParams
from components.training.planning.inventory import Inventory
from components.training.planning.workload import BranchWork, Workload

FP32 = 4
BYTES = {"fp32": 4, "bf16": 2}
LOADED_BATCHES = PREFETCHED + 2
"""On the device: the one that is computed on, those that wait, and the one that the loader makes."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU.

    Attributes:
        weights: of student and teacher in the precision of the forward pass; under ZeRO-3 its share, and beside it the
            whole student, which stays gathered from the forward to the backward pass.
        gradients: accumulated in fp32, and the buckets in which they are reduced.
        optimizer: Adam's moments and, in bf16, the fp32 weights.
        averages: the fp32 averages, where they are not the teacher's weights themselves.
        activations: what the student's backbone keeps for its backward pass.
        heads: what heads and losses keep, logits, targets and their gradient.
        crops: batches that are on the device.
    """

    weights: float
    gradients: float
    optimizer: float
    averages: float
    activations: float
    heads: float
    crops: float

    @property
    def total(self) -> float:
        """All of them."""
        return float(sum(asdict(self).values()))


def memory(inventory: Inventory, workload: Workload, engine: EngineParams, *, gpus: int, images: int) -> Memory:
    """Memory of one GPU at its peak, in the backward pass.

    Args:
        inventory: the weights.
        workload: what a step computes.
        engine: sharding and precision.
        gpus: how many there are.
        images: of one forward pass on one GPU.
    """
    width = BYTES[engine.precision]
    student = workload.student
    return Memory(
        weights=_weights(inventory, engine, gpus),
        gradients=_gradients(inventory, engine, gpus),
        optimizer=_optimizer(inventory, engine, gpus),
        averages=averages(inventory, engine, gpus),
        activations=images * saved_by_backbone(student, width),
        heads=saved_by_heads(student, width, images) + transient_in_heads(student, width, images),
        crops=LOADED_BATCHES * images * _crop_bytes(student),
    )


def _share(engine: EngineParams, gpus: int, *, from_stage: int) -> float:
    """Of what is sharded from a ZeRO stage on, the share of one GPU."""
    return 1.0 / gpus if engine.zero_stage >= from_stage else 1.0


def sharded_weights(inventory: Inventory, engine: EngineParams, gpus: int) -> float:
    """Weights that the module computes with, as they lie between steps."""
    elements = inventory.trained + inventory.frozen
    return elements * BYTES[engine.precision] * _share(engine, gpus, from_stage=3)


def _weights(inventory: Inventory, engine: EngineParams, gpus: int) -> float:
    gathered = inventory.trained * BYTES[engine.precision] if engine.zero_stage == 3 and gpus > 1 else 0
    return sharded_weights(inventory, engine, gpus) + gathered


def accumulated_gradients(inventory: Inventory, engine: EngineParams, gpus: int) -> float:
    """Gradients in fp32 after the last backward pass of a step."""
    whole = inventory.trained * FP32
    if engine.zero_stage == 1 and engine.precision == "bf16":
        return whole + whole / gpus  # accumulated whole, beside this GPU's share for the optimizer
    return whole * _share(engine, gpus, from_stage=1)


def _gradients(inventory: Inventory, engine: EngineParams, gpus: int) -> float:
    bucket = min(inventory.trained, engine.bucket) * BYTES[engine.precision]
    # in fp32 they are whole until the backward pass has ended
    whole = inventory.trained * FP32 if engine.zero_stage == 1 and engine.precision == "fp32" else 0
    return accumulated_gradients(inventory, engine, gpus) + bucket + whole


def _optimizer(inventory: Inventory, engine: EngineParams, gpus: int) -> float:
    return moments(inventory, engine, gpus) + master_weights(inventory, engine, gpus)


def moments(inventory: Inventory, engine: EngineParams, gpus: int) -> float:
    """Adam's mean and mean square of the gradients."""
    return 2 * FP32 * inventory.trained * _share(engine, gpus, from_stage=1)


def master_weights(inventory: Inventory, engine: EngineParams, gpus: int) -> float:
    """The weights that the optimizer changes, where they are not those of the module."""
    return FP32 * inventory.trained * _share(engine, gpus, from_stage=1) if engine.zero_stage else 0.0


def averages(inventory: Inventory, engine: EngineParams, gpus: int) -> float:
    """Averages that are not the module's own weights."""
    if engine.precision == "fp32":
        return 0.0
    return FP32 * inventory.averaged * _share(engine, gpus, from_stage=1)


def saved_by_backbone(work: BranchWork, width: int) -> float:
    """What autograd keeps of the student's backbone for one image, attention by a flash kernel.

    With activation checkpointing: the inputs of all blocks, and the one block that is computed again.

    Args:
        work: of the student.
        width: bytes of a value.
    """
    model = work.model
    scales = 0 if model.layer_scale is None else 1
    # a norm keeps its input and two numbers, a linear layer and a LayerScale their input, attention q, k, v and output
    before = work.rows * (2 * model.width * width + 2 * FP32)
    attention = work.rows * (4 * model.width * width + model.heads * FP32)
    # mlp: input and output of GELU; swiglu: gate and value, silu of the gate, product
    hidden = {"mlp": 2, "swiglu": 4}[model.ffn] * work.hidden
    after = (2 + 2 * scales) * model.width + hidden
    # the projection's input is the output of attention itself, or a copy where several sizes are put together
    projected = model.width if len(work.crops) > 1 else 0
    # stochastic depth keeps what it adds
    added = 2 * model.width if work.kept < 1 else 0
    block = before + attention + work.rows * ((after + projected + added) * width + 2 * FP32)
    last = before + attention + work.read_out * ((after + model.width) * width + 2 * FP32)
    embedded = work.patches * model.channels * model.patch_size**2 * width
    norm = work.read_out * (model.width * width + 2 * FP32)
    if work.recompute:
        inputs = model.depth * work.rows * model.width * width
        return inputs + max(work.kept * block, last) + embedded + norm
    return (model.depth - 1) * work.kept * block + last + embedded + norm


def saved_by_heads(work: BranchWork, width: int, images: int) -> float:
    """What autograd keeps of the student's heads and losses: log-probabilities and targets in fp32, and little else.

    With tiles: the gradients of rows and weight instead.

    Args:
        work: of the student.
        width: bytes of a value.
        images: of the forward pass.
    """
    total = 0.0
    for head, rows in work.head_rows():
        mlp = work.model.width + 2 * head.hidden * (head.layers - 1) + 2 * head.bottleneck
        total += images * rows * mlp * width + head.prototypes * head.bottleneck * width
        total += images * rows * (head.prototypes * FP32 if work.tile_rows is None else head.bottleneck * width)
    if work.tile_rows is not None:
        return total
    dino, ibot = work.dino_head, work.ibot_head or work.dino_head
    total += images * (GLOBAL_VIEWS + 1) * dino.prototypes * FP32
    return total + images * work.patch_rows * ibot.prototypes * FP32


def transient_in_heads(work: BranchWork, width: int, images: int) -> float:
    """What lives beside that where the losses are: the teacher's class targets, and one gradient of the logits.

    With tiles: the gradient of a weight in fp32, and of one tile logits, targets and their product.
    """
    if work.tile_rows is not None:
        tiles = [3 * min(work.tile_rows, images * rows) * head.prototypes for head, rows in _loss_rows(work)]
        weight = max(head.prototypes * head.bottleneck for head, _ in work.head_rows())
        return FP32 * (max(tiles) + weight)
    largest = max(rows * head.prototypes for head, rows in _loss_rows(work))
    return images * (GLOBAL_VIEWS * work.dino_head.prototypes * FP32 + largest * (FP32 + width))


def _loss_rows(work: BranchWork) -> list[tuple[HeadParams, float]]:
    """The rows of each loss: the gradient of one is gone before that of the other is made."""
    return [(work.dino_head, float(work.views)), (work.ibot_head or work.dino_head, work.patch_rows)]


def _crop_bytes(work: BranchWork) -> float:
    return float(FP32 * work.model.channels * sum(kind.views * kind.size**2 for kind in work.crops))
