"""The objective on two real processes: the same targets, loss, gradients and centres as on one."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from components.data.batch import CropBatch
from components.models.vit import ViTConfig
from components.objectives import StepState
from components.objectives.branch import HeadParams
from components.objectives.centring import sinkhorn
from components.objectives.dinov2 import DINOv2Objective, DINOv2Params

CONFIG = ViTConfig(image_size=16, patch_size=4, width=16, depth=2, heads=2, layer_scale=0.5, drop_path=0.3)
HEAD = HeadParams(hidden=24, bottleneck=8, prototypes=12)
IMAGES = 16
MEASURES = (
    "teacher_entropy",
    "student_entropy",
    "prototype_usage",
    "student_prototype_usage",
    "feature_std",
    "effective_rank",
    "teacher_student_cosine",
)
SPLITS = {"rows on both": 5, "no rows on the second": 8}
"""Rows that the first process has of eight, for Sinkhorn alone."""


def cosines() -> Tensor:
    return torch.rand(8, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1


def batch_of(first: int, last: int, masked: str) -> CropBatch:
    """Images `first` to `last` of a global batch."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(views, IMAGES, 3, side, side, generator=generator) for views, side in ((2, 16), (3, 8))]
    masks = torch.rand(2, IMAGES, 16, generator=generator) < 0.4
    masks[:, ::3] = False
    if masked == "first half only":
        masks[:, IMAGES // 2 :] = False
    elif masked == "none":
        masks[:] = False
    return CropBatch(
        [part[:, first:last].flatten(0, 1) for part in parts],
        masks[:, first:last].flatten(0, 1),
        tuple(str(i) for i in range(first, last)),
        torch.arange(first, last),
        step=0,
    )


def train(centring: str, masked: str, rank: int, world: int, tile_rows: int | None = None) -> dict[str, Any]:
    """Three steps of gradient descent; the loss and what is left at the end."""
    params = DINOv2Params(dino_head=HEAD, ibot_head=HEAD, centring=centring, koleo_group=4, drop_path_group=8,
                          tile_rows=tile_rows)  # fmt: skip
    made = DINOv2Objective.build(CONFIG, params, seed=0)
    share = IMAGES // world
    losses = []
    for step in range(3):
        batch = batch_of(rank * share, (rank + 1) * share, masked)
        result = made(batch=batch, state=StepState(step, seed=0, teacher_temperature=0.05, measure=True))
        loss = result.loss
        made.zero_grad()
        loss.backward()
        mean = loss.detach().clone()
        for parameter in made.student.parameters():
            if world > 1:
                dist.all_reduce(parameter.grad)
            parameter.data -= 0.05 * parameter.grad / world
        if world > 1:
            dist.all_reduce(mean)
        losses.append(mean / world)
        made.commit()
    measures = torch.stack([result.parts[name] for name in MEASURES])
    if world > 1:
        dist.all_reduce(measures)
    return {"losses": torch.stack(losses), "state": made.state_dict(), "measures": measures / world}


CENTRINGS = ("softmax", "sinkhorn")
CASES = [(centring, masked) for centring in CENTRINGS for masked in ("everywhere", "first half only", "none")]


def process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    results: dict[str, Any] = {f"{a} {b}": train(a, b, rank, 2) for a, b in CASES}
    results |= {f"tiled {centring}": train(centring, "everywhere", rank, 2, tile_rows=6) for centring in CENTRINGS}
    for name, first in SPLITS.items():
        part = cosines()[:first] if rank == 0 else cosines()[first:]
        results[name] = sinkhorn(part, temperature=0.1)
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(process, args=(port, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize(("centring", "masked"), CASES)
def test_two_processes_train_as_one(two_processes: list[dict[str, Any]], centring: str, masked: str) -> None:
    one = train(centring, masked, 0, 1)
    two = two_processes[0][f"{centring} {masked}"]
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-4, atol=1e-5)
    assert one["losses"].diff().abs().min() > 1e-3
    for name, value in one["state"].items():
        torch.testing.assert_close(two["state"][name], value, rtol=1e-3, atol=1e-4, msg=f"{name} differs")


@pytest.mark.parametrize(("centring", "masked"), CASES)
def test_health_measures_of_two_processes_are_those_of_one(
    two_processes: list[dict[str, Any]], centring: str, masked: str
) -> None:
    one = train(centring, masked, 0, 1)["measures"]
    torch.testing.assert_close(two_processes[0][f"{centring} {masked}"]["measures"], one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("centring", CENTRINGS)
def test_health_measures_of_tiles_on_two_processes_are_those_of_one(
    two_processes: list[dict[str, Any]], centring: str
) -> None:
    one = train(centring, "everywhere", 0, 1)["measures"]
    torch.testing.assert_close(two_processes[0][f"tiled {centring}"]["measures"], one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SPLITS)
def test_sinkhorn_over_uneven_processes_equals_sinkhorn_over_all_rows(
    two_processes: list[dict[str, Any]], name: str
) -> None:
    together = torch.cat([results[name] for results in two_processes])
    torch.testing.assert_close(together, sinkhorn(cosines(), temperature=0.1), rtol=1e-5, atol=1e-6)
