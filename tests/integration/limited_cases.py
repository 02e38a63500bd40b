"""What `run_ranks` runs on each process: trains a model within a limit on the memory of the process.

`python -m tests.integration.limited_cases FOLDER MIB`; 0 MIB: no limit, what is needed is measured.
"""

import ctypes
import gc
import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from components.data.batch import CropBatch
from components.data.masking import draw_masks
from components.objectives import StepState
from components.training.ema import MovingAverage
from components.training.engine import Engine, join_processes
from components.training.parameter_groups import parameter_groups
from components.training.pretrain import PretrainParams, build

MIB = 2**20
IMAGES = 12
STEPS = 3
BUCKET = 4_000_000
HEAD = {"hidden": 64, "bottleneck": 32, "prototypes": 512}
SMALL: dict[str, Any] = {"image_size": 16, "patch_size": 4, "width": 64, "depth": 1, "heads": 1}
LARGE: dict[str, Any] = {**SMALL, "width": 768, "depth": 6, "heads": 12}


def params(model: dict[str, Any]) -> PretrainParams:
    return PretrainParams.model_validate(
        {
            "steps": STEPS,
            "batch_size": IMAGES,
            "model": model,
            "views": {"global_size": 16, "local_size": 8, "local_crops": 2},
            "objective": {"dino_head": HEAD, "koleo_group": 2, "drop_path_group": 2},
            "engine": {"persistence_threshold": 0, "bucket": BUCKET},
        }
    )


def status(name: str) -> int:
    """Bytes that the kernel says of this process."""
    [line] = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])


def settled() -> int:
    """Bytes of memory of its own that the process holds, once what is free has been given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return status("RssAnon")


def batch_of(step: int, share: int) -> CropBatch:
    """This process's part of a batch of noise."""
    generator = torch.Generator().manual_seed(step)
    first = dist.get_rank() * share
    parts = [torch.randn(2, IMAGES, 3, side, side, generator=generator) for side in (16, 8)]
    masks = draw_masks(params(SMALL).masks, seed=0, step=step, crops=2 * IMAGES, grid=4).unflatten(0, (2, IMAGES))
    own = slice(first, first + share)
    return CropBatch(
        [part[:, own].flatten(0, 1) for part in parts],
        masks[:, own].flatten(0, 1),
        tuple(map(str, range(first, first + share))),
        torch.arange(first, first + share),
        step,
    )


def train(model: dict[str, Any]) -> dict[str, Any]:
    """The mean loss of each step, and what the process holds between the last two."""
    made = params(model)
    share = IMAGES // dist.get_world_size()
    objective = build(made)
    groups = parameter_groups(objective.named_parameters(), made.groups, depth=made.model.depth)
    engine = Engine(objective, groups, made.engine, images=share, device="cpu")
    average = MovingAverage(engine.layout, engine.shards, objective.ema_pairs())
    losses = []
    for step in range(STEPS):
        state = StepState(step=step, seed=0, teacher_temperature=0.05)
        loss = engine.forward(batch=batch_of(step, share), state=state).loss
        engine.backward(loss, last=True)
        mean = loss.detach().clone() / dist.get_world_size()
        dist.all_reduce(mean)
        losses.append(mean.item())
        engine.step(made.schedules(STEPS).at(step))
        average.update(0.9)
        objective.commit()
    return {"losses": losses, "held": settled(), "weights": sum(len(shard.weight) for shard in engine.shards)}


def main() -> None:
    """Trains a small model, so that all code is there, and then the large one within the limit."""
    folder, limit = Path(sys.argv[1]), int(sys.argv[2]) * MIB
    torch.set_num_threads(1)
    join_processes("cpu")
    train(SMALL)
    held, data = settled(), status("VmData")
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (data + limit, data + limit))
    found = train(LARGE)
    found |= {"before": held, "limit": limit, "peak": status("VmHWM")}
    (folder / f"{dist.get_world_size()}-{dist.get_rank()}-{sys.argv[2]}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
