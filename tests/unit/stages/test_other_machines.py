"""What machines other than number 0 do in a stage: they help, or refuse; they write nothing."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from components.data.ingest import IngestParams
from components.errors import UserError
from components.settings import Settings, get_settings
from components.stages import runner
from components.training.pretrain import PretrainParams

ROOT = Path(__file__).parents[3]


@pytest.fixture
def second_machine(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", project)
    monkeypatch.setenv("SELFSIGHT_NODES", "2")
    monkeypatch.setenv("SELFSIGHT_NODE_RANK", "1")
    monkeypatch.setenv("SELFSIGHT_RENDEZVOUS", "node0:29500")
    get_settings.cache_clear()
    return project


def never(*_: Any) -> dict[str, float]:
    raise AssertionError("only machine 0 does this")


def test_a_stage_of_one_machine_is_refused_elsewhere(second_machine: Path) -> None:
    with pytest.raises(UserError, match="ingest runs on one machine"):
        runner._run("ingest", IngestParams, never, None, None)


def test_a_training_stage_helps_and_leaves_no_run_and_no_metrics(second_machine: Path) -> None:
    helped: list[tuple[PretrainParams, Settings]] = []
    runner._run("pretrain", PretrainParams, never, never, lambda *given: helped.append(given))
    [(params, settings)] = helped
    assert params.batch_size == 64
    assert settings.node_rank == 1
    assert [path.name for path in second_machine.iterdir()] == ["params.yaml"]
