"""The tiny training as a program of its own: started, watched, killed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.tiny_training import PRETRAIN, make_data

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120
STEPS = 30
RESULTS = ("pretrain/model.safetensors", "pretrain/heads.safetensors", "pretrain.csv", "pretrain.json")


def prepare(folder: Path) -> Path:
    make_data(folder)
    # a checkpoint after every step: a kill comes when one was just written, or is being written
    params = {**PRETRAIN, "steps": STEPS, "checkpoint": {"seconds": 1e-3, "keep": 3}}
    (folder / "params.json").write_text(json.dumps(params))
    return folder


def start(folder: Path, **settings: str) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SELFSIGHT_")}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.tiny_training", str(folder), str(folder / "params.json")],
        cwd=ROOT,
        env={**environment, "SELFSIGHT_HOME": str(folder), "SELFSIGHT_THREADS": "1", **settings},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(folder: Path, **settings: str) -> str:
    process = start(folder, **settings)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    return output


def steps_saved(folder: Path) -> list[int]:
    return sorted(int(path.name[-8:]) for path in folder.glob(".checkpoints/*/step-*"))


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def run_until_saved(folder: Path, step: int, **settings: str) -> "subprocess.Popen[str]":
    process = start(folder, **settings)
    wait_until(lambda: process.poll() is not None or (steps_saved(folder) or [0])[-1] >= step, f"step {step}")
    assert process.poll() is None, process.communicate()[0]
    return process


def still_training(folder: Path) -> list[int]:
    """Processes that were started for this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SELFSIGHT_HOME") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def assert_same(folder: Path, reference: Path) -> None:
    for name in RESULTS:
        assert (folder / name).read_bytes() == (reference / name).read_bytes(), name
