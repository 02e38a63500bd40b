"""F1: SIGKILL at twenty random moments of checkpoint writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ("pretrain/model.safetensors", "pretrain/heads.safetensors", "pretrain.csv", "metrics.json")


@pytest.mark.slow
def test_F1_a_training_killed_at_twenty_moments_of_writing_ends_bitwise_as_one_left_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.faults.kill_writes", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    log = (tmp_path / "killed" / "log.txt").read_text()
    assert (found["alone"], found["killed"]) == (0, 0), log
    kills = found["kills"]
    assert [kill["signal"] for kill in kills] == [9] * 20
    assert sum(kill["half written"] for kill in kills) >= 3, "moments of a write were hit"
    steps = [int(kill["newest"][-8:]) if kill["newest"] else 0 for kill in kills]
    assert steps == sorted(steps), "no checkpoint that was whole was lost"
    for name in RESULTS:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
