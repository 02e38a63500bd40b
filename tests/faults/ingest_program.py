"""`python -m tests.faults.ingest_program PROJECT`: the body of stage `ingest`, in a project of its own."""

import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace

from components.data.ingest import IngestParams
from components.data.lock import write_lock
from components.data.snapshot import SnapshotParams, take_snapshot
from components.settings import Settings
from components.stages import ingest, paths

PARAMS = IngestParams(shard_bytes=1 << 18, max_bytes=200_000)
"""Shards of 32 KB on average."""


def settings_of(project: Path) -> Settings:
    """Everything in the project itself."""
    return Settings(root=project, home=project, threads=2, _env_file=None)


def lock_folder(project: Path) -> None:
    """Takes a snapshot of `photos`, for a run in the project."""
    before = Path.cwd()
    os.chdir(project)
    try:
        write_lock(take_snapshot(SnapshotParams(source="photos"), settings_of(project)), paths.SOURCE_LOCK)
    finally:
        os.chdir(before)


def run(project: Path) -> None:
    """Ingests what is locked."""
    os.chdir(project)
    ingest.run(PARAMS, SimpleNamespace(settings=settings_of(project)))  # type: ignore[arg-type]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    run(Path(sys.argv[1]))
