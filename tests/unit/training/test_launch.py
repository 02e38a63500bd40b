import os

import pytest

from components.errors import UserError
from components.settings import Settings
from components.training.launch import check_processes


def test_F16_more_processes_than_cores_are_refused() -> None:
    cores = len(os.sched_getaffinity(0))
    with pytest.raises(UserError, match=f"SELFSIGHT_PROCESSES={cores + 1}, but there are {cores} cores"):
        check_processes(Settings(processes=cores + 1, device="cpu", _env_file=None))
    assert check_processes(Settings(processes=cores, device="cpu", _env_file=None)) == "cpu"
