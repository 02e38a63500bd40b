import numpy as np
import pytest

from components.curation.retrieval import RetrieveParams, draw_queries, retrieve
from components.errors import UserError


def unit(rows: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def params(**values: object) -> RetrieveParams:
    return RetrieveParams.model_validate({"min_images": 1, "min_share": 0.0, **values})


def test_the_union_of_the_nearest_images_is_chosen() -> None:
    base, queries = unit(200, 0), unit(5, 1)
    found = retrieve(base, queries, params(neighbours=3), "cpu")
    nearest = np.argsort(-(queries @ base.T), axis=1)[:, :3]
    assert np.array_equal(found.neighbours, nearest)
    assert found.rows.tolist() == sorted(set(nearest.reshape(-1).tolist()))
    assert np.allclose(found.similarity, np.take_along_axis(queries @ base.T, nearest, 1), atol=1e-6)


def test_off_topic_images_are_left_out() -> None:
    topic, other = np.eye(8, dtype=np.float32)[:1], np.eye(8, dtype=np.float32)[1:2]
    base = np.concatenate([topic + 0.1 * unit(40, 2), other + 0.1 * unit(10, 3)])
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    found = retrieve(base, topic + 0.1 * unit(20, 4), params(neighbours=8), "cpu")
    assert (found.rows < 40).all()
    assert len(found.rows) > 30


def test_neighbours_are_doubled_until_enough_is_kept() -> None:
    found = retrieve(unit(100, 0), unit(2, 1), params(neighbours=2, min_share=0.5), "cpu")
    assert len(found.rows) >= 50
    assert found.neighbours.shape[1] in (32, 64)


def test_more_neighbours_than_images_chooses_all() -> None:
    assert len(retrieve(unit(10, 0), unit(1, 1), params(neighbours=50), "cpu").rows) == 10


def test_mode_all_keeps_everything_and_scores_it() -> None:
    found = retrieve(unit(50, 0), unit(3, 1), params(mode="all", neighbours=2), "cpu")
    assert found.rows.tolist() == list(range(50))
    assert found.neighbours.shape == (3, 2)


def test_mode_all_needs_no_queries() -> None:
    assert len(retrieve(unit(5, 0), unit(0, 1), params(mode="all"), "cpu").rows) == 5


@pytest.mark.parametrize(("images", "remedy"), [(5, "give more images"), (500, "raise retrieve.neighbours")])
def test_too_few_images_are_an_error_with_a_remedy(images: int, remedy: str) -> None:
    with pytest.raises(UserError, match=r"fewer than retrieve\.min_images 20") as caught:
        retrieve(unit(images, 0), unit(1, 1), params(neighbours=3, min_images=20), "cpu")
    assert remedy in caught.value.remedy


def test_queries_are_drawn_the_same_whatever_the_order_and_change_little_with_new_images() -> None:
    ids = [f"{number:03d}" for number in range(300)]
    drawn = draw_queries(ids, 50, seed=0)
    assert drawn == draw_queries(ids[::-1], 50, seed=0) == sorted(drawn)
    assert drawn != draw_queries(ids, 50, seed=1)
    grown = draw_queries([*ids, *(f"new{number}" for number in range(30))], 50, seed=0)
    assert len(set(drawn) & set(grown)) >= 38
    assert draw_queries(ids[:3], 50, seed=0) == ids[:3]
