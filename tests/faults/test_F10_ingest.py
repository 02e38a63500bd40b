"""F10: an ingest that is killed at any moment goes on where it was, and its outs are those of one left alone."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.faults.ingest_program import lock_folder

ROOT = Path(__file__).parents[2]
IMAGES = 300
SECONDS = 120


def project(folder: Path) -> Path:
    """A project with photos that fill some two hundred shards."""
    (folder / "photos").mkdir(parents=True)
    for number in range(IMAGES):
        pixels = np.random.default_rng(number).integers(0, 256, (80, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number:04d}.png")
    (folder / "photos" / "0100-broken.png").write_bytes(b"no image")
    lock_folder(folder)
    return folder


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.faults.ingest_program", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def outs(folder: Path) -> dict[str, bytes]:
    data = folder / "data"
    return {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*") if path.is_file()}


def kept(folder: Path) -> int:
    return len(list((folder / ".cache" / "selfsight" / "ingest" / "shards").glob("shard-*.tar")))


def kill_when(process: subprocess.Popen[str], folder: Path, shards: int) -> None:
    """Kills the stage as soon as it has kept so many shards; nothing it started may outlive it."""
    deadline = time.monotonic() + SECONDS
    while kept(folder) < shards:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=20)
    for child in alive:
        child.kill()
    assert not alive


@pytest.mark.slow
def test_F10_an_ingest_killed_again_and_again_goes_on_and_ends_as_one_left_alone(tmp_path: Path) -> None:
    alone, folder = project(tmp_path / "alone"), project(tmp_path / "killed")
    _, log = start(alone).communicate(timeout=SECONDS)
    assert f"{IMAGES + 1} of {IMAGES + 1} objects were read" in log
    whole = kept(alone)
    for share in (0.02, 0.2, 0.4, 0.7, 0.95):
        before = kept(folder)
        kill_when(start(folder), folder, max(before + 1, int(share * whole)))
        assert not (folder / "data" / "shards").exists(), "no half output is taken for whole"
        assert not (folder / "data" / "manifest").exists()
        assert kept(folder) > before
    _, log = start(folder).communicate(timeout=SECONDS)
    read = re.search(r"ingest: (\d+) of \d+ objects were read", log)
    assert read is not None, log
    assert int(read[1]) < IMAGES / 4, "what was finished is not read again"
    assert outs(folder) == outs(alone)
    assert kept(folder) == whole
