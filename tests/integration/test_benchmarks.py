"""Scripts of figures that need a GPU or minutes: that each runs, at tiny size, and says what it must."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "P1_step",
        "P2_gpu",
        "P3_zero3",
        "P4_drop_path",
        "P5_heads",
        "P6_waiting",
        "P7_crops",
        "P8_near_pairs",
        "P9_growth",
        "P12_checkpoint",
        "P13_ingest",
        "converging",
    ],
)
def test_a_benchmark_runs_at_tiny_size_and_leaves_the_committed_figures_alone(script: str) -> None:
    results = ROOT / "benchmarks" / "results"
    before = {path.name: path.read_bytes() for path in results.glob("*.json")}
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{script}", "--tiny"],
        cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=False,
        timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert {"target", "what", "ratio", "bound", "holds", "machine"} <= result.keys()
    assert result["target"] == script.split("_")[0]
    # where trainings are compared, no distance at all is what is hoped for
    assert result["ratio"] > 0 or script == "converging"
    assert {path.name: path.read_bytes() for path in results.glob("*.json")} == before
