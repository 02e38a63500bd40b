"""A DINOv2 training step on crops that are on the device already: to be timed, with its FLOPs counted."""

import itertools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("LOCAL_RANK", "0")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch

if not torch.cuda.is_available():
    os.environ["DS_ACCELERATOR"] = "cpu"

import torch.distributed as dist

from components.data.batch import CropBatch
from components.data.masking import draw_masks
from components.models.drop_path import kept_count
from components.objectives import StepState
from components.training.clipping import GradientNorms
from components.training.ema import MovingAverage
from components.training.engine import Engine, join_processes
from components.training.fast_path import checkpoint_activations, compile_blocks
from components.training.parameter_groups import parameter_groups
from components.training.pretrain import PretrainParams, build

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS = 1000
"""Of the schedules; what is measured lies in their midst."""


def join() -> None:
    """A process group of this process alone."""
    if not dist.is_initialized():
        backend = "nccl" if DEVICE == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        join_processes(DEVICE)


def params_of(
    model: dict[str, Any], *, batch: int, local_size: int = 98, heads: dict[str, Any], **changes: Any
) -> PretrainParams:
    """Parameters of a measured step: published crops, one batch, one forward pass.

    Args:
        model: fields of `ViTConfig`.
        batch: images.
        local_size: side of a local crop.
        heads: fields of the objective.
        changes: other sections.
    """
    values = {
        "steps": STEPS,
        "batch_size": batch,
        "model": model,
        "views": {"global_size": model["image_size"], "local_size": local_size},
        "objective": {"koleo_group": max(batch, 2), "drop_path_group": max(batch, 2), **heads},
        **changes,
    }
    return PretrainParams.model_validate(values)


def batch_of(params: PretrainParams, number: int) -> CropBatch:
    """Noise in the shape of crops, and masks."""
    images, views = params.batch_size, params.views
    generator = torch.Generator().manual_seed(number)
    sizes = ((2, views.global_size), (views.local_crops, views.local_size))
    crops = [torch.randn(n * images, 3, size, size, generator=generator).to(DEVICE) for n, size in sizes]
    grid = views.global_size // params.model.patch_size
    masks = draw_masks(params.masks, seed=0, step=number, crops=2 * images, grid=grid).to(DEVICE)
    return CropBatch(crops, masks, tuple(map(str, range(images))), torch.arange(images), number)


def in_parts(batch: CropBatch, parts: int) -> list[CropBatch]:
    """Contiguous images of a batch, as the loader would give them."""
    images = len(batch) // parts

    def rows(tensor: torch.Tensor, first: int) -> torch.Tensor:
        return tensor.unflatten(0, (-1, len(batch)))[:, first : first + images].flatten(0, 1)

    return [
        CropBatch(
            [rows(crops, first) for crops in batch.crops],
            rows(batch.masks, first),
            batch.ids[first : first + images],
            batch.positions[first : first + images],
            batch.step,
        )
        for first in range(0, len(batch), images)
    ]


class TrainingStep:
    """Forward, backward, clipping, update and average of one process under the engine.

    Args:
        params: of the run.
    """

    def __init__(self, params: PretrainParams) -> None:
        join()
        self.params = params
        objective = build(params)
        groups = parameter_groups(objective.named_parameters(), params.groups, depth=params.model.depth)
        checkpoint_activations(objective, params.engine)
        self.engine = Engine(objective, groups, params.engine, images=params.batch_size, device=DEVICE)
        compile_blocks(self.engine.module, params.engine, device=DEVICE)
        self.average = MovingAverage(self.engine.layout, self.engine.shards, objective.ema_pairs())
        self.norms = GradientNorms([shard.name for shard in self.engine.shards], params.clip)
        self.objective = objective
        self.batches = [in_parts(batch_of(params, number), self.engine.micro_batches) for number in range(2)]
        self.number = STEPS // 2

    def __call__(self) -> None:
        """One step."""
        self.number += 1
        values = self.params.schedules(STEPS).at(self.number)
        state = StepState(step=self.number, seed=0, teacher_temperature=values.teacher_temperature)
        parts = self.batches[self.number % len(self.batches)]
        for micro, batch in enumerate(parts):
            loss = self.engine.forward(batch=batch, state=state).loss
            self.engine.backward(loss, last=micro + 1 == len(parts))
        gradients = self.engine.gradients()
        self.norms.clip(gradients, self.norms.squares(gradients).sqrt())
        self.engine.step(values)
        self.average.update(values.momentum)
        self.objective.commit()

    def flops(self) -> float:
        """Of a step, a multiplication and an addition counting two, mean over the batches.

        All crops at full depth, times the share of samples that stochastic depth keeps; the teacher and both heads
        included; backward twice the forward.
        """
        masked = [sum(int(part.masks.sum()) for part in parts) for parts in self.batches]
        return statistics.mean(flops_of(self.params, count) for count in masked)


def flops_of(params: PretrainParams, masked: int) -> float:
    """FLOPs of a step with so many masked patches."""
    model, images, views = params.model, params.batch_size, params.views
    student = teacher = 0.0
    for size, crops in ((views.global_size, 2 * images), (views.local_size, views.local_crops * images)):
        patches = (size // model.patch_size) ** 2
        tokens = 1 + model.registers + patches
        block = tokens * (8 * model.width**2 + 4 * tokens * model.width + _feed_forward(params))
        embedding = 2 * patches * model.patch_size**2 * model.channels * model.width
        kept = kept_count(crops, model.drop_path) / crops if model.drop_path else 1.0
        # nothing flows back into the images
        student += crops * (3 * model.depth * block * kept + 2 * embedding)
        if size == views.global_size and crops == 2 * images:
            teacher += crops * (model.depth * block + embedding)
    objective = params.objective
    ibot_head = objective.ibot_head or objective.dino_head
    for head, rows, teacher_rows in (
        (objective.dino_head, (2 + views.local_crops) * images, 2 * images),
        (ibot_head, masked, masked),
    ):
        widths = [model.width] + [head.hidden] * (head.layers - 1) + [head.bottleneck, head.prototypes]
        row = sum(2 * before * after for before, after in itertools.pairwise(widths))
        student += 3 * rows * row
        teacher += teacher_rows * row
    return student + teacher


def _feed_forward(params: PretrainParams) -> float:
    """FLOPs of a token; SwiGLU costs what the MLP does."""
    return 4 * params.model.width**2 * params.model.ffn_ratio


def clock(work: Callable[[], object], repeats: int = 1) -> float:
    """Seconds of so many calls in a row, until the device has done them."""
    _finish()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    _finish()
    return (time.perf_counter() - start) / repeats


def matmul_rate(shapes: list[tuple[int, int, int]], dtype: torch.dtype, repeats: int = 3) -> float:
    """FLOPs a second of the fastest of some matrix products, each the median of five."""
    rates = []
    for rows, inner, columns in shapes:
        left = torch.randn(rows, inner, device=DEVICE).to(dtype)
        right = torch.randn(inner, columns, device=DEVICE).to(dtype)
        out = torch.empty(rows, columns, device=DEVICE, dtype=dtype)
        product = lambda left=left, right=right, out=out: torch.mm(left, right, out=out)  # noqa: E731
        clock(product)
        seconds = statistics.median(clock(product, repeats) for _ in range(5))
        rates.append(2.0 * rows * inner * columns / seconds)
    return max(rates)


def _finish() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
