"""Candidate against champion on real manifests and a real registry."""

import shutil
from pathlib import Path

import pytest
from artifacts import evaluation, make_artifact

from components.data.forgotten import FORGOTTEN, write_forgotten
from components.data.ingest import build_manifest
from components.data.manifest import Manifest
from components.data.snapshot import take_snapshot
from components.data.tables import write_table
from components.errors import UserError
from components.registry.promotion import history, is_judged
from components.registry.registration import register
from components.registry.versions import CHAMPION, IDENTITY, by_alias, by_number
from components.settings import Settings, get_settings
from components.stages import paths
from components.stages.params import PipelineParams, parse_params
from flows.drift import drift_now
from flows.promotion import PresentImages, decide, promote_version, roll_back
from flows.snapshot import refresh_embedder, refresh_locks

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params() -> PipelineParams:
    text = (ROOT / "params.yaml").read_text().replace("source: scenes", "source: scenes?images=60&eval=30&classes=2")
    return parse_params(text, where="params.yaml")


@pytest.fixture
def settings(project: Path, empty_database: Path) -> Settings:
    shutil.copy(empty_database, project / "mlflow.db")
    return get_settings()


def curate(params: PipelineParams, settings: Settings) -> None:
    lock = take_snapshot(params.snapshot, settings)
    build_manifest(lock, params.ingest, paths.MANIFEST, paths.SHARDS, settings)
    kept = Manifest.load(paths.MANIFEST).images.select(["id"])
    paths.DEDUP.mkdir(parents=True)
    write_table(kept, paths.DEDUP / "kept.parquet")
    write_table(kept.slice(0, 0), paths.DEDUP / FORGOTTEN)
    write_forgotten((), paths.FORGOTTEN_LOCK)


def champion_of(settings: Settings) -> str | None:
    found = by_alias(CHAMPION, settings)
    return found and found.version


def add(settings: Settings, seed: int, score: float, images: str = "a") -> None:
    told = evaluation(score, images=dict.fromkeys(IDENTITY, images * 64))
    register(make_artifact(settings.root / f"artifact{seed}", seed, evaluation=told), settings)


def test_the_gate_decides_and_can_be_overruled_and_the_way_back_is_open(
    params: PipelineParams, settings: Settings
) -> None:
    with pytest.raises(UserError, match="there is no candidate"):
        promote_version(params, settings, None, force=False)
    add(settings, 1, 0.5)
    promote_version(params, settings, None, force=False)
    with pytest.raises(UserError, match="champion already"):
        promote_version(params, settings, None, force=True)
    add(settings, 2, 0.4)
    with pytest.raises(UserError, match=r"version 2 is not promoted: knn.top1 40.0 % is worse .* --force"):
        promote_version(params, settings, None, force=False)
    assert champion_of(settings) == "1"
    promote_version(params, settings, "2", force=True)
    assert champion_of(settings) == "2"
    assert history(settings)[-1].reason.startswith("forced, by hand, gate refused")
    roll_back(settings)
    assert champion_of(settings) == "1"


def test_a_champion_scored_on_other_images_is_scored_again_on_the_candidates(
    params: PipelineParams, settings: Settings
) -> None:
    curate(params, settings)
    add(settings, 1, 0.99, images="a")
    promote_version(params, settings, None, force=False)
    here = PresentImages(params, settings)
    told = evaluation(0.98, images=dict(zip(IDENTITY, here.identity, strict=True)))
    register(make_artifact(settings.root / "artifact2", 2, evaluation=told), settings)
    decision = decide(params, settings)
    assert decision.champion is not None
    again = here.scores(decision.champion)
    assert again is not None
    assert 0 < again["knn.top1.low"] < again["knn.top1"] < 0.98, "a backbone with random weights is no champion"
    assert decision.result.passed
    assert decision.result.comparable
    assert f"98.0 % is not worse than the champion's {100 * again['knn.top1']:.1f} %" in str(decision.result)


@pytest.mark.parametrize("change", ["images", "protocol"])
def test_an_older_candidate_is_scored_again_too_on_the_same_images_in_the_same_way(
    params: PipelineParams, settings: Settings, change: str
) -> None:
    curate(params, settings)
    here = dict(zip(IDENTITY, PresentImages(params, settings).identity, strict=True))
    told = evaluation(0.99, images=here)
    register(make_artifact(settings.root / "artifact1", 1, evaluation=told), settings)
    promote_version(params, settings, None, force=False)
    other = dict.fromkeys(IDENTITY, "b" * 64) if change == "images" else {**here, "protocol": "b" * 64}
    told = evaluation(0.999, images=other)
    register(make_artifact(settings.root / "artifact2", 2, evaluation=told), settings)
    result = decide(params, settings).result
    assert not result.passed, "99.9 % were reached on other images"
    assert result.comparable
    assert "99.9" not in str(result)
    assert "the champion's 99.0 %" in str(result)


