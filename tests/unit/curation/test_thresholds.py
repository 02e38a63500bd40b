from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.curation.thresholds import ScoredPairs, curve, draw_curve, recall_by_transform, suggest


def pairs(*rows: tuple[float, bool, str | None]) -> ScoredPairs:
    names = [str(number) for number in range(len(rows))]
    score, same, transform = zip(*rows, strict=True)
    return ScoredPairs(names, names, np.array(score, np.float32), np.array(same), list(transform))


PAIRS = pairs(
    (0.9, True, "flip"), (0.8, True, "flip"), (0.6, True, "text"), (0.2, True, "text"), (0.7, False, None),
    (0.5, False, None), (0.1, False, None),
)  # fmt: skip


def at(threshold: float) -> dict[str, float]:
    [row] = [one for one in curve(PAIRS).to_pylist() if one["threshold"] == threshold]
    return row


def test_precision_and_recall_are_of_the_pairs_that_reach_the_threshold() -> None:
    assert at(0.6) == pytest.approx({"threshold": 0.6, "recall": 0.75, "precision": 0.75, "copies": 3, "others": 1})
    assert at(0.71) == pytest.approx({"threshold": 0.71, "recall": 0.5, "precision": 1.0, "copies": 2, "others": 0})


def test_where_nothing_is_found_there_is_no_precision() -> None:
    assert at(0.95)["precision"] is None
    assert at(0.95)["recall"] == 0.0


def test_the_suggestion_has_the_recall_of_the_lowest_threshold_at_which_precision_stays() -> None:
    best = suggest(curve(PAIRS), 0.99)
    assert best is not None
    assert best["threshold"] == pytest.approx(0.8)
    assert best["recall"] == at(0.71)["recall"] == 0.5


def test_a_hundredth_of_the_recall_is_given_for_a_safer_threshold() -> None:
    many = [(0.9, True, None)] * 199 + [(0.6, True, None), (0.3, False, None)]
    best = suggest(curve(pairs(*many)), 0.999)
    assert best is not None
    assert best["threshold"] == pytest.approx(0.9)


def test_without_copies_that_stand_out_there_is_no_suggestion() -> None:
    assert suggest(curve(pairs((0.5, True, None), (0.5, False, None))), 0.9) is None
    assert suggest(curve(pairs((0.0, True, None), (0.9, False, None))), 0.5) is None


def test_recall_is_told_by_transformation() -> None:
    assert recall_by_transform(PAIRS, 0.6) == {"flip": 1.0, "text": 0.5}


def test_pairs_that_look_most_like_mistakes_come_first() -> None:
    table = PAIRS.table()
    assert table["same"].to_pylist() == [False] * 3 + [True] * 4
    assert table["score"].to_pylist() == pytest.approx([0.7, 0.5, 0.1, 0.9, 0.8, 0.6, 0.2])


@pytest.mark.parametrize("suggested", [None, 0.71])
def test_the_curve_is_a_picture(tmp_path: Path, suggested: float | None) -> None:
    draw_curve(curve(PAIRS), tmp_path / "curve.png", measure="cosine", suggested=suggested)
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.width > 300
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20
