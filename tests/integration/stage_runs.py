"""A training stage as a program of its own, run to its end, and the curve that it leaves."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, params: dict[str, Any], name: str, processes: int = 1) -> "subprocess.CompletedProcess[str]":
    (folder / "params.json").write_text(json.dumps(params))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SELFSIGHT_")}
    own = {"SELFSIGHT_HOME": str(folder), "SELFSIGHT_PROCESSES": str(processes), "SELFSIGHT_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "tests.tiny_training", str(folder), str(folder / "params.json"), name],
        cwd=ROOT, env={**environment, **own}, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


def curve(folder: Path, name: str = "pretrain") -> list[dict[str, float]]:
    with (folder / f"{name}.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
