from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.curation import audit
from components.curation.audit import CURATED_REMEDY, AuditParams, Curation, check_curated, check_embeddings
from components.curation.expectations import require
from components.errors import UserError
from tests.curations import Made, make


@pytest.fixture(scope="module")
def made() -> Made:
    return make()


def embedding_failures(curation: Curation, **bounds: Any) -> dict[str, list[str]]:
    """Names of the images that fail, by what they fail."""
    results = check_embeddings(curation, AuditParams.model_validate(bounds))
    return {one.meaning: [row.name for row in one.rows] for one in results if not one.success}


def curated_failures(curation: Curation, labels: list[int] | None = None, **bounds: Any) -> dict[str, list[str]]:
    clusters = np.array(labels if labels is not None else [n % 4 for n in range(len(curation.curated))])
    results = check_curated(curation, clusters, AuditParams.model_validate(bounds))
    return {one.meaning: [row.id for row in one.rows] for one in results if not one.success}


def with_vector(made: Made, values: Any) -> tuple[Curation, str]:
    """The curation with another first vector, and the name of its image."""
    vectors = made.curation.vectors.copy()
    vectors[0] = values
    image = made.curation.ids[0]
    names = made.curation.manifest.sources.to_pylist()
    return replace(made.curation, vectors=vectors), next(row["name"] for row in names if row["id"] == image)


def test_good_embeddings_pass(made: Made) -> None:
    assert embedding_failures(made.curation) == {}


def test_a_vector_of_another_length_is_named(made: Made) -> None:
    curation, name = with_vector(made, made.curation.vectors[0] * 2)
    assert embedding_failures(curation) == {"vectors have length 1, within 0.01": [name]}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_no_numbers_is_named(made: Made, value: float) -> None:
    curation, name = with_vector(made, value)
    assert embedding_failures(curation)["every number is finite"] == [name]


def test_an_image_without_a_vector_is_named(made: Made) -> None:
    curation = replace(made.curation, ids=made.curation.ids[1:], vectors=made.curation.vectors[1:])
    assert len(embedding_failures(curation)["every readable image has one vector"]) == 1


def test_a_collapsed_embedder_is_found(made: Made) -> None:
    vectors = made.curation.vectors * 0.01 + np.eye(16, dtype=np.float32)[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    failed = embedding_failures(replace(made.curation, vectors=vectors))
    assert set(failed) == {
        "vectors have an effective rank of 4 at least",
        "two images have a mean cosine of 0.98 at most",
    }


def test_a_good_set_passes(made: Made) -> None:
    assert curated_failures(made.curation) == {}


def test_a_leak_is_named(made: Made) -> None:
    leak = made.ids[35]
    failed = curated_failures(replace(made.curation, curated=[*made.curation.curated, leak]))
    assert failed["no image shows what an evaluation image shows"] == [leak]
    assert failed["every image was kept by deduplication"] == [leak]


def test_an_evaluation_image_is_named(made: Made) -> None:
    one = made.ids[37]
    failed = curated_failures(replace(made.curation, curated=[*made.curation.curated, one]))
    assert failed["no image is of the evaluation part"] == [one]
    assert failed["every image was kept by deduplication"] == [one], "also one that deduplication never saw"


def test_copies_of_each_other_are_named(made: Made) -> None:
    failed = curated_failures(replace(made.curation, curated=[*made.curation.curated, made.ids[31]]))
    assert sorted(failed["no two images are copies of each other"]) == sorted([made.ids[30], made.ids[31]])


def test_a_quarantined_image_and_one_that_is_there_twice_are_named(made: Made) -> None:
    broken, twice = made.ids[-1], made.curation.curated[0]
    failed = curated_failures(replace(made.curation, curated=[*made.curation.curated, broken, twice]))
    assert failed["every image can be read"] == [broken]
    assert failed["every image is there once"] == [twice]


def test_too_few_images_are_found(made: Made) -> None:
    assert list(curated_failures(made.curation, min_images=28)) == ["there are at least 28 images"]


def test_a_set_of_one_thing_is_found(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    count = len(made.curation.curated)
    labels = [0] * (count - 9) + [1, 2, 3] * 3
    assert curated_failures(made.curation, labels) == {}, "so few images are of few kinds, and may be"
    monkeypatch.setattr(audit, "LEAST", 1)
    assert list(curated_failures(made.curation, labels)) == ["no cluster holds more than 50 % of the images"]
    assert curated_failures(made.curation, labels, max_cluster=0.9) == {}
    assert curated_failures(made.curation, [0] * count, clusters=1) == {}, "one cluster holds all"


def test_the_error_names_image_and_id_and_data_docs_are_made(made: Made, tmp_path: Path) -> None:
    leak = made.ids[35]
    curation = replace(made.curation, curated=[*made.curation.curated, leak], pairs=made.curation.pairs)
    results = check_curated(curation, np.zeros(len(curation.curated), int), AuditParams(), tmp_path)
    with pytest.raises(UserError, match=rf"train/35\.jpg \({leak[:12]}\)"):
        require(results, subject="the curated images", remedy=CURATED_REMEDY)
    assert (tmp_path / "index.html").exists()


def test_no_pairs_at_all_are_fine(made: Made) -> None:
    assert curated_failures(replace(made.curation, pairs=made.curation.pairs.slice(0, 0))) == {}