def test_the_embedder_is_the_champion_once_there_is_one_but_old_images_are_not_curated_again(
    params: PipelineParams, settings: Settings
) -> None:
    lock = settings.root / paths.EMBEDDER_LOCK
    assert refresh_embedder(params, settings, always=False) is not None
    builtin = lock.read_text()
    assert '"builtin"' in builtin
    add(settings, 1, 0.5)
    assert refresh_embedder(params, settings, always=True) is None, "a candidate is no champion"
    promote_version(params, settings, None, force=False)
    assert refresh_embedder(params, settings, always=False) is None
    assert lock.read_text() == builtin
    assert refresh_embedder(params, settings, always=True) == "models:/backbone/1 1"
    assert "models:/backbone/1" in lock.read_text()
    assert refresh_embedder(params, settings, always=True) is None


def test_while_the_registry_is_away_the_embedder_stays_as_it_was(params: PipelineParams, settings: Settings) -> None:
    away = settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    assert refresh_embedder(params, away, always=True) is not None
    before = (settings.root / paths.EMBEDDER_LOCK).read_text()
    assert '"builtin"' in before
    assert refresh_embedder(params, away, always=True) is None
    assert (settings.root / paths.EMBEDDER_LOCK).read_text() == before


def champion_and_new_images(params: PipelineParams, settings: Settings) -> PipelineParams:
    """The locks name the built-in embedder; then there is a champion, and the source holds other images."""
    refresh_locks(params, settings)
    add(settings, 1, 0.5)
    promote_version(params, settings, None, force=False)
    more = params.snapshot.model_copy(update={"source": f"{params.snapshot.source}&seed=1"})
    return params.model_copy(update={"snapshot": more})


@pytest.mark.parametrize("cut", ["refresh_initial", "refresh_embedder", "write_lock"])
def test_new_images_are_curated_with_the_champion_although_the_snapshot_was_cut_off(
    params: PipelineParams, settings: Settings, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cut is an exception where a kill would strike."""
    changed = champion_and_new_images(params, settings)
    with monkeypatch.context() as patch:
        patch.setattr(f"flows.snapshot.{cut}", _cut_off)
        with pytest.raises(KeyError, match="cut off"):
            refresh_locks(changed, settings)
    refresh_locks(changed, settings)
    assert "models:/backbone/1" in (settings.root / paths.EMBEDDER_LOCK).read_text()
    assert refresh_locks(changed, settings).lines() == ["snapshot: nothing new"]


def _cut_off(*_: object, **__: object) -> None:
    raise KeyError("cut off")


def test_new_images_are_curated_with_the_champion_although_drift_saw_them_first(
    params: PipelineParams, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = champion_and_new_images(params, settings)
    monkeypatch.setattr("flows.drift.load_params", lambda _: changed)
    monkeypatch.setattr("flows.drift.decide_drift", lambda *_: None)
    drift_now(settings, lambda _: None)
    assert refresh_locks(changed, settings).lines() == ["snapshot: nothing new"]
    assert "models:/backbone/1" in (settings.root / paths.EMBEDDER_LOCK).read_text()


def test_what_was_forgotten_since_the_last_deduplication_is_measured_on_no_more(
    params: PipelineParams, settings: Settings
) -> None:
    curate(params, settings)
    before = PresentImages(params, settings)
    assert before._split is not None
    gone = {before._split.queries[0], before._split.bank[0]}
    write_forgotten(gone, paths.FORGOTTEN_LOCK)
    after = PresentImages(params, settings)
    assert after._split is not None
    assert not gone & {*after._split.queries, *after._split.bank}
    assert after.identity != before.identity


def test_a_version_that_is_left_counts_as_judged_although_its_promotion_was_cut_off(
    params: PipelineParams, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, score in ((1, 0.5), (2, 0.6)):
        add(settings, seed, score)
        with monkeypatch.context() as patch:
            patch.setattr("flows.promotion.record_judgement", _cut_off)
            with pytest.raises(KeyError, match="cut off"):
                promote_version(params, settings, None, force=False)
    assert not is_judged(by_number("2", settings))
    roll_back(settings)
    assert champion_of(settings) == "1"
    assert is_judged(by_number("2", settings)), "else the next turn of the loop would promote it again"
