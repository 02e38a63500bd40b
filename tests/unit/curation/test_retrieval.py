import numpy as np
import pytest

from components.curation import retrieval as module
from components.curation.queries import draw_queries
from components.curation.retrieval import Retrieved, RetrieveParams, retrieve
from components.errors import UserError
from components.features.search import top_k


def unit(rows: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def params(**values: object) -> RetrieveParams:
    return RetrieveParams.model_validate({"mode": "knn", "min_images": 1, "min_share": 0.0, **values})


def around(axis: int, rows: int, seed: int) -> np.ndarray:
    """Vectors near one of the axes."""
    vectors = np.eye(8, dtype=np.float32)[axis] + 0.1 * unit(rows, seed)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def of(found: Retrieved, name: str) -> dict[str, object]:
    return next(one for one in found.sets if one.name == name)._asdict()


def test_the_union_of_the_nearest_images_is_chosen() -> None:
    base, queries = unit(200, 0), unit(5, 1)
    found = retrieve(base, {"all": queries}, params(neighbours=3), "cpu")
    nearest = np.argsort(-(queries @ base.T), axis=1)[:, :3]
    assert np.array_equal(found.neighbours, nearest)
    assert found.rows.tolist() == sorted(set(nearest.reshape(-1).tolist()))
    assert np.allclose(found.similarity, np.take_along_axis(queries @ base.T, nearest, 1), atol=1e-6)


def test_off_topic_images_are_left_out() -> None:
    base = np.concatenate([around(0, 40, 2), around(1, 10, 3)])
    found = retrieve(base, {"all": around(0, 20, 4)}, params(neighbours=8), "cpu")
    assert (found.rows < 40).all()
    assert len(found.rows) > 30


def test_neighbours_are_doubled_until_enough_is_kept() -> None:
    found = retrieve(unit(100, 0), {"all": unit(2, 1)}, params(neighbours=2, min_share=0.5), "cpu")
    assert len(found.rows) >= 50
    assert found.reach in (32, 64)
    assert found.neighbours.shape == (2, 2), "what is brought in for min_share alone is not recorded"


def doubled_by_hand(base: np.ndarray, queries: np.ndarray, k: int, share: float, cap: int | None) -> tuple[int, list]:
    """The whole similarity of all with all, and one more look at it for every doubling."""
    similarity = queries @ base.T
    ranks = np.argsort(np.argsort(-similarity, axis=1, kind="stable"), axis=1)
    while True:
        near = ranks < k
        best = [(ranks[near[:, row], row].min(), row) for row in near.any(axis=0).nonzero()[0].tolist()]
        order = sorted(best, key=lambda one: (one[0], -similarity[ranks[:, one[1]] == one[0], one[1]].max()))
        rows = sorted(row for _, row in order[:cap])
        if len(rows) >= share * len(base) or (cap is not None and len(order) >= cap) or k >= len(base):
            return k, rows
        k = min(2 * k, len(base))


@pytest.mark.parametrize("ranked", [1, 1000, 1 << 22], ids=["each query", "some", "all queries"])
@pytest.mark.parametrize(("share", "cap"), [(0.3, None), (0.8, None), (1.0, None), (0.8, 60)])
def test_one_ranking_brings_in_what_a_search_for_every_doubling_does(
    share: float, cap: int | None, ranked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RANKED", ranked)
    base, queries = unit(300, 0), unit(7, 1)
    found = retrieve(base, {"all": queries}, params(neighbours=3, min_share=share, cap=cap), "cpu")
    assert (found.reach, found.rows.tolist()) == doubled_by_hand(base, queries, 3, share, cap)


def test_the_images_are_searched_once_however_often_the_reach_is_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(module, "top_k", lambda some, base, k: asked.append(k) or top_k(some, base, k), raising=True)
    retrieve(unit(400, 0), {"all": unit(2, 1)}, params(neighbours=2, min_share=0.9), "cpu")
    assert asked == [2]


def test_more_neighbours_than_can_be_recorded_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_NEIGHBOURS", 60)
    with pytest.raises(UserError, match=r"7 queries with 9 neighbours each.*lower retrieve\.queries"):
        retrieve(unit(100, 0), {"all": unit(7, 1)}, params(neighbours=9), "cpu")
    assert retrieve(unit(8, 0), {"all": unit(7, 1)}, params(neighbours=9), "cpu").neighbours.shape == (7, 8)


def test_more_neighbours_than_images_chooses_all() -> None:
    assert len(retrieve(unit(10, 0), {"all": unit(1, 1)}, params(neighbours=50), "cpu").rows) == 10


def test_sets_of_which_auto_would_make_nothing_are_an_error() -> None:
    chosen = params(mode="auto", sets={"pets": {"match": "pets/*"}})
    assert chosen.resolved(own_evaluation=True).mode == "knn"
    with pytest.raises(UserError, match=r"retrieve\.sets.*--eval"):
        chosen.resolved(own_evaluation=False)
    assert params(mode="auto").resolved(own_evaluation=False).mode == "all"


def test_mode_all_keeps_everything_and_scores_it() -> None:
    found = retrieve(unit(50, 0), {"all": unit(3, 1)}, params(mode="all", neighbours=2), "cpu")
    assert found.rows.tolist() == list(range(50))
    assert found.neighbours.shape == (3, 2)


def test_mode_all_needs_no_queries() -> None:
    assert len(retrieve(unit(5, 0), {"all": unit(0, 1)}, params(mode="all"), "cpu").rows) == 5


@pytest.mark.parametrize(("images", "remedy"), [(5, "give more images"), (500, "raise retrieve.neighbours")])
def test_too_few_images_are_an_error_with_a_remedy(images: int, remedy: str) -> None:
    with pytest.raises(UserError, match=r"fewer than retrieve\.min_images 20") as caught:
        retrieve(unit(images, 0), {"all": unit(1, 1)}, params(neighbours=3, min_images=20), "cpu")
    assert remedy in caught.value.remedy


def test_each_set_is_accounted_for() -> None:
    base = np.concatenate([around(0, 30, 2), around(1, 30, 3), around(2, 30, 4)])
    queries = {"a": around(0, 4, 5), "both": np.concatenate([around(0, 4, 5), around(1, 3, 6)])}
    found = retrieve(base, queries, params(neighbours=5), "cpu")
    near = {name: {*np.argsort(-(some @ base.T), axis=1)[:, :5].ravel().tolist()} for name, some in queries.items()}
    assert set(found.rows.tolist()) == near["a"] | near["both"]
    assert of(found, "a") == {
        "name": "a", "mode": "knn", "queries": 4, "clusters": 0,
        "available": len(near["a"]), "brought": len(near["a"]), "alone": 0,
    }  # fmt: skip
    assert of(found, "both")["alone"] == len(near["both"] - near["a"]) > 0
    assert found.neighbours.shape == (11, 5)


def test_a_cap_keeps_the_best_ranks() -> None:
    base, queries = unit(300, 0), unit(6, 1)
    found = retrieve(base, {"all": queries}, params(neighbours=4, cap=6), "cpu")
    nearest = np.argsort(-(queries @ base.T), axis=1)
    assert found.rows.tolist() == sorted(nearest[:, 0].tolist()), "six queries, six different nearest images"
    assert of(found, "all")["available"] == len(np.unique(nearest[:, :4]))


def test_capped_sets_are_not_searched_farther_for_min_share() -> None:
    found = retrieve(unit(100, 0), {"all": unit(2, 1)}, params(neighbours=2, min_share=0.9, cap=3), "cpu")
    assert len(found.rows) == 3
    assert found.neighbours.shape[1] == 2


def test_queries_vote_for_clusters() -> None:
    base = np.concatenate([around(axis, 50, axis) for axis in range(4)])
    queries = np.concatenate([around(0, 5, 10), around(1, 3, 11), around(2, 4, 12)])
    votes = {"clusters": 4, "least": 4, "images": 20}
    found = retrieve(base, {"all": queries}, params(mode="clusters", votes=votes), "cpu")
    drawn = np.bincount(found.rows // 50, minlength=4)
    assert drawn.tolist() == [20, 0, 20, 0], "three votes are too few"
    account = of(found, "all")
    assert (account["clusters"], account["available"], account["brought"]) == (2, 40, 40)
    assert found.clusters is not None
    assert len(np.unique(found.clusters)) == 4


def test_a_cap_takes_alike_from_the_clusters_of_a_set() -> None:
    base = np.concatenate([around(axis, size, axis) for axis, size in enumerate((90, 30, 5))])
    queries = np.concatenate([around(axis, 4, 10 + axis) for axis in range(3)])
    found = retrieve(base, {"all": queries}, params(mode="clusters", cap=45, votes={"clusters": 3}), "cpu")
    assert np.bincount(np.searchsorted([90, 120, 125], found.rows, side="right")).tolist() == [20, 20, 5]
    assert of(found, "all")["available"] == 125


def test_a_set_may_be_retrieved_in_another_way() -> None:
    base = np.concatenate([around(axis, 50, axis) for axis in range(3)])
    queries = {"few": around(0, 5, 10), "many": around(1, 5, 11)}
    sets = {"few": {"match": "few/*", "mode": "clusters", "cap": 7}, "many": {"match": "many/*"}}
    found = retrieve(base, queries, params(sets=sets, neighbours=3, votes={"clusters": 3}), "cpu")
    assert (of(found, "few")["mode"], of(found, "few")["brought"]) == ("clusters", 7)
    assert of(found, "many")["mode"] == "knn"
    assert (found.rows < 50).sum() == 7


def test_balanced_needs_no_queries_and_evens_out() -> None:
    base = np.concatenate([around(axis, size, axis) for axis, size in enumerate((1600, 200, 100, 100))])
    found = retrieve(base, {}, params(mode="balanced", balanced={"share": 0.2, "levels": [80, 8]}), "cpu")
    drawn = np.bincount(np.searchsorted([1600, 1800, 1900, 2000], found.rows, side="right"), minlength=4)
    assert drawn.sum() == 400
    assert drawn[0] < 160, "320 in the mean of uniform draws"
    assert drawn[1:].min() >= 40, "20 in the mean of uniform draws"
    assert found.sets == ()


@pytest.mark.parametrize("mode", ["knn", "clusters", "balanced"])
def test_the_seed_decides(mode: str) -> None:
    base, queries = unit(400, 0), {"all": unit(60, 1)}

    def rows(seed: int) -> list[int]:
        values = {"least": 1, "clusters": 40, "images": 5}
        return retrieve(base, queries, params(mode=mode, votes=values, seed=seed), "cpu").rows.tolist()

    assert rows(0) == rows(0)
    assert (rows(0) == rows(1)) == (mode == "knn")


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"mode": "balanced", "balanced": {"share": 0.01}}, "raise retrieve.balanced.share"),
        ({"mode": "clusters", "votes": {"least": 9}}, "lower retrieve.votes.least"),
    ],
)
def test_the_remedy_fits_the_mode(values: dict[str, object], remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        retrieve(unit(100, 0), {"all": unit(5, 1)}, params(min_images=10, **values), "cpu")
    assert remedy in caught.value.remedy


def test_queries_are_drawn_the_same_whatever_the_order_and_change_little_with_new_images() -> None:
    ids = [f"{number:03d}" for number in range(300)]
    drawn = draw_queries(ids, 50, seed=0)
    assert drawn == draw_queries(ids[::-1], 50, seed=0) == sorted(drawn)
    assert drawn != draw_queries(ids, 50, seed=1)
    grown = draw_queries([*ids, *(f"new{number}" for number in range(30))], 50, seed=0)
    assert len(set(drawn) & set(grown)) >= 38
    assert draw_queries(ids[:3], 50, seed=0) == ids[:3]
