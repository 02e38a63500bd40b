"""What every training process does with its job."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from components.errors import UserError
from components.objectives.branch import Branch
from components.objectives.distillation import DistillationObjective
from components.parameters import validate
from components.training import training_run
from components.training.checkpoint import CheckpointStore
from components.training.distill import DistillParams
from components.training.engine import own_device
from components.training.pretrain import PretrainParams, build
from components.training.standing import Standing
from components.training.training_state import TrainingState
from tests.tiny_training import DISTILL, PRETRAIN


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


def test_the_attention_kernel_is_asked_for_with_the_heads_of_student_and_of_teacher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = validate(DistillParams, DISTILL, where="test")
    teacher = build(validate(PretrainParams, PRETRAIN, where="test")).get_submodule("teacher")
    assert isinstance(teacher, Branch)
    objective = DistillationObjective.from_teacher(params.model, params.objective, teacher=teacher, seed=0)
    asked: list[int] = []

    def noted(*_: object, head_width: int, **__: object) -> str:
        asked.append(head_width)
        return f"heads of {head_width}"

    monkeypatch.setattr(training_run, "require_kernel", noted)
    own, its = params.model.width // params.model.heads, PRETRAIN["model"]["width"] // PRETRAIN["model"]["heads"]
    found = training_run.attention(objective, params, params.phases(1), device="cpu")
    assert own != its
    assert asked == [own, its]
    assert found == f"heads of {own}", "of the student, for the record"


def test_a_checkpoint_that_cannot_be_read_is_told_with_a_remedy_and_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "run" / "step-00000012"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"format": 1, "step": 12, "total_steps": 20}))
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "broadcast_object_list", lambda objects: None)
    state = TrainingState(object(), object(), CheckpointStore(folder.parent))  # type: ignore[arg-type]
    monkeypatch.setattr(state, "newest", lambda accept: folder)
    job = SimpleNamespace(code="c", name="pretrain")
    recorded = {"total_steps": 20, "health_params": {}}
    with pytest.raises(UserError, match=r"step-00000012 cannot be gone on from: format 1 is unknown") as caught:
        training_run._resume(state, job, Standing(step=0, health=None), recorded)  # type: ignore[arg-type]
    assert f"delete {folder.parent}" in str(caught.value.remedy)
    assert folder.exists()


def test_a_machine_with_a_gpu_needs_no_compiler_of_crops() -> None:
    code = "import sys; sys.modules['numba'] = None; import components.training.training_run"
    subprocess.run([sys.executable, "-c", code], check=True)
