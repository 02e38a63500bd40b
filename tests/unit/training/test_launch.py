import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from components.data.tables import write_table
from components.errors import UserError
from components.parameters import validate
from components.settings import Settings
from components.training.launch import Training, TrainingInputs, check_processes
from components.training.pretrain import PretrainParams
from tests.tiny_training import PRETRAIN


def test_F16_more_processes_than_cores_are_refused() -> None:
    cores = len(os.sched_getaffinity(0))
    with pytest.raises(UserError, match=f"SELFSIGHT_PROCESSES={cores + 1}, but there are {cores} cores"):
        check_processes(Settings(processes=cores + 1, device="cpu", _env_file=None))
    assert check_processes(Settings(processes=cores, device="cpu", _env_file=None)) == "cpu"


def training(folder: Path, images: int, **changes: Any) -> Training:
    (folder / "curated").mkdir()
    write_table(pa.table({"id": [f"{n:064x}" for n in range(images)]}), folder / "curated" / "ids.parquet")
    inputs = TrainingInputs(folder / "manifest" / "locations.parquet", folder / "shards", folder / "curated")
    params = validate(PretrainParams, {**PRETRAIN, **changes}, where="params.yaml")
    return Training("pretrain", params, inputs, Settings(root=folder, home=folder, device="cpu", _env_file=None))


def test_F16_a_batch_of_more_images_than_there_are_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pretrain\.batch_size 8, but 7 curated images .* at most 7"):
        training(tmp_path, 7)


def test_no_batch_size_is_advised_where_none_would_do(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        training(tmp_path, 1)
    assert "batch_size to" not in caught.value.remedy


def test_a_batch_of_all_images_is_fine(tmp_path: Path) -> None:
    assert training(tmp_path, 8).resume_key() is None
