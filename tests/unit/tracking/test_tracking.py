"""A run reaches MLflow through the journal, once, whatever happens in between."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode

from components.errors import UserError
from components.settings import Settings
from components.tracking import attach_run, client, replay_journals, start_run
from components.tracking.journal import send
from components.tracking.mlflow_store import KEY_TAG


def away(settings: Settings) -> Settings:
    """The same folders, but an MLflow server that refuses connections."""
    return settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})


def runs(settings: Settings) -> list:
    experiment = client(settings).get_experiment_by_name(settings.mlflow_experiment)
    return client(settings).search_runs([experiment.experiment_id])


def test_metrics_params_tags_and_artifacts_arrive(settings: Settings, tmp_path: Path) -> None:
    picture = tmp_path / "picture.txt"
    picture.write_text("pixels")
    with start_run("pretrain", params={"optim": {"lr": 0.1}}, tags={"stage": "pretrain"}, settings=settings) as run:
        for step in range(5):
            run.log_metrics({"loss": 1.0 / (step + 1), "bad": float("nan")}, step)
        run.log_artifact(picture, "pictures")
        run_id = run.run_id
    (found,) = runs(settings)
    assert found.info.run_id == run_id
    assert found.info.status == "FINISHED"
    assert found.data.params == {"optim.lr": "0.1"}
    assert found.data.tags["stage"] == "pretrain"
    assert "bad" not in found.data.metrics
    history = client(settings).get_metric_history(run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(step, 1.0 / (step + 1)) for step in range(5)]
    assert [item.path for item in client(settings).list_artifacts(run_id, "pictures")] == ["pictures/picture.txt"]
    assert not list(settings.journals.glob("*.jsonl"))


def test_a_failing_block_ends_the_run_as_failed(settings: Settings) -> None:
    with pytest.raises(ZeroDivisionError), start_run("x", params={}, settings=settings):
        raise ZeroDivisionError
    assert runs(settings)[0].info.status == "FAILED"


def test_with_mlflow_away_nothing_raises_and_a_later_replay_sends_everything_once(settings: Settings) -> None:
    start = time.monotonic()
    with start_run("pretrain", params={"a": 1}, settings=away(settings)) as run:
        for step in range(10):
            run.log_metrics({"loss": float(step)}, step)
        assert time.monotonic() - start < 2.0
    key = run.key
    assert replay_journals(settings) == 1
    assert replay_journals(settings) == 0
    (found,) = runs(settings)
    assert found.data.tags[KEY_TAG] == key
    assert len(client(settings).get_metric_history(found.info.run_id, "loss")) == 10


def test_lines_sent_but_not_marked_are_not_counted_twice(settings: Settings) -> None:
    with start_run("x", params={}, settings=away(settings)) as run:
        run.log_metrics({"loss": 1.0}, 1)
        run.log_metrics({"loss": 1.0}, 2)
    (journal,) = settings.journals.glob("*.jsonl")
    send(journal, settings)
    journal.with_suffix(".sent").unlink()  # as a crash between sending and marking leaves it
    send(journal, settings)
    (found,) = runs(settings)
    assert len(client(settings).get_metric_history(found.info.run_id, "loss")) == 2


def test_a_worker_joins_the_run_of_its_stage(settings: Settings) -> None:
    with start_run("pretrain", params={}, settings=settings) as run, attach_run(run.key, settings=settings) as joined:
        joined.log_metrics({"loss": 3.0}, 7)
        assert joined.run_id == run.run_id
    (found,) = runs(settings)
    assert found.data.metrics["loss"] == 3.0
    assert found.info.status == "FINISHED"


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(settings: Settings) -> None:
    with start_run("pretrain", params={}, settings=settings) as run:
        run.log_metrics({"loss": 2.0}, 1)
    with start_run("pretrain", params={}, resume_key=run.key, settings=settings) as again:
        again.log_metrics({"loss": 1.0}, 2)
        assert again.run_id == run.run_id
    assert len(client(settings).get_metric_history(again.run_id, "loss")) == 2


def test_the_journal_of_a_killed_process_is_replayed_whole(settings: Settings) -> None:
    script = (
        "import sys, time; from pathlib import Path; from components.settings import Settings;"
        "from components.tracking import start_run;"
        "home = Path(sys.argv[1]); s = Settings(root=home, home=home, mlflow_uri='http://127.0.0.1:9');"
        "c = start_run('killed', params={}, settings=s); r = c.__enter__();"
        "[r.log_metrics({'loss': float(i)}, i) for i in range(100)];"
        "print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(settings.root)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == b"ready"
    assert replay_journals(settings) == 0, "the journal of a living process must be left alone"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert replay_journals(settings) == 1
    (found,) = runs(settings)
    assert len(client(settings).get_metric_history(found.info.run_id, "loss")) == 100


KILLED_RUN = (
    "import sys, time; from pathlib import Path; from components.settings import Settings;"
    "from components.tracking import attach_run, start_run;"
    "home = Path(sys.argv[1]); s = Settings(root=home, home=home, mlflow_uri='http://127.0.0.1:9');"
    "c = start_run('killed', params={'a': 1}, settings=s); r = c.__enter__(); r.log_metrics({'loss': 2.0}, 1);"
    "d = attach_run(r.key, settings=s); w = d.__enter__(); w.log_metrics({'norm': 1.0}, 1);"
    "print(r.key, flush=True); time.sleep(60)"
)


def killed_run(settings: Settings) -> str:
    """The key of a run of which a process was killed that had opened and joined it."""
    process = subprocess.Popen([sys.executable, "-c", KILLED_RUN, str(settings.root)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    key = process.stdout.readline().decode().strip()
    process.kill()
    process.wait()
    process.stdout.close()
    return key


def test_the_next_run_sends_what_a_killed_one_left_and_ends_it(settings: Settings) -> None:
    key = killed_run(settings)
    with start_run("next", params={}, settings=settings):
        pass
    found = {run.info.run_name: run for run in runs(settings)}
    assert found["killed"].info.status == "KILLED"
    assert found["killed"].data.tags[KEY_TAG] == key
    assert found["killed"].data.metrics == {"loss": 2.0, "norm": 1.0}
    assert found["next"].info.status == "FINISHED"
    assert not list(settings.journals.glob("*.jsonl"))


def test_a_killed_run_that_is_gone_on_with_is_not_ended_by_the_replay(settings: Settings) -> None:
    key = killed_run(settings)
    with start_run("killed", params={"a": 1}, resume_key=key, settings=settings) as run:
        run.log_metrics({"loss": 1.0}, 2)
        while len(list(settings.journals.glob("*.jsonl"))) > 1:
            time.sleep(0.02)
        assert client(settings).get_run(run.run_id).info.status == "RUNNING"
    (found,) = runs(settings)
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"loss": 1.0, "norm": 1.0}


def test_parameters_arrive_although_mlflow_went_away_between_them_and_the_run(settings: Settings) -> None:
    key = killed_run(settings)
    experiment = client(settings).get_experiment_by_name(settings.mlflow_experiment)
    client(settings).create_run(experiment.experiment_id, tags={KEY_TAG: key})
    replay_journals(settings)
    (found,) = runs(settings)
    assert found.data.params == {"a": "1"}


def test_a_journal_that_was_killed_before_its_first_line_stops_nothing(settings: Settings) -> None:
    settings.journals.mkdir(exist_ok=True)
    (settings.journals / "aaaa.1.jsonl").write_text("")
    (settings.journals / "bbbb.1.jsonl").write_text('{"kind": "he')
    key = killed_run(settings)
    replay_journals(settings)
    assert [run.data.tags[KEY_TAG] for run in runs(settings)] == [key]
    assert not list(settings.journals.glob("*.jsonl"))


def test_F8_a_journal_whose_run_was_deleted_is_set_aside_and_the_later_ones_are_sent(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    deleted = killed_run(settings)
    experiment = client(settings).get_experiment_by_name(settings.mlflow_experiment)
    run = client(settings).create_run(experiment.experiment_id, tags={KEY_TAG: deleted})
    (settings.journals / f"{deleted}.id").write_text(run.info.run_id)
    client(settings).delete_run(run.info.run_id)
    key = killed_run(settings)
    assert replay_journals(settings) == 2
    assert [(one.data.tags[KEY_TAG], one.data.metrics) for one in runs(settings)] == [(key, {"loss": 2.0, "norm": 1.0})]
    kept = sorted(settings.journals.glob("*.refused"))
    assert {path.name.split(".")[0] for path in kept} == {deleted}
    assert b'"loss": 2.0' in b"".join(path.read_bytes() for path in kept)
    assert len([record for record in caplog.records if "refuses" in record.message]) == len(kept) == 2
    caplog.clear()
    assert replay_journals(settings) == 0
    assert caplog.records == [], "it is said once"
    client(settings).restore_run(run.info.run_id)
    for path in kept:
        path.rename(path.with_suffix(".jsonl"))
    assert replay_journals(settings) == 2, "who restores the run can have the journal sent"


def test_F8_a_journal_that_is_damaged_stops_no_other_one(settings: Settings) -> None:
    settings.journals.mkdir(exist_ok=True)
    damaged = settings.journals / "aaaa.1.jsonl"
    damaged.write_text("no JSON\n")
    key = killed_run(settings)
    assert replay_journals(settings) == 2
    assert [run.data.tags[KEY_TAG] for run in runs(settings)] == [key]
    assert damaged.exists()


@pytest.mark.parametrize("status", ["PERMISSION_DENIED", "TEMPORARILY_UNAVAILABLE", "ENDPOINT_NOT_FOUND"])
def test_F8_while_nothing_can_be_sent_every_journal_waits(
    settings: Settings, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def fail(path: Path, _: Settings) -> None:
        tried.append(path)
        raise MlflowException("no", error_code=ErrorCode.Value(status))

    settings.journals.mkdir(exist_ok=True)
    for name in ("aaaa.1.jsonl", "bbbb.1.jsonl"):
        (settings.journals / name).write_text('{"kind": "head"}\n')
    before = sorted(settings.journals.glob("*.jsonl"))
    monkeypatch.setattr("components.tracking.journal.send", fail)
    assert replay_journals(settings) == 0
    assert sorted(settings.journals.glob("*.jsonl")) == before
    assert len(tried) == 1


def test_a_full_disk_costs_metrics_and_not_the_work(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with start_run("x", params={}, settings=settings) as run:
        run.log_metrics({"loss": 1.0}, 1)
        size = next(settings.journals.glob("*.jsonl")).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, resource.RLIM_INFINITY))
        previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            run.log_metrics({"loss": 2.0}, 2)
            run.log_metrics({"loss": 3.0}, 3)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            signal.signal(signal.SIGXFSZ, previous)
        run.log_metrics({"loss": 4.0}, 4)
    (found,) = runs(settings)
    assert [m.step for m in client(settings).get_metric_history(found.info.run_id, "loss")] == [1, 4]
    assert [record.message for record in caplog.records if "cannot be written" in record.message]


def test_an_artifact_root_that_the_experiment_contradicts_is_refused(settings: Settings, tmp_path: Path) -> None:
    other = settings.model_copy(update={"artifact_root": str(tmp_path / "elsewhere")})
    with pytest.raises(UserError, match=r"keeps its artifacts at .* SELFSIGHT_MLFLOW_EXPERIMENT"):
        client(other)
