"""Training over two machines: two launches on one computer that meet at another loopback address."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.integration.ranks import free_port
from tests.integration.stage_runs import curve
from tests.tiny_training import DISTILL, PRETRAIN, make_data

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 200
RELATIVE_TOLERANCE = 1e-5
"""Of two machines against one with two processes: the same sums in the same order, over other sockets."""


def start(folder: Path, *command: str, **settings: object) -> "subprocess.Popen[str]":
    """A launch with these settings; of `tests.tiny_training`, or of another module, which runs in the folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SELFSIGHT_")}
    own = {"home": folder, "threads": 1, "device": "cpu", **settings}
    given = {f"SELFSIGHT_{name.upper()}": str(value) for name, value in own.items()}
    module = command or ("tests.tiny_training", str(folder), str(folder / "params.json"))
    return subprocess.Popen(
        [sys.executable, "-m", *module],
        cwd=folder if command else ROOT,
        env={**kept, **given, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*started: "subprocess.Popen[str]") -> list[str]:
    """Waits for all; what each said."""
    try:
        return [process.communicate(timeout=SECONDS)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()


def prepare(folder: Path, **changes: object) -> Path:
    make_data(folder)
    (folder / "params.json").write_text(json.dumps({**PRETRAIN, **changes}))
    return folder


@pytest.mark.slow
def test_two_machines_compute_the_loss_of_two_processes_and_only_the_first_writes(
    on_two_processes: Path, tmp_path: Path
) -> None:
    two = prepare(tmp_path / "two")
    meeting = {"nodes": 2, "rendezvous": f"127.0.0.2:{free_port()}"}
    second = start(two, node_rank=1, **meeting)  # whoever comes first waits
    first = start(two, node_rank=0, **meeting)
    said_first, said_second = finish(first, second)
    assert (first.returncode, second.returncode) == (0, 0), said_first + said_second
    assert "2 process(es)" in said_first

    for row, expected in zip(curve(two), curve(on_two_processes), strict=True):
        assert row == pytest.approx(expected, rel=RELATIVE_TOLERANCE)
    checkpoints = [
        sorted(path.name for path in folder.glob(".checkpoints/*/*/shard-*")) for folder in (on_two_processes, two)
    ]
    assert checkpoints[0] == checkpoints[1]
    assert {path.name for path in two.iterdir()} == {path.name for path in on_two_processes.iterdir()}


@pytest.mark.slow
def test_the_stage_itself_has_one_run_and_one_result(tmp_path: Path, empty_database: Path) -> None:
    project = tmp_path / "project"
    make_data(project / "data")
    shutil.copy(ROOT / "data" / "initial.lock", project / "data" / "initial.lock")
    shutil.copy(empty_database, project / "mlflow.db")
    values = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    with (project / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(values | {"pretrain": PRETRAIN, "distill": DISTILL}, file)

    meeting = {"nodes": 2, "rendezvous": f"127.0.0.2:{free_port()}"}
    launches = [start(project, "components.stages.pretrain", node_rank=rank, **meeting) for rank in (0, 1)]
    said = "".join(finish(*launches))
    assert [launch.returncode for launch in launches] == [0, 0], said

    assert json.loads((project / "metrics" / "pretrain.json").read_text())["steps"] == PRETRAIN["steps"]
    assert (project / "models" / "teacher" / "model.safetensors").exists()
    assert not list(project.glob("*/.*partial*"))
    with sqlite3.connect(project / "mlflow.db") as database:
        assert database.execute("select name, status from runs").fetchall() == [("pretrain", "FINISHED")]


@pytest.mark.slow
def test_F3_a_machine_that_is_told_to_stop_stops_all_after_a_checkpoint(tmp_path: Path) -> None:
    folder = prepare(tmp_path / "both", steps=5000, checkpoint={"seconds": 1e-3})
    meeting = {"nodes": 2, "rendezvous": f"127.0.0.2:{free_port()}"}
    launches = [start(folder, node_rank=rank, **meeting) for rank in (0, 1)]
    deadline = time.monotonic() + SECONDS
    while not list(folder.glob(".checkpoints/*/step-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    launches[1].send_signal(signal.SIGTERM)
    said = finish(*launches)
    assert [launch.returncode for launch in launches] == [75, 75], said


@pytest.mark.slow
def test_F16_a_machine_with_other_parameters_stops_the_run_before_it_begins(tmp_path: Path) -> None:
    folders = [prepare(tmp_path / "first"), prepare(tmp_path / "second", seed=1)]
    port = free_port()
    launches = [
        start(folder, nodes=2, node_rank=rank, rendezvous=f"127.0.0.1:{port}") for rank, folder in enumerate(folders)
    ]
    for said in finish(*launches):
        assert "UserError: machine 1 has other parameters or images than machine 0" in said
    assert not [path for folder in folders for path in folder.glob("pretrain*")]
