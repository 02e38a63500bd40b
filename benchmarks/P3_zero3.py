"""P3: a training step under ZeRO-3 against the same step in plain PyTorch, one process, steps taken in turn.

On a CPU model and batch are those of the recipe cifar10-cpu, on a GPU it is ViT-S/14 with the published crops, both in
fp32; crops are on the device already. `--tiny` for a trial.
"""

import statistics
import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.report import report
from benchmarks.training_step import DEVICE, batch_of, clock, join, params_of
from components.models.presets import vit_config
from components.objectives import StepState
from components.training.clipping import GradientNorms
from components.training.ema import MovingAverage
from components.training.engine import Engine
from components.training.parameter_groups import parameter_groups
from components.training.pretrain import PretrainParams, build
from components.training.schedules import Schedules

TINY = "--tiny" in sys.argv
BOUND = 0.95
WARM_UP = 3
STEPS = 5 if TINY else 15
HEAD = {"hidden": 512, "bottleneck": 64, "prototypes": 64 if TINY else 2048}
SMALL = {"image_size": 32, "patch_size": 4, "width": 128, "depth": 5, "heads": 2, "layer_scale": None}


def chosen() -> PretrainParams:
    """The step that is measured on this device."""
    if DEVICE == "cuda" and not TINY:
        head = {"prototypes": 65536}
        return params_of(vit_config("S", drop_path=0.0).model_dump(), batch=32, heads={"dino_head": head})
    heads = {"dino_head": HEAD, "centring": "sinkhorn", "koleo_group": 8 if TINY else 64}
    made = params_of(SMALL, batch=8 if TINY else 128, local_size=16, heads=heads)
    return made.model_copy(update={"views": made.views.model_copy(update={"local_crops": 4})})


PARAMS = chosen()
SCHEDULES = Schedules(PARAMS.schedule, 1000, PARAMS.batch_size)
Step = Callable[[int], None]
BATCHES = [batch_of(PARAMS, step) for step in range(4)]


def inputs(step: int) -> dict[str, object]:
    """Arguments of the objective."""
    state = StepState(step=step, seed=0, teacher_temperature=SCHEDULES.at(step).teacher_temperature)
    return {"batch": BATCHES[step % len(BATCHES)], "state": state}


def plain() -> Step:
    """Fused AdamW, clipping by module, fp32 average of the teacher."""
    objective = build(PARAMS).to(DEVICE)
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
    engine = Engine(objective, groups, PARAMS.engine, images=PARAMS.batch_size, device=DEVICE)
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
    join()
    steps = {"plain": plain(), "zero3": sharded()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(WARM_UP + STEPS):
        for name, step in steps.items():
            times[name].append(clock(lambda step=step, number=number: step(number)))
    medians = {name: statistics.median(found[WARM_UP:]) for name, found in times.items()}
    ratios = [a / b for a, b in zip(times["plain"][WARM_UP:], times["zero3"][WARM_UP:], strict=True)]
    ratio = statistics.median(ratios)
    report(
        "P3",
        "speed of a ZeRO-3 step over that of a plain step, one process",
        ratio=ratio,
        bound=f">= {BOUND}",
        holds=ratio >= BOUND,
        figures={"seconds": medians, "steps": STEPS, "threads": torch.get_num_threads(), "device": DEVICE},
        name="P3" if DEVICE == "cpu" else "P3_gpu",
        keep=not TINY,
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
