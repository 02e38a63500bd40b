"""The functions that `run_ranks` runs; a module of its own, because DeepSpeed is imported here."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 24


class Result(NamedTuple):
    loss: Tensor
    parts: dict[str, Tensor]


class Branch(nn.Module):
    """Named as a real branch is; odd sizes, so that shards are padded."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(7, WIDTH), nn.GELU(), nn.Linear(WIDTH, 13), nn.LayerNorm(13))
        self.dino_head = nn.Sequential(nn.Linear(13, 257), nn.GELU(), nn.Linear(257, 5, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.dino_head(self.backbone(x))


class Pair(nn.Module):
    """A student that learns a fixed map and is pulled towards its own moving average."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.student, self.teacher = Branch(), Branch()
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.register_buffer("centre", torch.zeros(5))

    def ema_pairs(self) -> list[tuple[str, str]]:
        return [(f"student.{name}", f"teacher.{name}") for name, _ in self.teacher.named_parameters()]

    def forward(self, x: Tensor, poison: float = 1.0) -> Result:
        x = x.to(self.student.backbone[0].weight.dtype)
        with torch.no_grad():
            teacher = self.teacher(x)
        student = self.student(x)
        wanted = torch.stack([x.sin().mean(1)] * 5, 1)
        loss = (F.mse_loss(student, wanted) + 0.3 * F.mse_loss(student, teacher)) * poison
        return Result(loss, {"loss": loss.detach(), "teacher": teacher.float().mean()})


def images(step: int, count: int = 12) -> Tensor:
    return torch.randn(count, 7, generator=torch.Generator().manual_seed(step))


def local(batch: Tensor) -> Tensor:
    return batch.chunk(dist.get_world_size())[dist.get_rank()]


def build(stage: int, precision: str = "fp32", threshold: int | None = None, micro_batch: int | None = None) -> Any:
    from components.training.ema import MovingAverage
    from components.training.engine import Engine
    from components.training.engine_config import EngineParams
    from components.training.parameter_groups import GroupParams, parameter_groups

    module = Pair()
    groups = parameter_groups(module.named_parameters(), GroupParams(), depth=1)
    params = EngineParams(
        zero_stage=stage, precision=precision, persistence_threshold=threshold, micro_batch=micro_batch
    )
    engine = Engine(module, groups, params, images=12 // dist.get_world_size(), device="cpu")
    return engine, MovingAverage(engine.layout, engine.shards, module.ema_pairs())


def values(lr: float = 1e-2) -> Any:
    from components.training.schedules import StepValues

    return StepValues(lr=lr, last_layer_lr=lr, weight_decay=0.1, momentum=0.9, teacher_temperature=0.05)


def whole(engine: Any, average: Any) -> dict[str, Tensor]:
    """Every trained weight and every average, whole, on process 0."""
    from components.training.ema import gather_piece

    found = {
        shard.name: gather_piece(shard, shard.weight, replicated=engine.layout.replicated) for shard in engine.shards
    }
    return {name: value for name, value in {**found, **dict(average.gather())}.items() if value is not None}


def average_follows(stage: int, precision: str, threshold: int | None, steps: int) -> Any:
    engine, average = build(stage, precision, threshold)
    losses, teachers = [], []
    for step in range(steps):
        result = engine.forward(x=local(images(step)))
        engine.backward(result.loss, last=True)
        engine.step(values())
        average.update(0.9)
        for kept, values_of in ((losses, result.parts["loss"]), (teachers, result.parts["teacher"])):
            mean = values_of.float() / dist.get_world_size()
            dist.all_reduce(mean)
            kept.append(mean.item())
    return {"losses": losses, "teachers": teachers, "weights": whole(engine, average), "centre": engine.module.centre}


CASES: dict[str, Callable[..., Any]] = {"average_follows": average_follows}


def main() -> None:
    case, folder, arguments = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(1)
    import deepspeed

    deepspeed.init_distributed("gloo")
    result = CASES[case](**arguments)
    torch.save(result, folder / f"{case}-{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
