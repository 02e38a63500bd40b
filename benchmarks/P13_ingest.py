"""P13: a folder of many small images to a versioned manifest and shards, against reading, hashing and decoding them.

`python -m benchmarks.P13_ingest [--images 100000]`; with `--tiny`, a few hundred. Ingest starts without a memory of
earlier ones each time; beside it stand a second ingest after ten images were added, and `dvc add` of the folder itself.
"""

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.report import report
from components.data.decoding import decode
from components.data.ingest import IngestParams, build_manifest
from components.data.lock import SourceLock
from components.data.snapshot import SnapshotParams, take_snapshot
from components.settings import Settings

BOUND = 2.0
REPEATS = 5
A_FOLDER = 1000
CHUNK = 64
ADDED = 10


def make_images(folder: Path, first: int, count: int) -> None:
    """Small JPEG files, all different, a thousand a folder."""
    for number in range(first, first + count):
        small = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        buffer = BytesIO()
        Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        path = folder / f"{number // A_FOLDER:04d}" / f"{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())


def read_hash_decode(paths: Sequence[str]) -> int:
    """What nobody can do without."""
    for path in paths:
        data = Path(path).read_bytes()
        hashlib.sha256(data).hexdigest()
        decode(data)
    return len(paths)


def floor(folder: Path, workers: int) -> None:
    """That loop alone, with the same processes."""
    paths = [str(path) for path in sorted(folder.rglob("*.jpg"))]
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with get_context("forkserver").Pool(workers) as pool:
        assert sum(pool.imap(read_hash_decode, chunks)) == len(paths)


class Project:
    """A repository of its own with DVC, links instead of copies, and settings."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = Settings(root=root, home=root, _env_file=None)
        root.mkdir()
        self.run("git", "init", "--quiet")
        self.dvc("init", "--quiet")
        self.dvc("config", "core.analytics", "false")
        self.dvc("config", "cache.type", "reflink,hardlink,copy")

    def run(self, *command: str) -> None:
        environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
        subprocess.run(command, cwd=self.root, env=environment, check=True, capture_output=True)

    def dvc(self, *arguments: str) -> None:
        self.run(sys.executable, "-m", "dvc", *arguments)

    def ingest(self, lock: SourceLock) -> None:
        """Into new outs."""
        shutil.rmtree(self.root / "data", ignore_errors=True)
        build_manifest(
            lock, IngestParams(), self.root / "data" / "manifest", self.root / "data" / "shards", self.settings
        )


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(project: Project, images: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds of each part, in turn, and of all that is compared."""
    taken: dict[str, list[float]] = {name: [] for name in ("floor", "snapshot", "ingest", "dvc_hashing", "again")}
    workers = project.settings.thread_count()
    count = sum(1 for _ in images.rglob("*.jpg"))
    for turn in range(repeats):
        for path in (project.settings.cache, project.root / ".dvc" / "cache", project.root / ".dvc" / "tmp"):
            shutil.rmtree(path, ignore_errors=True)
        taken["floor"].append(timed(lambda: floor(images, workers)))
        start = time.perf_counter()
        lock = take_snapshot(SnapshotParams(source=str(images)), project.settings)
        taken["snapshot"].append(time.perf_counter() - start)
        taken["ingest"].append(timed(lambda lock=lock: project.ingest(lock)))  # type: ignore[misc]
        taken["dvc_hashing"].append(timed(lambda: project.dvc("add", "data/manifest", "data/shards")))
        make_images(images, count + turn * ADDED, ADDED)
        lock = take_snapshot(SnapshotParams(source=str(images)), project.settings)
        taken["again"].append(timed(lambda lock=lock: project.ingest(lock)))  # type: ignore[misc]
    return taken


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    count, repeats = (300, 2) if options.tiny else (options.images, REPEATS)
    with tempfile.TemporaryDirectory(prefix="selfsight-bench-") as temporary:
        project = Project(Path(temporary) / "project")
        images = project.root / "images"
        make_images(images, 0, count)
        taken = measure(project, images, repeats)
        of_folder = timed(lambda: project.dvc("add", "images"))
    rows = list(zip(taken["floor"], taken["snapshot"], taken["ingest"], taken["dvc_hashing"], strict=True))
    ratio = statistics.median((ingest + dvc) / least for least, _, ingest, dvc in rows)
    with_snapshot = statistics.median((snapshot + ingest + dvc) / least for least, snapshot, ingest, dvc in rows)
    report(
        "P13",
        "ingest of small images and `dvc` hashing of its outs, against reading, hashing and decoding them once",
        ratio=ratio,
        bound=f"<= {BOUND}",
        holds=ratio <= BOUND,
        figures={
            "images": count,
            "repeats": repeats,
            "workers": project.settings.thread_count(),
            "seconds": {name: round(statistics.median(values), 3) for name, values in taken.items()},
            "ratio_with_the_snapshot": round(with_snapshot, 3),
            "dvc_add_of_the_folder_seconds": round(of_folder, 2),
        },
        keep=not options.tiny and count >= 100_000,
    )


if __name__ == "__main__":
    main()
