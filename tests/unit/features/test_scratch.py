import os

import numpy as np
import pytest

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


def test_the_file_has_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(module, "IN_MEMORY", 0)
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    found = scratch((1000,), np.float16)
    found[:] = 1
    assert os.listdir(str(tmp_path)) == []
    assert found.sum(dtype=np.float64) == 1000
