"""Sharded training against plain PyTorch, on one process and on two, in every ZeRO stage."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.integration.pair import train_plainly
from tests.integration.ranks import run_ranks

Found = dict[int, dict[str, Any]]
FP32_CASES = [
    "stage 0",
    "stage 1",
    "stage 2",
    "stage 3",
    "stage 3, nothing persistent",
    "stage 3, all persistent",
    "stage 3, micro-batches",
]
TOLERANCE = 1e-6
both = pytest.mark.parametrize("processes", [1, 2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zero3")


@pytest.fixture(scope="module")
def found(folder: Path) -> Found:
    """What each case gave on process 0, by number of processes."""
    for processes in (1, 2):
        run_ranks("tests.integration.zero3_cases", processes, str(folder))
    return {processes: torch.load(folder / f"results-{processes}-0.pt", weights_only=True) for processes in (1, 2)}


@cache
def plain(steps: int) -> dict[str, Any]:
    return train_plainly(steps)


def distance(some: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest absolute difference."""
    assert expected
    assert expected.keys() <= some.keys()
    return max(float((some[name].double() - value.double()).abs().max()) for name, value in expected.items())


@both
@pytest.mark.parametrize("case", FP32_CASES)
def test_weights_and_averages_are_those_of_plain_training(found: Found, case: str, processes: int) -> None:
    result = found[processes][case]
    # the sum of micro-batches rounds otherwise, and Adam divides it by its own size
    tolerance = 5 * TOLERANCE if "micro" in case else TOLERANCE
    assert distance(result["whole"], plain(len(result["curve"]))["whole"]) < tolerance


@both
@pytest.mark.parametrize("case", FP32_CASES)
def test_each_forward_computes_with_the_average_of_the_step_before(found: Found, case: str, processes: int) -> None:
    curve = torch.tensor(found[processes][case]["curve"])
    assert (curve - plain(len(curve))["curve"]).abs().max() < TOLERANCE
    stale = train_plainly(len(curve), stale_teacher=True)["curve"]
    assert (curve - stale).abs().max() > 1000 * TOLERANCE


@both
def test_in_bf16_the_fp32_average_is_exact_and_the_module_sees_it_rounded(found: Found, processes: int) -> None:
    result = found[processes]["exact average"]
    assert result["error"].max() == 0
    assert result["cast"].all()


@both
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bf16_stays_near_fp32_and_its_buffers_stay_fp32(found: Found, stage: int, processes: int) -> None:
    result = found[processes][f"bf16 stage {stage}"]
    curve = torch.tensor(result["curve"])
    expected = plain(len(curve))["curve"][-10:, 0].mean().item()
    assert curve[-10:, 0].mean().item() == pytest.approx(expected, rel=0.1)
    assert torch.equal(result["centre"], torch.full((5,), 1 / 3))


@both
@pytest.mark.parametrize("case", ["skip stage 0", "skip stage 1", "skip stage 2", "skip stage 3", "skip bf16"])
def test_F5_a_step_that_is_not_finite_on_one_process_changes_nothing_on_any(
    found: Found, case: str, processes: int
) -> None:
    result = found[processes][case]
    assert distance(result["after"], result["before"]) == 0
    assert result["steps"] == (1, 1)
    assert distance(result["went on"], result["never saw it"]) == 0
    assert distance(result["went on"], result["before"]) > 0


@both
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(found: Found, processes: int) -> None:
    result = found[processes]["checkpoint"]
    assert distance(result["restored"], result["saved"]) == 0
    assert distance(result["resumed"], result["straight"]) == 0
    assert distance(result["straight"], result["saved"]) > 0
    assert torch.equal(result["centre"], torch.full((5,), 0.25))
    assert result["values"]["note"] == "kept"


@pytest.fixture(scope="module")
def elastic(folder: Path, found: Found) -> dict[tuple[int, int], dict[str, Any]]:
    """What came of the checkpoint of some processes on another number of them, by both numbers."""
    for reader, writers in ((1, [2]), (2, [1]), (3, [2])):
        run_ranks("tests.integration.zero3_cases", reader, str(folder), *(str(folder / f"world-{w}") for w in writers))
    read = {reader: torch.load(folder / f"elastic-{reader}-0.pt", weights_only=True) for reader in (1, 2, 3)}
    return {(int(name[-1]), reader): one for reader, found in read.items() for name, one in found.items()}


@pytest.mark.parametrize("change", [(2, 1), (1, 2), (2, 3)], ids=lambda change: f"{change[0]} to {change[1]}")
def test_F6_another_number_of_processes_goes_on_from_the_checkpoint(
    found: Found, elastic: dict[tuple[int, int], dict[str, Any]], change: tuple[int, int]
) -> None:
    written, read = found[change[0]]["checkpoint"], elastic[change]
    assert distance(read["restored"], written["saved"]) == 0
    assert distance(read["resumed"], written["straight"]) < TOLERANCE
    assert (torch.tensor(read["curve"]) - torch.tensor(written["curve"])).abs().max() < TOLERANCE
