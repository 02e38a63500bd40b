import os
import resource
import signal

import numpy as np
import pytest

from components.errors import UserError
from components.features import scratch as module
from components.features.scratch import scratch


@pytest.mark.parametrize("limit", [0, 1 << 20], ids=["file", "memory"])
def test_an_array_holds_what_is_written_wherever_it_lies(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IN_MEMORY", limit)
    found = scratch((5, 4, 3), np.uint8)
    assert type(found) is np.ndarray
    assert not found.any()
    found[2] = 7
    found[4, 1] = np.arange(3)
    assert found.sum() == 7 * 12 + 3


def test_the_space_of_the_file_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room the error comes here, and not as a signal when a page is written."""
    monkeypatch.setattr(module, "IN_MEMORY", 0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(UserError, match=r"no space left in .* for 4,000,000 bytes"):
            scratch((1_000_000,), np.float32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_the_file_has_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(module, "IN_MEMORY", 0)
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    found = scratch((1000,), np.float16)
    found[:] = 1
    assert os.listdir(str(tmp_path)) == []
    assert found.sum(dtype=np.float64) == 1000
