import numpy as np
import pytest

from components.curation.candidates import candidate_pairs


def unit(rows: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def hashes(rows: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 2**63, rows, dtype=np.uint64)


def found(vectors: np.ndarray, codes: np.ndarray, evaluation: np.ndarray, **more: int) -> set[tuple[int, int]]:
    pairs = candidate_pairs(vectors, codes, evaluation, **{"neighbours": 1, "hash_distance": 3} | more)
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
