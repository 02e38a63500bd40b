"""What several fault tests are held against."""

from pathlib import Path

import pytest

from tests.faults.training_program import finish, prepare


@pytest.fixture(scope="session")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny training on one process that nobody disturbed; not to be written to."""
    folder = prepare(tmp_path_factory.mktemp("left-alone"))
    finish(folder)
    return folder
