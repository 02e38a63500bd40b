"""What every training process does with its job."""

from typing import Any

import pytest
import torch.distributed as dist

from components.parameters import validate
from components.training import training_run
from components.training.engine import own_device
from components.training.pretrain import PretrainParams
from tests.tiny_training import PRETRAIN


@pytest.mark.parametrize(("device", "own"), [("cpu", "cpu"), ("cuda", "cuda:1")])
def test_crops_are_made_where_the_process_computes_whatever_thread_makes_them(
    monkeypatch: pytest.MonkeyPatch, device: str, own: str
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(dist, "get_rank", lambda: 3)
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    monkeypatch.setattr(training_run, "CropLoader", lambda *_, **values: given.update(values))
    params = validate(PretrainParams, PRETRAIN, where="test")
    training_run.crop_loader(object(), ["a"], params, params.views, device=device, threads=4)  # type: ignore[arg-type]
    assert given["device"] == own == own_device(device)
    assert (given["rank"], given["world_size"], given["global_batch"]) == (3, 4, 8)
    assert given["workers"] == (4 if device == "cuda" else 1), "beside a GPU the cores have nothing else to do"
