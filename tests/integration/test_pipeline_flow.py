"""The flow on small real DVC projects, with a real Prefect server and MLflow database."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import miniature
import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort
from prefect.settings import PREFECT_API_URL

from components.errors import UserError
from flows.pipeline import PipelineResult, pipeline
from flows.repro import StageError
from flows.server import Orchestrator

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with Orchestrator(miniature.prefect_server()).connect():
        yield


@pytest.fixture
def chain(project: Path, server: None, empty_database: Path) -> Path:
    shutil.copy(empty_database, project / "mlflow.db")
    return miniature.chain(project)


def ran(result: PipelineResult) -> list[str]:
    return [stage.stage for stage in result.stages if not stage.is_cached]


def runs_in_prefect() -> tuple[list[str], dict[str, str]]:
    """Names of the flow runs, and the state of each task run, of the newest pipeline."""
    with get_client(sync_client=True) as client:
        flow_runs = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=50)
        newest = next(index for index, run in enumerate(flow_runs) if run.name == "pipeline")
        names = [run.name for run in flow_runs[:newest]]
        parents = {run.id for run in flow_runs[:newest]}
        tasks = [
            task for task in client.read_task_runs(sort=TaskRunSort.ID_DESC, limit=200) if task.flow_run_id in parents
        ]
        return names[::-1], {task.name: task.state_name or "" for task in tasks}


def test_phases_are_subflows_and_stages_are_tasks_and_a_second_run_finds_them_cached(chain: Path) -> None:
    first = pipeline(retries=0)
    assert ran(first) == ["first", "second", "third"]
    assert runs_in_prefect() == (["curate", "pretrain"], dict.fromkeys(ran(first), "Completed"))

    second = pipeline(retries=0)
    assert second.is_noop
    assert runs_in_prefect() == (["curate", "pretrain"], dict.fromkeys(ran(first), "Cached"))
    assert miniature.runs_of(chain, "first") == 1


def test_F10_a_lock_cut_short_costs_nothing_because_dvcs_run_cache_restores_the_stages(chain: Path) -> None:
    pipeline(retries=0)
    lock = (chain / "dvc.lock").read_text()
    (chain / "dvc.lock").write_text(lock[: len(lock) // 2])
    (chain / "first.txt").unlink()
    assert pipeline(retries=0).is_noop


def test_a_change_runs_its_stage_and_what_follows_and_nothing_else(chain: Path) -> None:
    pipeline(retries=0)
    (chain / "second.py").write_text(miniature.copier("first.txt", "second.txt") + "# changed\n")
    assert ran(pipeline(retries=0)) == ["second"], "its outs are the same, so the third stage has nothing to do"
    (chain / "second.py").write_text(miniature.copier("first.txt", "second.txt").replace("'>second", "'#second"))
    miniature.run(chain, "sed", "-i", "s/text + '/text + '!/", "second.py")
    assert ran(pipeline(retries=0)) == ["second", "third"]
    assert miniature.runs_of(chain, "first") == 1


def test_a_named_phase_stops_after_itself(chain: Path) -> None:
    assert ran(pipeline(phases=["curate"], retries=0)) == ["first", "second"]
    assert not (chain / "third.txt").exists()
    assert ran(pipeline(phases=["pretrain"], retries=0)) == ["third"]


def test_the_parent_run_names_each_stages_run_and_whether_it_was_cached(chain: Path) -> None:
    (chain / "runs").mkdir()
    (chain / "runs" / "first.json").write_text('{"run_id": "abc"}')
    pipeline(phases=["curate"], retries=0)
    pipeline(retries=0)
    newest, older = pipelines_in_mlflow(chain)
    assert {name: value for name, value in older.items() if name.startswith("stage.")} == {
        "stage.first.run_id": "abc",
        "stage.first.cached": "false",
        "stage.second.run_id": "none",
        "stage.second.cached": "false",
    }
    assert newest["stage.second.cached"] == "true"
    assert newest["stage.third.cached"] == "false"


def pipelines_in_mlflow(project: Path) -> list[dict[str, Any]]:
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    experiment = client.get_experiment_by_name("selfsight")
    assert experiment is not None
    found = client.search_runs(
        [experiment.experiment_id], "tags.stage = 'pipeline'", order_by=["attributes.start_time DESC"]
    )
    assert all(run.info.status == "FINISHED" for run in found)
    return [run.data.tags for run in found]


def test_a_stage_belongs_to_the_pipelines_run_and_is_linked_from_its_task(chain: Path) -> None:
    record = (
        "import os, json\nos.makedirs('runs', exist_ok=True)\n"
        "json.dump({'run_id': 'r1', 'parent': os.environ['SELFSIGHT_PARENT_RUN_ID']}, open('runs/first.json', 'w'))\n"
    )
    (chain / "first.py").write_text(miniature.copier(None, "first.txt", record))
    pipeline(phases=["curate"], retries=0)
    client = MlflowClient(f"sqlite:///{chain}/mlflow.db")
    parent = json.loads((chain / "runs" / "first.json").read_text())["parent"]
    assert client.get_run(parent).data.tags["mlflow.runName"] == "pipeline"
    artifacts = httpx.post(f"{PREFECT_API_URL.value()}/artifacts/filter", json={}).json()
    assert any(found["key"] == "mlflow-first" and "`r1`" in found["data"] for found in artifacts)


FAILS_ONCE = """
import pathlib, sys
tries = pathlib.Path('tries'); tries.write_text(tries.read_text() + 'x' if tries.exists() else 'x')
if len(tries.read_text()) == 1: sys.exit({code})
"""


def test_a_crash_is_tried_again(chain: Path) -> None:
    (chain / "first.py").write_text(miniature.copier(None, "first.txt", FAILS_ONCE.format(code=1)))
    assert ran(pipeline(phases=["curate"], retries=1, retry_delay_seconds=0)) == ["first", "second"]
    assert (chain / "tries").read_text() == "xx"


def test_a_decision_is_not_tried_again_and_keeps_its_exit_code(chain: Path) -> None:
    (chain / "first.py").write_text(miniature.copier(None, "first.txt", FAILS_ONCE.format(code=3)))
    with pytest.raises(StageError) as caught:
        pipeline(retries=3, retry_delay_seconds=0)
    assert caught.value.code == 3
    assert (chain / "tries").read_text() == "x"


USER_ERROR = """
import json, os, sys
json.dump({'stage': 'first', 'code': 2, 'message': 'photos: no such folder: give one'},
          open(os.environ['SELFSIGHT_EXIT_FILE'], 'w'))
