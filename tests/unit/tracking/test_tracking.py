"""A run reaches MLflow through the journal, once, whatever happens in between."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
