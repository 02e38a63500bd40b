"""The loop that trains on drift only: a real ingest, a real registry, and a release that takes no time."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import miniature
import numpy as np
import pytest
from PIL import Image
from turns import champion, turn

from components.settings import get_settings
from components.tracking import client
from components.tracking.mlflow_store import experiment_id
from flows.server import Orchestrator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
COUNT = 60

INGEST = """
import runpy

if __name__ == "__main__":  # processes that decode import this file again
    runpy.run_module("components.stages.ingest", run_name="__main__")
"""
RELEASE = """
import hashlib
from pathlib import Path

import pyarrow as pa
from artifacts import evaluation, make_artifact

from components.data.forgotten import FORGOTTEN, read_forgotten, usable
from components.data.manifest import Manifest
from components.data.tables import write_table
from components.registry.lineage import dvc_hash

data, forgotten = Path("data"), read_forgotten(Path("data/forgotten.lock"))
ids = usable(Manifest.load(data / "manifest"), forgotten).ids("train")
for name in ("dedup", "curated"):
    (data / name).mkdir()
write_table(pa.table({"id": pa.array(sorted(forgotten), pa.string())}), data / "dedup" / FORGOTTEN)
write_table(pa.table({"id": ids}), data / "curated" / "ids.parquet")
seed = len(ids)
make_artifact(
    Path("models/release"),
    seed,
    evaluation=evaluation(seed / 1000, images={"queries": "q" * 64, "bank": "b" * 64, "protocol": "p" * 64}),
    curated={"sha256": hashlib.sha256((data / "curated" / "ids.parquet").read_bytes()).hexdigest(), "count": seed},
    dependencies={"data/manifest": dvc_hash(data / "manifest")},
)
open("release.txt.runs", "a").write("x")
"""


@pytest.fixture
def loop(project: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of pictures, ingested for real; the release is a backbone with random weights."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    shutil.copy(empty_database, project / "mlflow.db")
    (project / "photos").mkdir()
    (project / "data").mkdir()
    (project / "data" / "forgotten.lock").touch()
    text = (ROOT / "params.yaml").read_text().replace("source: scenes", "source: photos")
    (project / "params.yaml").write_text(text.replace("retrain: {}", "retrain:\n  when: on drift"))
    stages = [
        miniature.Stage("ingest", INGEST, deps=("data/source.lock",), outs=("data/manifest", "data/shards")),
        miniature.Stage(
            "release",
            RELEASE,
            "release",
            ("data/manifest", "data/forgotten.lock"),
            ("models/release", "data/dedup", "data/curated"),
        ),
    ]
    miniature.write_project(project, stages)
    with Orchestrator(miniature.prefect_server()).connect():
        yield project


def add_pictures(project: Path, seed: int, tint: tuple[float, float, float] = (1, 1, 1)) -> None:
    """Patches of noise in a colour of their own, seen through a filter."""
    for number in range(COUNT):
        rng = np.random.default_rng((seed, number))
        colour, noise = rng.uniform(60, 190, 3), rng.normal(0, 25, (24, 24, 3))
        pixels = np.clip((colour + noise) * tint, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(project / "photos" / f"{seed}-{number:02d}.png")


def test_the_loop_waits_for_drift_and_for_takedowns(loop: Path) -> None:
    add_pictures(loop, 0)
    assert turn()[0] == "Promoted", "there is nothing to compare the first version with"

    add_pictures(loop, 1)
    name, message = turn()
    assert name == "Skipped"
    assert message.startswith("no drift, p = 0."), message
    assert message.endswith("version 1 stays")
    assert (champion(), miniature.runs_of(loop, "release")) == ("1", 1)
    assert turn() == (name, message), "the same snapshot and champion give the same decision"

    add_pictures(loop, 2, tint=(0.1, 1.0, 0.1))
    shown = subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", "drift"],
        cwd=loop,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert "decision   drift, p = 0.00" in shown.stdout, shown.stdout
    assert miniature.runs_of(loop, "release") == 1, "the command trains nothing"
    made, runs = client(get_settings()), [experiment_id(get_settings())]
    (run, *_) = made.search_runs(runs, filter_string="tags.stage = 'drift'", order_by=["attributes.start_time DESC"])
    assert run.data.metrics["drift"] == 1.0
    assert run.data.params["permutations"] == "999"
    assert {one.path for one in made.list_artifacts(run.info.run_id, "drift")} == {
        "drift/drift.png",
        "drift/farthest.png",
    }
    assert turn()[0] == "Promoted"
    assert (champion(), miniature.runs_of(loop, "release")) == ("2", 2)
    assert turn()[0] == "Skipped"

    subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", "forget", "2-00.png", "2-01.png", "2-02.png"],
        cwd=loop,
        capture_output=True,
        check=True,
    )
    assert turn()[0] in ("Promoted", "Refused"), "the champion has seen what must be forgotten"
    assert miniature.runs_of(loop, "release") == 3


def test_few_new_pictures_are_no_drift_and_a_source_without_old_ones_is(loop: Path) -> None:
    add_pictures(loop, 0)
    turn()
    Image.new("RGB", (24, 24), (255, 0, 0)).save(loop / "photos" / "one.png")
    name, message = turn()
    assert name == "Skipped"
    assert "independent new images, fewer than drift.min_images 32; version 1 stays" in message
    shutil.rmtree(loop / "photos")
    (loop / "photos").mkdir()
    add_pictures(loop, 5)
    add_pictures(loop, 6)
    assert turn()[0] == "Promoted"
    assert champion() == "2"
