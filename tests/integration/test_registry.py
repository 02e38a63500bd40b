"""Versions, aliases and history in a real MLflow registry on SQLite."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from artifacts import evaluation, make_artifact

from components.errors import UserError
from components.models.backbone import ARTIFACT_FILES, artifact_hash, load_backbone
from components.registry.lineage import dvc_hash
from components.registry.promotion import (
    PromotionConflict,
    champions,
    current_champion,
    history,
    promote,
    rollback,
)
from components.registry.registration import register
from components.registry.versions import RegistryUnavailable, by_alias, by_digest, by_number, champion
from components.settings import Settings, get_settings
from components.tracking import client


def registered(settings: Settings, count: int, **lineage: object) -> list[str]:
    """Registers that many different artifacts."""
    folders = [make_artifact(settings.root / f"artifact{seed}", seed, **lineage) for seed in range(count)]
    return [register(folder, settings).version for folder in folders]


def actions(settings: Settings) -> list[tuple[str, str | None, str | None]]:
    return [(entry.action, entry.previous, entry.version) for entry in history(settings)]


def test_an_empty_registry_has_no_champion_and_no_history(settings: Settings) -> None:
    assert champion(settings) is None
    assert by_alias("candidate", settings) is None
    assert by_digest("0" * 64, settings) is None
    assert history(settings) == []


def test_a_version_names_the_commit_that_holds_the_lock_once_there_is_one(settings: Settings) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    artifact = make_artifact(settings.root / "release", 1)
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "before"]):
        subprocess.run([*git, *command], cwd=settings.root, check=True)
    (settings.root / "dvc.lock").write_text("schema: '2.0'\n")
    version = register(artifact, settings).version
    assert "git.lock_sha" not in by_number(version, settings).tags
    for command in (["add", "dvc.lock"], ["commit", "-q", "-m", "run"]):
        subprocess.run([*git, *command], cwd=settings.root, check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], cwd=settings.root, check=True, capture_output=True, text=True)
    register(artifact, settings)
    assert by_number(version, settings).tags["git.lock_sha"] == head.stdout.strip()


def test_an_artifact_store_that_refuses_is_named(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    nowhere = settings.model_copy(
        update={"mlflow_experiment": "other", "artifact_root": f"{tmp_path}/file/artifacts", "model_name": "other"}
    )
    with pytest.raises(RegistryUnavailable, match=rf"cannot be stored at {tmp_path}/file.*SELFSIGHT_ARTIFACT_ROOT"):
        register(make_artifact(tmp_path / "release", 1), nowhere)


def test_a_registered_artifact_comes_back_bit_for_bit_under_its_alias(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = make_artifact(tmp_path / "release", 1, evaluation=evaluation(0.5), parameters_sha256="p" * 64)
    version = register(artifact, settings)
    assert (version.version, version.digest) == ("1", artifact_hash(artifact))
    assert version.evaluation["metrics"]["teacher.knn.top1"] == 0.5
    assert version.tags["parameters.sha256"] == "p" * 64
    monkeypatch.setenv("SELFSIGHT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    try:
        loaded = load_backbone("models:/backbone@candidate", expected_hash=version.digest)
        assert load_backbone(version.uri).digest == version.digest
    finally:
        get_settings.cache_clear()
    original = load_backbone(artifact).model.state_dict()
    assert all(loaded.model.state_dict()[name].equal(value) for name, value in original.items())


def test_registering_twice_makes_one_version(settings: Settings, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "release")
    first = register(artifact, settings)
    copied = make_artifact(tmp_path / "elsewhere")
    assert register(copied, settings) == first
    assert len(client(settings).search_model_versions("name = 'backbone'")) == 1


def test_an_older_artifact_becomes_candidate_again_without_a_new_version(settings: Settings, tmp_path: Path) -> None:
    old, new = make_artifact(tmp_path / "old", 1), make_artifact(tmp_path / "new", 2)
    assert [register(one, settings).version for one in (old, new, old)] == ["1", "2", "1"]
    found = by_alias("candidate", settings)
    assert found is not None
    assert found.version == "1"


def test_many_registrations_at_once_make_one_version(settings: Settings, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "release")
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(lambda _: register(artifact, settings), range(4)))
    assert {one.version for one in versions} == {"1"}


def test_an_upload_that_was_killed_is_finished_by_the_next_registration(settings: Settings, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "release")
    made = client(settings)
    experiment = made.get_experiment_by_name(settings.mlflow_experiment).experiment_id
    left = made.create_run(experiment, tags={"stage": "register", "artifact.sha256": artifact_hash(artifact)})
    made.log_text(left.info.run_id, "half", "backbone/model.safetensors")
    version = register(artifact, settings)
    run_id = made.get_model_version("backbone", version.version).run_id
    assert run_id == left.info.run_id
    stored = {item.path: item.file_size for item in made.list_artifacts(run_id, "backbone")}
    expected = {
        f"backbone/{name}": (artifact / name).stat().st_size for name in ARTIFACT_FILES if (artifact / name).exists()
    }
    assert stored == expected
    assert made.get_run(run_id).info.status == "FINISHED"


def test_the_runs_that_led_to_a_version_are_its_tags(settings: Settings, tmp_path: Path) -> None:
    version = register(make_artifact(tmp_path / "release"), settings, runs={"pretrain": "abc", "evaluate": "def"})
    assert version.tags["run.pretrain"] == "abc"
    assert version.tags["run.evaluate"] == "def"


def test_an_incomplete_artifact_is_not_registered(settings: Settings, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "release")
    (artifact / "preprocess.json").unlink()
    with pytest.raises(UserError, match=r"preprocess\.json is missing"):
        register(artifact, settings)
    assert not client(settings).search_registered_models()


def test_promotion_and_rollback_walk_along_the_champions(settings: Settings) -> None:
    first, second, third = registered(settings, 3)
    promote(first, settings, expected=None, reason="the first")
    promote(second, settings, expected=first, reason="better")
    promote(third, settings, expected=second, reason="better still")
    assert current_champion(settings) == third
    assert rollback(settings, reason="it was not").version == second
    assert rollback(settings, reason="neither").version == first
    with pytest.raises(UserError, match="no champion came before version 1"):
        rollback(settings, reason="what else")
    assert current_champion(settings) == first
    assert actions(settings) == [
        ("promote", None, first),
        ("promote", first, second),
        ("promote", second, third),
        ("rollback", third, second),
        ("rollback", second, first),
    ]
    assert [entry.number for entry in history(settings)] == [1, 2, 3, 4, 5]


def test_after_a_rollback_and_a_promotion_the_rolled_back_version_is_not_gone_back_to(settings: Settings) -> None:
    first, second, third = registered(settings, 3)
    promote(first, settings, expected=None, reason="")
    promote(second, settings, expected=first, reason="")
    rollback(settings, reason="")
    promote(third, settings, expected=first, reason="")
    assert rollback(settings, reason="").version == first
    assert champions(history(settings)) == [first]


def test_a_promotion_decided_against_another_champion_is_refused_and_recorded(settings: Settings) -> None:
    first, second = registered(settings, 2)
    promote(first, settings, expected=None, reason="")
    with pytest.raises(PromotionConflict, match="champion is version 1, no longer none"):
        promote(second, settings, expected=None, reason="too late")
    assert current_champion(settings) == first
    last = history(settings)[-1]
    assert (last.action, last.version, last.previous) == ("refuse", second, first)
    assert "too late" in last.reason
    assert "@" in last.by


def test_the_champion_is_not_promoted_again(settings: Settings) -> None:
    (first,) = registered(settings, 1)
    promote(first, settings, expected=None, reason="")
    with pytest.raises(UserError, match="champion already"):
        promote(first, settings, expected=first, reason="")
    assert len(history(settings)) == 1


def test_a_version_that_does_not_exist_is_not_promoted(settings: Settings) -> None:
    registered(settings, 1)
    for absent in ("7", "latest"):
        with pytest.raises(UserError, match=f"version {absent}: not registered"):
            promote(absent, settings, expected=None, reason="")
    with pytest.raises(UserError, match="no champion came before none"):
        rollback(settings, reason="")
    assert champion(settings) is None


def test_a_champion_made_by_hand_enters_the_history_with_the_next_change(settings: Settings) -> None:
    first, second, third = registered(settings, 3)
    promote(first, settings, expected=None, reason="")
    client(settings).set_registered_model_alias("backbone", "champion", second)
    promote(third, settings, expected=second, reason="")
    assert actions(settings)[1:] == [("found", first, second), ("promote", second, third)]
    assert rollback(settings, reason="").version == second


def test_a_promotion_killed_before_the_alias_moved_is_corrected_by_the_next_change(settings: Settings) -> None:
    first, second, third = registered(settings, 3)
    promote(first, settings, expected=None, reason="")
    entry = promote(second, settings, expected=first, reason="")
    client(settings).set_registered_model_alias("backbone", "champion", first)  # as if it had never moved
    promote(third, settings, expected=first, reason="")
    assert actions(settings)[entry.number :] == [("found", second, first), ("promote", first, third)]
    assert champions(history(settings)) == [first, third]


def test_a_registry_that_does_not_answer_is_named_as_such(tmp_path: Path) -> None:
    away = Settings(root=tmp_path, home=tmp_path, mlflow_uri="http://127.0.0.1:9", _env_file=None)
    artifact = make_artifact(tmp_path / "release")
    for ask in (champion, history, lambda settings: register(artifact, settings)):
        with pytest.raises(RegistryUnavailable, match="does not answer"):
            ask(away)
    with pytest.raises(RegistryUnavailable):
        by_number("1", away)


def test_folder_and_file_hashes_are_those_of_dvc(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "b" / "c").mkdir(parents=True)
    for name in ("a", "b.txt", "b/x", "b/c/y", "ä", "b-1"):
        (data / name).write_text(name)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "DVC_NO_ANALYTICS": "1",
        "HOME": str(tmp_path),
    }
    for command in (["init", "--no-scm", "-q"], ["add", "-q", "data"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=tmp_path, check=True, env=environment)
    assert f"md5: {dvc_hash(data)}\n" in (tmp_path / "data.dvc").read_text()


def test_history_entries_are_readable_json_tags(settings: Settings) -> None:
    (first,) = registered(settings, 1)
    promote(first, settings, expected=None, reason="because")
    tags = client(settings).get_registered_model("backbone").tags
    assert json.loads(tags["history.000001"])["reason"] == "because"
