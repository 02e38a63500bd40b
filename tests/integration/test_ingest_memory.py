"""An ingest's memory depends on how much is worked on at a time, not on how much there is."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.faults.ingest_program import lock_folder

ROOT = Path(__file__).resolve().parents[2]
SIDE = 250
"""Pixels; 190 KB a file."""
PEAK = """
import resource, sys
from pathlib import Path
from tests.faults.ingest_program import run
run(Path(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(project: Path, images: int) -> int:
    """Bytes that the stage's own process has at most, while it ingests so many images."""
    (project / "photos").mkdir(parents=True)
    for number in range(images):
        pixels = np.random.default_rng(number).bytes(SIDE * SIDE * 3)
        (project / "photos" / f"{number:05d}.ppm").write_bytes(b"P6 %d %d 255\n" % (SIDE, SIDE) + pixels)
    lock_folder(project)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PEAK, str(project)]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=True)
    return 1024 * int(done.stdout)


@pytest.mark.slow
def test_three_times_as_many_bytes_take_no_more_memory(tmp_path: Path) -> None:
    assert peak(tmp_path / "many", 1500) < peak(tmp_path / "few", 500) + (40 << 20)
