"""The loop on a small DVC project, with a real registry."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import miniature
import pytest
from artifacts import evaluation, make_artifact
from PIL import Image
from s3_server import s3_server
from turns import champion, turn

from components.data.forgotten import write_forgotten
from components.errors import UserError
from components.registry.promotion import history
from components.registry.registration import register
from components.registry.versions import CANDIDATE, CHAMPION, by_alias
from components.settings import get_settings
from flows.promotion import roll_back
from flows.server import Orchestrator

pytestmark = pytest.mark.timeout(240)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def loop(project: Path, empty_database: Path) -> Iterator[Path]:
    """Two stages that follow the snapshot of a folder with two pictures; the second releases a backbone."""
    shutil.copy(empty_database, project / "mlflow.db")
    (project / "photos").mkdir()
    for shade in (10, 200):
        add_picture(project, shade)
    lines = (ROOT / "params.yaml").read_text()
    (project / "params.yaml").write_text(lines.replace("source: scenes", "source: photos"))
    count = "open('first.txt', 'w').write(str(len(open('data/source.lock').readlines())))"
    first = miniature.Stage("first", count, deps=("data/source.lock",), outs=("first.txt",))
    copy = "import shutil; shutil.copytree('made', 'models/release', dirs_exist_ok=True)\n"
    count_runs = "open('release.txt.runs', 'a').write('x')\n"
    last = miniature.Stage("release", copy + count_runs, "release", ("first.txt",), ("models/release",))
    miniature.write_project(project, [first, last])
    with Orchestrator(miniature.prefect_server()).connect():
        yield project


def add_picture(project: Path, shade: int) -> None:
    Image.new("RGB", (32, 32), (shade, shade, shade)).save(project / "photos" / f"{shade}.png")


def release(project: Path, seed: int, score: float) -> None:
    """What the last stage makes the next time that it runs."""
    shutil.rmtree(project / "made", ignore_errors=True)
    make_artifact(project / "made", seed, evaluation=evaluation(score))


def test_the_loop_promotes_what_passes_keeps_what_is_better_and_skips_when_nothing_is_new(loop: Path) -> None:
    release(loop, 1, 0.5)
    assert turn()[0] == "Promoted"
    assert (champion(), miniature.runs_of(loop, "release")) == ("1", 1)

    assert turn() == ("Skipped", "nothing new in photos")
    assert miniature.runs_of(loop, "release") == 1

    release(loop, 2, 0.4)
    add_picture(loop, 100)
    name, message = turn()
    assert name == "Refused"
    assert "40.0 % is worse than the champion's 50.0 %" in message
    assert (champion(), miniature.runs_of(loop, "release")) == ("1", 2)
    assert turn()[0] == "Skipped", "what the gate refused once is not judged every night"

    release(loop, 3, 0.6)
    add_picture(loop, 50)
    assert turn()[0] == "Promoted"
    assert champion() == "3"
    assert [entry.version for entry in history(get_settings())] == ["1", "3"]


def test_what_a_person_has_decided_since_is_not_overruled(loop: Path) -> None:
    release(loop, 1, 0.5)
    turn()
    release(loop, 2, 0.6)
    add_picture(loop, 100)
    turn()
    roll_back(get_settings())
    assert champion() == "1"
    assert turn()[0] == "Skipped"
    assert champion() == "1"


def test_a_turn_tells_what_is_forgotten_and_who_has_seen_it(loop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("flows.retrain._tell", told.append)
    release(loop, 1, 0.5)
    write_forgotten(["f" * 64], loop / "data" / "forgotten.lock")
    turn()
    assert told[-2:] == [
        "forgotten     1 images, left out",
        "  seen by    version 1: unknown, nothing tells any more what it was trained on",
    ]


def test_somebody_elses_candidate_is_left_alone(loop: Path, tmp_path: Path) -> None:
    release(loop, 1, 0.5)
    turn()
    register(make_artifact(tmp_path / "theirs", 9, evaluation=evaluation(0.9)), get_settings())
    assert by_alias(CANDIDATE, get_settings()) != by_alias(CHAMPION, get_settings())
    assert turn()[0] == "Skipped"
    assert champion() == "1"


@pytest.mark.parametrize("cut", ["register", "decide", "apply"])
def test_a_turn_that_was_cut_off_is_taken_up_although_nothing_is_new(
    loop: Path, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cut is an exception where a kill would strike; what a kill does to the stages is tested with real kills."""
    release(loop, 1, 0.5)
    where = "components.registry.registration.register" if cut == "register" else f"flows.retrain.{cut}"
    with monkeypatch.context() as patch:
        patch.setattr(where, _cut_off)
        with pytest.raises(KeyError, match="cut off"):
            turn()
    assert champion() is None
    assert turn()[0] == "Promoted"
    assert (champion(), miniature.runs_of(loop, "release")) == ("1", 1)


def _cut_off(*_: object, **__: object) -> None:
    raise KeyError("cut off")


def test_a_promotion_that_was_not_pushed_is_pushed_by_the_next_turn(
    loop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as endpoint:
        for name, value in {
            "SELFSIGHT_S3_ENDPOINT": endpoint,
            "SELFSIGHT_S3_BUCKET": "team",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()
        release(loop, 1, 0.5)
        with pytest.raises(UserError, match="no such bucket"):
            turn()
        assert miniature.runs_of(loop, "release") == 0, "a wrong bucket is found before the work"
        s3 = boto3.client("s3", endpoint_url=endpoint)
        s3.create_bucket(Bucket="team")
        with monkeypatch.context() as patch:
            patch.setattr("flows.retrain.transfer", _cut_off)
            with pytest.raises(KeyError, match="cut off"):
                turn()
        assert champion() == "1"
        assert turn()[0] == "Shared"
        assert s3.list_objects_v2(Bucket="team")["KeyCount"] > 0
        assert turn()[0] == "Skipped"


def test_a_second_loop_is_refused_before_it_touches_anything(loop: Path) -> None:
    release(loop, 1, 0.5)
    before = sorted(path for path in (loop / "data").glob("*"))
    script = "import sys; from pathlib import Path; from flows.exclusion import sole_pipeline\n"
    script += "with sole_pipeline(Path.cwd()): print('mine', flush=True); sys.stdin.read()"
    held = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=loop, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=held
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"mine\n"
        with pytest.raises(UserError, match="a pipeline runs in this working tree already"):
            turn()
        other.communicate()
    assert sorted(path for path in (loop / "data").glob("*")) == before
    assert turn()[0] == "Promoted"