"""


def test_what_the_user_can_mend_is_one_line_and_not_tried_again(chain: Path) -> None:
    extra = USER_ERROR + FAILS_ONCE.format(code=2)
    (chain / "first.py").write_text(miniature.copier(None, "first.txt", extra))
    with pytest.raises(UserError) as caught:
        pipeline(retries=3, retry_delay_seconds=0)
    assert str(caught.value) == "first: photos: no such folder: give one"
    assert (chain / "tries").read_text() == "x"


def test_a_second_pipeline_in_the_same_tree_is_refused(chain: Path) -> None:
    from components.tracking.locking import file_lock

    with file_lock(chain / ".dvc" / "tmp" / "selfsight.lock"), pytest.raises(UserError, match="runs in this working"):
        pipeline(retries=0)


def test_a_stage_without_a_phase_is_refused_before_any_work(chain: Path) -> None:
    text = (chain / "dvc.yaml").read_text().replace("    meta: {phase: pretrain}\n", "")
    (chain / "dvc.yaml").write_text(text)
    with pytest.raises(UserError, match=r"'third' has no meta\.phase"):
        pipeline(retries=0)
    assert miniature.runs_of(chain, "first") == 0


def test_the_flow_and_plain_dvc_make_the_same_lock(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    pipeline(retries=0)
    other = miniature.chain(tmp_path_factory.mktemp("plain"))
    miniature.run(other, "dvc", "repro")
    assert (chain / "dvc.lock").read_bytes() == (other / "dvc.lock").read_bytes()
