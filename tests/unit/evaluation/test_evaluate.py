"""The whole evaluation of small backbones on a small world."""

import re
from pathlib import Path

import pytest
import torch
from artifacts import make_artifact

from components.evaluation.evaluate import evaluate
from components.evaluation.linear import LinearParams
from components.evaluation.report import EvaluateParams
from components.models.backbone import Backbone, load_backbone

PARAMS = EvaluateParams(batch_size=16, pictures=4, linear=LinearParams(steps=50, batch_size=16))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Backbone]:
    folder = tmp_path_factory.mktemp("models")
    return {name: load_backbone(make_artifact(folder / name, seed)) for seed, name in enumerate(("teacher", "student"))}


def run(models, world, folder: Path, params: EvaluateParams = PARAMS) -> dict[str, float]:  # type: ignore[no-untyped-def]
    folder.mkdir()
    return evaluate(models, world.manifest, world.manifest.ids("train"), world, params, folder, device="cpu")


def test_all_features_are_scored_on_the_same_images(models, labelled, tmp_path: Path) -> None:
    metrics = run(models, labelled, tmp_path / "report")
    for name in ("teacher", "student", "untrained", "pixels"):
        score = metrics[f"{name}.knn.top1"]
        assert 0 <= metrics[f"{name}.knn.top1.low"] <= score <= metrics[f"{name}.knn.top1.high"] <= 1
    for name in ("teacher", "student", "untrained"):
        assert 0 <= metrics[f"{name}.linear.top1"] <= 1
        assert 1 <= metrics[f"{name}.effective_rank"] <= 8
    assert metrics["pixels.knn.top1"] == 1.0, "colours tell these classes apart"
    assert (metrics["images.bank"], metrics["images.queries"], metrics["classes"]) == (60, 30, 3)
    assert all(isinstance(value, float) for value in metrics.values())


def test_the_untrained_backbone_is_the_teachers_architecture_with_weights_of_the_seed(
    models, labelled, tmp_path
) -> None:
    # the fixture's teacher is itself a backbone of random weights from seed 0
    metrics = run(models, labelled, tmp_path / "report", PARAMS.model_copy(update={"pictures": 0}))
    own = {name.removeprefix("teacher."): value for name, value in metrics.items() if name.startswith("teacher.")}
    untrained = {
        name.removeprefix("untrained."): value for name, value in metrics.items() if name.startswith("untrained.")
    }
    assert own == untrained


def test_evaluating_twice_gives_the_same_bytes_and_leaves_the_global_generator_alone(
    models, labelled, tmp_path
) -> None:
    state = torch.random.get_rng_state()
    first = run(models, labelled, tmp_path / "first")
    second = run(models, labelled, tmp_path / "second")
    assert torch.equal(state, torch.random.get_rng_state())
    assert first == second
    names = {one.name for one in (tmp_path / "first").iterdir()}
    assert names == {"index.html", "patches.png", "neighbours.png"}
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_without_labels_there_are_pictures_and_label_free_measures_but_no_scores(models, unlabelled, tmp_path) -> None:
    metrics = run(models, unlabelled, tmp_path / "report")
    assert "teacher.effective_rank" in metrics
    assert not [name for name in metrics if "top1" in name or "classes" in name]
    assert (tmp_path / "report" / "patches.png").exists()
    assert (tmp_path / "report" / "neighbours.png").exists()
    assert "kNN" not in (tmp_path / "report" / "index.html").read_text().split("<p>")[0]


@pytest.mark.parametrize("labels", [False, True])
def test_scores_of_a_single_evaluation_image_are_absent_and_not_zero(
    models, world_of, tmp_path: Path, labels: bool
) -> None:
    metrics = run(models, world_of(12, 1, labels=labels), tmp_path / "report")
    assert metrics == {"images.queries": 1.0, "images.bank": 12.0}
    assert (tmp_path / "report" / "neighbours.png").exists()


def test_two_evaluation_images_are_spread(models, world_of, tmp_path: Path) -> None:
    metrics = run(models, world_of(12, 2, labels=False), tmp_path / "report")
    assert {"teacher.effective_rank", "teacher.uniformity"} <= metrics.keys()


def test_the_page_needs_nothing_but_itself(models, labelled, tmp_path: Path) -> None:
    run(models, labelled, tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert len(sources) == 2
    assert all(one.startswith("data:image/png;base64,") for one in sources)
    assert "<td>teacher</td>" in page


def test_pictures_can_be_left_out(models, labelled, tmp_path: Path) -> None:
    run(models, labelled, tmp_path / "report", PARAMS.model_copy(update={"pictures": 0}))
    assert [one.name for one in (tmp_path / "report").iterdir()] == ["index.html"]
