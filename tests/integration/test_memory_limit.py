"""ZeRO-3 shares a model out: what a process holds falls as 1/N, and what is too large for one trains on several."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.ranks import run_ranks

pytestmark = pytest.mark.slow
LIMIT = 976
"""MiB beyond what a process has before it makes the model of 43 million weights: 24 bytes a weight. One process holds
24 between steps and needs 28 in one; two need 20 and three 16, of which 4 are the student's weights, gathered whole."""
FEW = 1e-3
"""Of losses, over three steps of fp32: sums are added up in another order."""


def train(folder: Path, processes: int, limit: int) -> list[dict[str, Any]]:
    """What each process found."""
    run_ranks("tests.integration.limited_cases", processes, str(folder), str(limit))
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{processes}-*-{limit}.json"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("limited")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """On one process without a limit, on two and three with it, by their number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # what is freed goes back to the system, and can be measured
        return {1: train(folder, 1, 0), 2: train(folder, 2, LIMIT), 3: train(folder, 3, LIMIT)}


def test_what_a_process_holds_between_steps_falls_as_one_over_their_number(
    found: dict[int, list[dict[str, Any]]],
) -> None:
    held = {number: [one["held"] - one["before"] for one in ranks] for number, ranks in found.items()}
    [alone] = held[1]
    assert alone > 20 * found[1][0]["weights"], "weights, teacher, master weights, two moments and gradients in fp32"
    for number, each in held.items():
        assert len(each) == number
        assert [number * bytes_ for bytes_ in each] == pytest.approx([alone] * number, rel=0.1)


def test_a_model_larger_than_the_allowance_of_one_process_trains_on_two_and_on_three(
    found: dict[int, list[dict[str, Any]]], folder: Path
) -> None:
    with pytest.raises(AssertionError, match=r"can't allocate memory|bad_alloc|MemoryError|Cannot allocate memory"):
        train(folder, 1, LIMIT)
    for number in (2, 3):
        for one in found[number]:
            assert one["limit"] == LIMIT * 2**20
            assert one["losses"] == pytest.approx(found[1][0]["losses"], rel=FEW)
