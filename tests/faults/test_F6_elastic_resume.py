"""F6: a training goes on with another number of processes: the same images in the same order, the same loss."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.models.backbone import load_backbone
from components.training.checkpoint import CheckpointStore
from components.training.job import Answer
from tests.faults.forks import job_in
from tests.integration.ranks import run_ranks
from tests.tiny_training import PRETRAIN, make_data

STEPS, RESUMED_AT = 16, 8
RELATIVE_TOLERANCE = 1e-3
"""Of losses, over eight steps of fp32: sums are added up in another order, and the steps amplify it."""
PARAMS = {**PRETRAIN, "steps": STEPS, "batch_size": 12, "checkpoint": {"seconds": 1e-6, "keep": STEPS}}

pytestmark = pytest.mark.slow


def train(data: Path, own: Path, processes: int) -> None:
    """Trains to the end, from the checkpoints in `own` if there are some."""
    own.mkdir(exist_ok=True)
    (own / "answer.json").unlink(missing_ok=True)
    job = replace(job_in(data, own, PARAMS), processes=processes)
    run_ranks("components.training.worker", processes, str(job.write(own)))
    assert Answer.read(own) is not None


def losses(own: Path) -> list[float]:
    with (own / "pretrain.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Uninterrupted, by number of processes."""
    found = {}
    for processes in (1, 2):
        found[processes] = tmp_path_factory.mktemp(f"straight-{processes}")
        train(data, found[processes], processes)
    return found


@pytest.mark.parametrize("change", [(2, 1), (1, 2), (2, 3)], ids=lambda change: f"{change[0]} to {change[1]}")
def test_F6_a_training_resumed_on_another_number_of_processes_has_the_losses_of_one_left_alone(
    data: Path, straight: dict[int, Path], tmp_path: Path, change: tuple[int, int]
) -> None:
    before, after = change
    shutil.copytree(straight[before] / "checkpoints", tmp_path / "own" / "checkpoints")
    CheckpointStore(tmp_path / "own" / "checkpoints").discard_above(RESUMED_AT)
    train(data, tmp_path / "own", after)
    assert losses(tmp_path / "own") == pytest.approx(losses(straight[before]), rel=RELATIVE_TOLERANCE)
    shards = list((tmp_path / "own" / "checkpoints" / f"step-{STEPS:08d}").glob("shard-*"))
    assert len(shards) == after
    assert json.loads((shards[0].parent / "state.json").read_text())["processes"] == after
    mine, theirs = (load_backbone(one / "pretrain").model.state_dict() for one in (tmp_path / "own", straight[before]))
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=RELATIVE_TOLERANCE, atol=1e-4)
