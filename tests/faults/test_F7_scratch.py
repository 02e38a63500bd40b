"""F7: no room for a large temporary array: one line that says where, and no process that dies of a signal."""

from pathlib import Path

import numpy as np
import pytest

from components.errors import UserError
from components.features import scratch as module
from components.features.scratch import scratch
from tests.faults.disks import disk


def test_F7_a_full_disk_under_an_array_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IN_MEMORY", 0)
    with disk(tmp_path / "disk", "1m") as folder:
        monkeypatch.setattr(module.tempfile, "tempdir", str(folder))
        with pytest.raises(UserError, match=rf"no space left in {folder} for 4,000,000 bytes.*TMPDIR"):
            scratch((1_000_000,), np.float32)
        assert not list(folder.iterdir())
        fits = scratch((100_000,), np.float32)
        fits[:] = 1.0
        assert fits.sum() == 100_000
