"""What `run_ranks` runs on each process: the bytes of the tensors that the real engine keeps, by part."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from components.data.batch import CropBatch
from components.data.masking import draw_masks
from components.objectives import StepState
from components.training.ema import MovingAverage
from components.training.engine import Engine, join_processes
from components.training.engine_config import EngineParams
from components.training.parameter_groups import parameter_groups
from components.training.pretrain import PretrainParams, build

HEAD = {"hidden": 64, "bottleneck": 32, "prototypes": 512}
PARAMS: dict[str, Any] = {
    "steps": 1,
    "batch_size": 8,
    "model": {"image_size": 16, "patch_size": 4, "width": 64, "depth": 2, "heads": 1},
    "views": {"global_size": 16, "local_size": 8, "local_crops": 2},
    "objective": {"dino_head": HEAD, "ibot_head": HEAD, "koleo_group": 2},
}
CASES = [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16"), (2, "bf16"), (3, "bf16")]


def size_of(tensors: Iterable[Tensor | None], besides: set[int]) -> int:
    """Bytes of distinct memory that was not seen before; it is seen then."""
    total = 0
    for tensor in tensors:
        if tensor is None or tensor.untyped_storage().data_ptr() in besides or not tensor.numel():
            continue
        besides.add(tensor.untyped_storage().data_ptr())
        total += tensor.untyped_storage().nbytes()
    return total


def parts(zero_stage: int, precision: str) -> dict[str, int]:
    """Bytes by part after the backward pass of a step."""
    engine_params = {"zero_stage": zero_stage, "precision": precision, "persistence_threshold": 0}
    params = PretrainParams.model_validate({**PARAMS, "engine": engine_params})
    objective = build(params)
    named = dict(objective.named_parameters())
    groups = parameter_groups(named.items(), params.groups, depth=params.model.depth)
    share = params.batch_size // dist.get_world_size()
    engine = Engine(objective, groups, EngineParams(**engine_params), images=share, device="cpu")
    average = MovingAverage(engine.layout, engine.shards, objective.ema_pairs())
    crops = [torch.randn(2 * share, 3, 16, 16), torch.randn(2 * share, 3, 8, 8)]
    masks = draw_masks(params.masks, seed=0, step=0, crops=2 * share, grid=4)
    batch = CropBatch(crops, masks, tuple(map(str, range(share))), torch.arange(share), 0)
    state = StepState(step=0, seed=0, teacher_temperature=0.05)
    engine.backward(engine.forward(batch=batch, state=state).loss, last=True)

    seen: set[int] = set()
    return {
        "weights": size_of((getattr(one, "ds_tensor", one).detach() for one in named.values()), seen),
        "master": size_of(engine._optimized_tensors(), seen),
        "moments": size_of((moment for shard in engine.shards for moment in shard.moments.values()), seen),
        "averages": size_of(average.averages.values(), seen),
        "gradients": size_of(
            [*engine.gradients(), *(getattr(one, "grad_accum", None) for one in named.values()),
             *(one.grad for one in named.values())], seen
        ),
    }  # fmt: skip


def main() -> None:
    """Measures every case and leaves what process 0 holds."""
    torch.set_num_threads(1)
    join_processes("cpu")
    found = [[stage, precision, parts(stage, precision)] for stage, precision in CASES]
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
