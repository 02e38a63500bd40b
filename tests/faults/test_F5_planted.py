"""F5 and its neighbours: a planted NaN, spike and collapse are each caught, and a healthy run is not."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case of `tests.faults.planted`, run once."""
    made = tmp_path_factory.mktemp("planted")
    command = [sys.executable, "-m", "tests.faults.planted", str(made)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return made


def code(folder: Path, case: str) -> int:
    found: dict[str, int] = json.loads((folder / "found.json").read_text())
    return found[case]


def error(folder: Path, case: str) -> str:
    assert code(folder, case) == 2, (folder / case / "log.txt").read_text()
    return (folder / case / "error.txt").read_text()


def evidence(folder: Path, case: str) -> list[dict[str, Any]]:
    text = (folder / case / "checkpoints" / "skipped-batches.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def metrics(folder: Path, case: str) -> dict[str, float]:
    assert code(folder, case) == 0, (folder / case / "log.txt").read_text()
    found: dict[str, float] = json.loads((folder / case / "metrics.json").read_text())
    return found


def losses(folder: Path, case: str) -> list[float]:
    with (folder / case / "pretrain.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


def test_F5_a_poisoned_image_costs_its_steps_and_is_found_in_the_evidence(folder: Path) -> None:
    """Twelve steps of eight of 24 images: four epochs, and the image is in a step of each."""
    assert metrics(folder, "image")["skipped_steps"] == 4
    lines = evidence(folder, "image")
    assert len(lines) == 4
    images = pq.read_table(folder / "data" / "curated" / "ids.parquet")["id"].to_pylist()
    for line in lines:
        assert sorted(len(part["ids"]) for part in line["parts"]) == [4, 4], "all ids of the batch, whole"
        assert {one for part in line["parts"] for one in part["ids"]} <= set(images)
    suspects = [{one for part in line["parts"] if part["loss"] == "nan" for one in part["ids"]} for line in lines]
    assert set.intersection(*suspects) == {images[0]}


def test_F5_a_row_of_poisoned_steps_is_passed_over_the_second_time(folder: Path) -> None:
    found = metrics(folder, "row")
    assert (found["steps"], found["skipped_steps"]) == (24, 0)
    assert found["images_seen"] == (24 - 5) * 8, "three bad steps and the margin of two"
    assert [line["step"] for line in evidence(folder, "row")] == [12, 13, 14]


def test_F5_a_run_that_went_back_and_was_stopped_resumes_bitwise(folder: Path) -> None:
    assert code(folder, "stopped") == 75
    assert metrics(folder, "resumed") == metrics(folder, "row")
    for name in ("pretrain/model.safetensors", "pretrain/heads.safetensors", "pretrain.csv"):
        assert (folder / "resumed" / name).read_bytes() == (folder / "row" / name).read_bytes(), name


def test_F5_what_does_not_end_is_given_up_with_the_evidence(folder: Path) -> None:
    assert "not finite in steps 15 to 17, 3 in a row, also after 1 roll-back" in error(folder, "for ever")
    assert [line["step"] for line in evidence(folder, "for ever")] == list(range(12, 18))
    assert not (folder / "for ever" / "pretrain").exists()


def test_a_spike_of_the_loss_is_rewound_and_its_cause_passed_over(folder: Path) -> None:
    watched, unwatched = losses(folder, "bomb"), losses(folder, "bomb, not watched")
    assert max(unwatched[41:]) > 1.5 * max(unwatched[20:40]), "the bomb is one"
    assert max(watched[20:]) < 0.8 * max(unwatched[20:])
    assert "back to the checkpoint of step" in (folder / "bomb" / "log.txt").read_text()
    assert {line["reason"] for line in evidence(folder, "bomb")} == {"spike"}


def test_a_teacher_without_centring_collapses_and_is_stopped_with_the_numbers(folder: Path) -> None:
    message = error(folder, "collapse")
    assert "training has collapsed: " in message
    for name in ("teacher_entropy", "prototype_usage", "feature_std", "effective_rank"):
        assert name in message
    assert "objective.centring" in message


def test_a_student_that_tells_images_apart_no_more_is_stopped_though_its_teacher_does(folder: Path) -> None:
    message = error(folder, "student collapse")
    assert "training has collapsed: student_" in message
    assert "student_entropy" in message
    assert not (folder / "student collapse" / "pretrain").exists()


def test_an_average_that_is_none_of_its_student_is_stopped_though_the_student_learns(folder: Path) -> None:
    assert "training has collapsed: spare_" in error(folder, "average collapse")


@pytest.mark.parametrize("case", ["no collapse", "no collapse in distillation"])
def test_the_same_watch_lets_a_healthy_training_go_to_its_end(folder: Path, case: str) -> None:
    assert metrics(folder, case)["steps"] == 100
