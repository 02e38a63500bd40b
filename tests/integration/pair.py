"""A small student and its moving average, and how they are trained without DeepSpeed: the truth of the tests."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.training.parameter_groups import GroupParams, parameter_groups
from components.training.schedules import StepValues

BATCH = 12
CLIP = 0.05
MOMENTUM = 0.9
VALUES = StepValues(lr=1e-2, last_layer_lr=1e-2, weight_decay=0.1, momentum=MOMENTUM, teacher_temperature=0.05)


class Result(NamedTuple):
    loss: Tensor
    teacher: Tensor


class Branch(nn.Module):
    """Named as a real branch is; of odd sizes, so that shards are padded."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(7, 24), nn.GELU(), nn.Linear(24, 13), nn.LayerNorm(13))
        self.dino_head = nn.Sequential(nn.Linear(13, 257), nn.GELU(), nn.Linear(257, 5, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dino_head(self.backbone(x))
        return out


class Pair(nn.Module):
    """A student that learns a fixed map and is pulled towards its own moving average."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.student, self.teacher = Branch(), Branch()
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.register_buffer("centre", torch.full((5,), 1 / 3))

    def ema_pairs(self) -> list[tuple[str, str]]:
        return [(f"student.{name}", f"teacher.{name}") for name, _ in self.teacher.named_parameters()]

    def forward(self, x: Tensor) -> Result:
        x = x.to(self.student.backbone[0].weight.dtype)
        with torch.no_grad():
            teacher = self.teacher(x)
        student = self.student(x)
        wanted = torch.stack([x.sin().mean(1)] * 5, 1)
        return Result(F.mse_loss(student, wanted) + 0.3 * F.mse_loss(student, teacher), teacher.float().mean().detach())


def batch_of(step: int) -> Tensor:
    return torch.randn(BATCH, 7, generator=torch.Generator().manual_seed(step))


def train_plainly(steps: int, *, stale_teacher: bool = False) -> dict[str, Any]:
    """Plain PyTorch in one process, the average in fp64.

    Args:
        steps: optimizer steps.
        stale_teacher: the module keeps computing with its first teacher, as it would if averages were not published.
    """
    torch.set_num_threads(1)
    pair = Pair()
    groups = parameter_groups(pair.named_parameters(), GroupParams(), depth=1)
    optimizer = torch.optim.AdamW(
        [
            {"params": list(group.parameters.values()), "weight_decay": VALUES.weight_decay if group.decayed else 0.0}
            for group in groups
        ],
        lr=VALUES.lr,
    )
    average = {name: value.double() for name, value in pair.teacher.state_dict().items()}
    curve = []
    for step in range(steps):
        result = pair(batch_of(step))
        optimizer.zero_grad()
        result.loss.backward()
        for module in (pair.student.backbone, pair.student.dino_head):
            nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimizer.step()
        for name, value in pair.student.state_dict().items():
            average[name] = MOMENTUM * average[name] + (1 - MOMENTUM) * value.double()
        if not stale_teacher:
            pair.teacher.load_state_dict({name: value.float() for name, value in average.items()})
        curve.append((result.loss.item(), result.teacher.item()))
    whole = {f"student.{name}": value for name, value in pair.student.state_dict().items()}
    whole |= {f"teacher.{name}": value for name, value in average.items()}
    return {"curve": torch.tensor(curve), "whole": whole}
