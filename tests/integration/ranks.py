"""Runs a function on several processes that form a process group, as torchrun would, but quicker to start."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 240


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run_ranks(case: str, processes: int, folder: Path, **arguments: Any) -> list[Any]:
    """What `tests/integration/zero3_cases.py:CASE(**arguments)` returns on each process."""
    folder.mkdir(parents=True, exist_ok=True)
    common = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    command = [sys.executable, "-m", "tests.integration.zero3_cases", case, str(folder), json.dumps(arguments)]
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        for process in started:
            output, _ = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, output[-5000:]
    finally:
        for process in started:
            process.kill()
    return [torch.load(folder / f"{case}-{rank}.pt", weights_only=False) for rank in range(processes)]
