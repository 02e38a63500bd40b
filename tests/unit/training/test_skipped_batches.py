import json
from pathlib import Path

import pytest

from components.training.skipped_batches import Part, SkippedBatches

PARTS = [Part(0, 0, 1.5, ("a", "b")), Part(1, 0, float("nan"), ("c", "d"))]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_names_every_image_and_where_the_loss_went_wrong(tmp_path: Path) -> None:
    file = SkippedBatches(tmp_path / "run" / "skipped.jsonl")
    file.add(7, "not finite", {"backbone": float("inf")}, PARTS)
    assert lines(file.path) == [
        {
            "step": 7,
            "reason": "not finite",
            "gradient_norm": {"backbone": "inf"},
            "parts": [
                {"process": 0, "micro_batch": 0, "loss": "1.5", "ids": ["a", "b"]},
                {"process": 1, "micro_batch": 0, "loss": "nan", "ids": ["c", "d"]},
            ],
        }
    ]
    assert not file.published


def test_a_step_that_is_done_again_has_one_line_also_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    SkippedBatches(path).add(7, "not finite", {}, PARTS)
    with path.open("a") as file:
        file.write('{"step": 8, "rea')
    again = SkippedBatches(path)
    again.add(7, "not finite", {}, PARTS)
    again.add(8, "not finite", {}, PARTS)
    assert [line["step"] for line in lines(path)] == [7, 8]


def test_a_run_that_starts_anew_forgets_the_lines(tmp_path: Path) -> None:
    file = SkippedBatches(tmp_path / "skipped.jsonl")
    file.add(7, "spike", {}, PARTS)
    file.start_anew()
    assert not file.path.exists()
    file.add(7, "spike", {}, PARTS)
    assert len(lines(file.path)) == 1


def test_F7_where_it_cannot_be_written_the_log_has_the_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    full = SkippedBatches(tmp_path / "skipped.jsonl")
    full.path.symlink_to("/dev/full")
    full.add(3, "not finite", {}, PARTS)
    assert "a, b, c, d" in caplog.text
    assert "No space left on device" in caplog.text
