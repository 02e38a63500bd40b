import numpy as np
import pytest

from components.curation.candidates import Search, candidate_pairs
from components.features.components import connected_components


def unit(rows: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def hashes(rows: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 2**63, rows, dtype=np.uint64)


EXACT, INVERTED = Search(exact_up_to=100_000, probes=1), Search(exact_up_to=0, probes=1000)


@pytest.fixture(params=[EXACT, INVERTED], ids=["exact", "faiss"], autouse=True)
def search(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Search:
    """All cells of an inverted file hold what the exact search finds."""
    monkeypatch.setitem(globals(), "SEARCH", request.param)
    return request.param


SEARCH = EXACT


def found(vectors: np.ndarray, codes: np.ndarray, evaluation: np.ndarray, **more: int) -> set[tuple[int, int]]:
    chosen = {"neighbours": 1, "hash_distance": 3} | more
    pairs, recall = candidate_pairs([vectors], codes, np.atleast_2d(evaluation), **chosen, search=SEARCH)
    assert recall == 1.0
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs)
    return {(int(first), int(second)) for first, second in pairs}


def test_the_nearest_training_images_are_candidates() -> None:
    vectors = np.concatenate([unit(20), unit(20)])
    pairs = found(vectors, hashes(40), np.zeros(40, bool))
    assert {(number, number + 20) for number in range(20)} <= pairs


def test_an_evaluation_image_is_compared_with_training_images_though_others_are_nearer() -> None:
    one = unit(1)
    vectors = np.concatenate([one, one, one, unit(10, seed=3), one + 0.05])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    evaluation = np.array([True, True, True] + [False] * 11)
    pairs = found(vectors.astype(np.float32), hashes(14), evaluation)
    assert {(0, 13), (1, 13), (2, 13)} <= pairs


def test_two_evaluation_images_are_never_compared() -> None:
    evaluation = np.array([True] * 6 + [False] * 6)
    codes = np.zeros(12, np.uint64)
    pairs = found(unit(12), codes, evaluation)
    assert pairs
    assert not any(evaluation[first] and evaluation[second] for first, second in pairs)


@pytest.mark.parametrize(("bits", "expected"), [(3, True), (4, False)])
def test_hashes_that_differ_in_few_bits_are_candidates(bits: int, expected: bool) -> None:
    codes = hashes(30)
    codes[29] = codes[3] ^ np.uint64((1 << bits) - 1)
    vectors = unit(30)
    vectors[29] = -vectors[3]
    assert ((3, 29) in found(vectors, codes, np.zeros(30, bool))) == expected


def test_many_images_of_one_hash_are_chained() -> None:
    pairs = found(unit(200), np.zeros(200, np.uint64), np.zeros(200, bool))
    assert {(number, number + 1) for number in range(199)} <= pairs
    assert len(pairs) < 199 + 200


def test_without_evaluation_images_there_are_still_candidates() -> None:
    assert found(unit(2), hashes(2), np.zeros(2, bool)) == {(0, 1)}


def frames_of_a_fixed_camera(rows: int, seed: int = 2) -> np.ndarray:
    """Different hashes of which each is within 6 bits of each other."""
    rng = np.random.default_rng(seed)
    places = np.array([rng.choice(64, 3, replace=False) for _ in range(4 * rows)]).astype(np.uint64)
    flips = np.bitwise_or.reduce(np.uint64(1) << places, axis=1)
    return np.uint64(0x123456789ABCDEF0) ^ rng.permutation(np.unique(flips))[:rows]


def by_hash(codes: np.ndarray, evaluation: np.ndarray, neighbours: int, distance: int = 6) -> set[tuple[int, int]]:
    """Pairs of images whose embeddings have nothing in common."""
    vectors = np.eye(len(codes) + 1, dtype=np.float32)[:-1]
    return found(vectors, codes, evaluation, neighbours=neighbours, hash_distance=distance)


def test_frames_that_are_all_alike_are_not_paired_all_with_all() -> None:
    codes = frames_of_a_fixed_camera(1500)
    pairs = by_hash(codes, np.zeros(1500, bool), 8)
    assert len(pairs) <= 2 * 8 * 1500  # half by hash, half by embedding; all with all would be a million
    assert {number for pair in pairs for number in pair} == set(range(1500))


def test_of_many_like_hashes_the_nearest_are_candidates_and_of_equally_near_ones_the_first() -> None:
    codes = frames_of_a_fixed_camera(300)
    distance = np.bitwise_count(codes[:, None] ^ codes[None]).astype(int)
    np.fill_diagonal(distance, 99)
    expected = {
        (min(one, other), max(one, other))
        for one in range(300)
        for other in distance[one].argsort(kind="stable")[:5].tolist()
    }
    nothing_in_common = by_hash(np.arange(300, dtype=np.uint64) << np.uint64(40), np.zeros(300, bool), 5, distance=0)
    assert by_hash(codes, np.zeros(300, bool), 5) == expected | nothing_in_common


def test_below_the_bound_every_pair_of_like_hashes_is_a_candidate() -> None:
    codes = frames_of_a_fixed_camera(40)
    pairs = by_hash(codes, np.zeros(40, bool), 39)
    assert len(pairs) == 40 * 39 // 2


def test_evaluation_frames_crowd_no_training_frame_out() -> None:
    """A leak is found by its hash though hundreds of evaluation frames are as near, and others nearer by embedding."""
    alike = frames_of_a_fixed_camera(301)
    codes = np.concatenate([alike, ~frames_of_a_fixed_camera(50, seed=4)])
    evaluation = np.arange(351) < 300  # the 301st frame is the leak
    vectors = unit(351)
    vectors[300] = -vectors[:300].mean(axis=0) / np.linalg.norm(vectors[:300].mean(axis=0))
    pairs = found(vectors, codes, evaluation, neighbours=2, hash_distance=6)
    assert {(number, 300) for number in range(300)} <= pairs


def test_a_large_evaluation_set_hides_no_leak_of_a_small_one() -> None:
    """Many training images are nearer to the one image of the small set, and many of the large set to the leak."""
    rng = np.random.default_rng(6)
    leak, of_small = unit(1), unit(1, seed=8)
    of_small = leak + 0.5 * of_small
    vectors = np.concatenate([
        leak, of_small, leak + 0.01 * rng.normal(size=(20, 16)), of_small + 0.01 * rng.normal(size=(20, 16)),
    ])  # fmt: skip
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    sets = np.zeros((2, 42), bool)
    sets[0, 1], sets[1, 2:22] = True, True
    assert (0, 1) not in found(vectors, hashes(42), sets.any(axis=0), neighbours=4)
    assert (0, 1) in found(vectors, hashes(42), sets, neighbours=4)
    near = np.uint64(0xFFFF0000FFFF0000)
    codes = np.array([near, near ^ np.uint64(0b111), *(near ^ np.uint64(1 << bit) for bit in range(8, 28)),
                      *(near ^ np.uint64(0b111 | 1 << bit) for bit in range(30, 50))], np.uint64)  # fmt: skip
    apart = unit(42, seed=9)
    apart[1] = -apart[0]
    assert (0, 1) not in found(apart, codes, sets.any(axis=0), neighbours=4)
    assert (0, 1) in found(apart, codes, sets[::-1], neighbours=4)


def test_images_of_one_hash_stay_connected_whatever_the_bound() -> None:
    codes = np.concatenate([np.repeat(frames_of_a_fixed_camera(1), 50), frames_of_a_fixed_camera(200, seed=3)])
    pairs = np.array(sorted(by_hash(codes, np.zeros(len(codes), bool), 1)))
    assert len(set(connected_components(len(codes), pairs)[:50].tolist())) == 1


def test_every_training_frame_near_an_evaluation_frame_is_a_candidate_however_many_there_are() -> None:
    """500 leaks of one image, which itself looks at two: by embedding, and by hash."""
    rng = np.random.default_rng(5)
    vectors = unit(503)
    vectors[1:501] = vectors[0] + 0.05 * rng.normal(size=(500, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    evaluation = np.isin(np.arange(503), [0, 501, 502])
    leaks = {(0, number) for number in range(1, 501)}
    assert leaks <= found(vectors.astype(np.float32), hashes(503), evaluation, neighbours=2)
    codes = np.concatenate([frames_of_a_fixed_camera(501), ~frames_of_a_fixed_camera(2, seed=4)])
    assert leaks <= by_hash(codes, evaluation, 2)


def test_an_inverted_file_of_which_one_cell_is_searched_gives_valid_pairs_and_less_recall() -> None:
    vectors, codes = unit(3000), hashes(3000)
    codes[1] = codes[0] ^ np.uint64(1)
    evaluation = np.arange(3000) >= 2900
    arguments = {"neighbours": 4, "hash_distance": 3}
    pairs, recall = candidate_pairs(
        [vectors], codes, evaluation[None], **arguments, search=Search(exact_up_to=100, probes=1)
    )
    exact, _ = candidate_pairs([vectors], codes, evaluation[None], **arguments, search=EXACT)
    assert 0.1 < recall < 0.95
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    assert pairs.min() >= 0
    assert pairs.max() < 3000
    assert not evaluation[pairs].all(axis=1).any()
    found = {(one, other) for one, other in pairs.tolist()}
    assert (0, 1) in found, "hashes are searched exactly"
    missed = {(one, other) for one, other in exact.tolist()} - found
    assert 0 < len(missed) < 0.9 * len(exact)
