"""Runs, metrics and pictures in MLflow, behind a local journal.

Everything goes to an append-only file first and from there, in the background, to MLflow. MLflow being away
never slows or stops the work; what it missed is replayed later, nothing twice and nothing missing.
"""

from components.tracking.code_version import code_version, lock_commit
from components.tracking.journal import replay_journals
from components.tracking.mlflow_store import client, initialise_database
from components.tracking.progress import progress
from components.tracking.run import Run, attach_run, start_run
from components.tracking.system import system_metrics

__all__ = [
    "Run",
    "attach_run",
    "client",
    "code_version",
    "initialise_database",
    "lock_commit",
    "progress",
    "replay_journals",
    "start_run",
    "system_metrics",
]
