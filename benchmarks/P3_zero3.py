"""P3: a training step under ZeRO-3 against the same step in plain PyTorch, one process, steps taken in turn.

The model and batch are those of the recipe cifar10-cpu; crops are on the device already.
"""

import os
import statistics
import time
from collections.abc import Callable

os.environ |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": "0"}
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.report import report
from components.data.batch import CropBatch
from components.data.masking import draw_masks
from components.objectives import StepState
from components.training.clipping import GradientNorms
from components.training.ema import MovingAverage
from components.training.engine import Engine, join_processes
from components.training.parameter_groups import parameter_groups
from components.training.pretrain import PretrainParams, build
from components.training.schedules import Schedules

BOUND = 0.95
WARM_UP = 3
STEPS = 15
HEAD = {"hidden": 512, "bottleneck": 64, "prototypes": 2048}
PARAMS = PretrainParams.model_validate(
    {
        "steps": 1000,
        "batch_size": 128,
        "model": {"image_size": 32, "patch_size": 4, "width": 128, "depth": 5, "heads": 2, "layer_scale": None},
        "views": {"global_size": 32, "local_size": 16, "local_crops": 4},
        "objective": {"dino_head": HEAD, "centring": "sinkhorn", "koleo_group": 64},
    }
)
SCHEDULES = Schedules(PARAMS.schedule, 1000, PARAMS.batch_size)
Step = Callable[[int], None]


def batch_of(step: int) -> CropBatch:
    """Noise in the shape of crops."""
    images, views = PARAMS.batch_size, PARAMS.views
    generator = torch.Generator().manual_seed(step)
    sizes = ((2, views.global_size), (views.local_crops, views.local_size))
    crops = [torch.randn(n * images, 3, size, size, generator=generator) for n, size in sizes]
    grid = views.global_size // PARAMS.model.patch_size
    masks = draw_masks(PARAMS.masks, seed=0, step=step, crops=2 * images, grid=grid)
    return CropBatch(crops, masks, tuple(map(str, range(images))), torch.arange(images), step)


BATCHES = [batch_of(step) for step in range(4)]


def inputs(step: int) -> dict[str, object]:
    """Arguments of the objective."""
    state = StepState(step=step, seed=0, teacher_temperature=SCHEDULES.at(step).teacher_temperature)
    return {"batch": BATCHES[step % len(BATCHES)], "state": state}


def plain() -> Step:
    """Fused AdamW, clipping by module, fp32 average of the teacher."""
    objective = build(PARAMS)
    groups = parameter_groups(objective.named_parameters(), PARAMS.groups, depth=PARAMS.model.depth)
    optimizer = torch.optim.AdamW([{"params": list(group.parameters.values())} for group in groups], fused=True)
    named = dict(objective.named_parameters())
    pairs = objective.ema_pairs()
    sources, targets = [named[source] for source, _ in pairs], [named[target] for _, target in pairs]
    modules = [module for module in objective.student.children() if isinstance(module, nn.Module)]

    def step(number: int) -> None:
        objective(**inputs(number)).loss.backward()
        for module in modules:
            nn.utils.clip_grad_norm_(module.parameters(), 3.0)
        values = SCHEDULES.at(number)
        for group, ours in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] = ours.lr_scale * values.lr
            group["weight_decay"] = values.weight_decay if ours.decayed else 0.0
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(targets, sources, 1 - values.momentum)
        objective.commit()

    return step


def sharded() -> Step:
    """The same under the engine."""
    objective = build(PARAMS)
    groups = parameter_groups(objective.named_parameters(), PARAMS.groups, depth=PARAMS.model.depth)
    engine = Engine(objective, groups, PARAMS.engine, images=PARAMS.batch_size, device="cpu")
    average = MovingAverage(engine.layout, engine.shards, objective.ema_pairs())
    norms = GradientNorms([shard.name for shard in engine.shards], PARAMS.clip)

    def step(number: int) -> None:
        engine.backward(engine.forward(**inputs(number)).loss, last=True)
        gradients = engine.gradients()
        squares = norms.squares(gradients)
        dist.all_reduce(squares)
        norms.clip(gradients, squares.sqrt())
        values = SCHEDULES.at(number)
        engine.step(values)
        average.update(values.momentum)
        objective.commit()

    return step


def main() -> None:
    """Measures and reports."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    join_processes("cpu")
    steps = {"plain": plain(), "zero3": sharded()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(WARM_UP + STEPS):
        for name, step in steps.items():
            start = time.perf_counter()
            step(number)
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(found[WARM_UP:]) for name, found in times.items()}
    ratios = [a / b for a, b in zip(times["plain"][WARM_UP:], times["zero3"][WARM_UP:], strict=True)]
    ratio = statistics.median(ratios)
    report(
        "P3",
        "speed of a ZeRO-3 step over that of a plain step, one process",
        ratio=ratio,
        bound=f">= {BOUND}",
        holds=ratio >= BOUND,
        figures={"seconds": medians, "steps": STEPS, "threads": torch.get_num_threads()},
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
