"""Trainings that several tests are held against."""

from pathlib import Path

import pytest

from tests.integration.stage_runs import run
from tests.tiny_training import PRETRAIN, make_data


@pytest.fixture(scope="session")
def on_two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pretraining on two processes of one machine; not to be written to."""
    folder = tmp_path_factory.mktemp("two-processes")
    make_data(folder)
    done = run(folder, PRETRAIN, "pretrain", processes=2)
    assert done.returncode == 0, done.stderr
    return folder
