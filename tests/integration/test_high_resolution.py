"""The last phase on larger crops, as a training process runs it."""

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.integration.ranks import run_ranks
from tests.integration.switch_cases import INTERRUPTED, SWITCH
from tests.tiny_training import make_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("switch")
    make_data(folder)
    run_ranks("tests.integration.switch_cases", 1, str(folder))
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, dict[str, Tensor]]:
    return torch.load(folder / "results.pt", weights_only=True)


def losses(folder: Path, name: str) -> list[float]:
    with (folder / f"{name}.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("when", INTERRUPTED)
def test_a_run_that_resumes_around_the_switch_is_bitwise_the_uninterrupted_one(
    folder: Path, found: dict[str, dict[str, Tensor]], when: str
) -> None:
    assert losses(folder, when) == losses(folder, "straight")
    for name, value in found["straight"].items():
        assert torch.equal(found[when][name], value), name


def test_larger_crops_begin_at_the_switch_and_not_before(folder: Path) -> None:
    with_phase, without = losses(folder, "straight"), losses(folder, "never")
    assert with_phase[:SWITCH] == without[:SWITCH]
    assert all(a != b for a, b in zip(with_phase[SWITCH:], without[SWITCH:], strict=True))


def test_a_schedule_of_its_own_changes_what_is_learnt_in_the_phase(
    folder: Path, found: dict[str, dict[str, Tensor]]
) -> None:
    assert len(losses(folder, "own schedule")) == len(losses(folder, "straight"))
    key = "blocks.0.attention.qkv.weight"
    assert not torch.equal(found["own schedule"][key], found["straight"][key])
