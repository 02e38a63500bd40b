"""The loop on a small DVC project, with a real registry."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import miniature
import pytest
from PIL import Image

from components.registry.promotion import history
from components.registry.versions import CANDIDATE, CHAMPION, DIGEST_TAG, EVALUATION_TAG, by_alias
from components.settings import Settings, get_settings
from components.tracking import client
from flows.retrain import retrain
from flows.server import Orchestrator

pytestmark = pytest.mark.timeout(240)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def loop(project: Path, empty_database: Path) -> Iterator[Path]:
    """Two stages that follow the snapshot of a folder with two pictures."""
    shutil.copy(empty_database, project / "mlflow.db")
    (project / "photos").mkdir()
    for shade in (10, 200):
        add_picture(project, shade)
    lines = (ROOT / "params.yaml").read_text()
    (project / "params.yaml").write_text(lines.replace("source: scenes", "source: photos"))
    count = "open('first.txt', 'w').write(str(len(open('data/source.lock').readlines())))"
    first = miniature.Stage("first", count, deps=("data/source.lock",), outs=("first.txt",))
    second = miniature.Stage(
        "second", miniature.copier("first.txt", "second.txt"), "pretrain", ("first.txt",), ("second.txt",)
    )
    miniature.write_project(project, [first, second])
    with Orchestrator(miniature.prefect_server()).connect():
        yield project


def add_picture(project: Path, shade: int) -> None:
    Image.new("RGB", (32, 32), (shade, shade, shade)).save(project / "photos" / f"{shade}.png")


def register(settings: Settings, score: float) -> str:
    """A version under the alias candidate, as the stage `release` would leave it."""
    made = client(settings)
    if not made.search_registered_models():
        made.create_registered_model(settings.model_name)
    metrics = {"teacher.knn.top1": score, "pixels.knn.top1": 0.1}
    evaluation = {"role": "teacher", "metrics": metrics, "queries": "q", "bank": "b"}
    tags = {DIGEST_TAG: str(score), EVALUATION_TAG: json.dumps(evaluation)}
    version = made.create_model_version(settings.model_name, source=f"{settings.artifacts}/{score}", tags=tags)
    made.set_registered_model_alias(settings.model_name, CANDIDATE, version.version)
    return str(version.version)


def turn() -> tuple[str, str]:
    state = retrain(retries=0, return_state=True)
    state.result()
    return state.name, state.message


def test_the_loop_promotes_what_passes_keeps_what_is_better_and_skips_when_nothing_is_new(loop: Path) -> None:
    settings = get_settings()
    first = register(settings, 0.5)
    assert turn()[0] == "Promoted"
    assert miniature.runs_of(loop, "second") == 1

    name, message = turn()
    assert (name, message) == ("Skipped", "nothing new in photos")
    assert miniature.runs_of(loop, "second") == 1

    register(settings, 0.4)
    add_picture(loop, 100)
    name, message = turn()
    assert name == "Refused"
    assert "40.0 % is worse than the champion's 50.0 %" in message
    assert miniature.runs_of(loop, "second") == 2

    third = register(settings, 0.6)
    add_picture(loop, 50)
    assert turn()[0] == "Promoted"
    champion = by_alias(CHAMPION, settings)
    assert champion is not None
    assert champion.version == third
    assert [entry.version for entry in history(settings)] == [first, third]


def test_a_turn_that_was_cut_off_is_taken_up_although_nothing_is_new(loop: Path) -> None:
    register(get_settings(), 0.5)
    turn()
    (loop / "second.py").write_text(miniature.copier("first.txt", "second.txt", "text = 'new'"))
    (loop / "dvc.lock").write_text((loop / "dvc.lock").read_text().split("  second:")[0])
    register(get_settings(), 0.6)
    assert turn()[0] == "Promoted"
    assert miniature.runs_of(loop, "second") == 2
