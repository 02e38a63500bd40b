from typing import Any

import pyarrow as pa
import pytest

from components.curation.scoring import score_deduplication, score_retrieval

TRUTH = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("name", pa.string()),
        ("kind", pa.string()),
        ("original", pa.string()),
        ("transform", pa.string()),
        ("negative_kind", pa.string()),
    ]
)


def truth(*rows: dict[str, Any]) -> pa.Table:
    filled = [{"split": "train", "kind": "image", "name": row["id"].upper(), **row} for row in rows]
    return pa.Table.from_pylist(filled, schema=TRUTH)


def copy(one: str, original: str, transform: str = "flip", kind: str = "copy") -> dict[str, Any]:
    return {"id": one, "kind": kind, "original": original, "transform": transform}


def groups(**components: str) -> pa.Table:
    """Image = component, or component with a trailing `!` for a leak."""
    rows = [
        {
            "id": one,
            "component": found.rstrip("!"),
            "kept": found == one,
            "reason": "leak" if found.endswith("!") else "unique" if found == one else "duplicate",
        }
        for one, found in components.items()
    ]
    return pa.Table.from_pylist(rows)


def test_all_found_and_nothing_else_scores_one() -> None:
    scores = score_deduplication(groups(a="a", b="a", c="c"), truth({"id": "a"}, copy("b", "A"), {"id": "c"}))
    assert scores == {"precision": 1.0, "recall": 1.0, "recall.flip": 1.0}


def test_a_group_of_three_counts_as_three_pairs() -> None:
    rows = truth({"id": "a"}, copy("b", "A"), copy("c", "A", "jpeg30"), {"id": "d"})
    scores = score_deduplication(groups(a="a", b="a", c="c", d="a"), rows)
    assert scores["precision"] == pytest.approx(1 / 3)
    assert scores["recall"] == pytest.approx(1 / 3)
    assert (scores["recall.flip"], scores["recall.jpeg30"]) == (1.0, 0.0)


def test_leaks_are_scored_apart() -> None:
    rows = truth(
        {"id": "e", "split": "eval"},
        copy("a", "E", kind="leak"),
        copy("b", "E", "text", kind="leak"),
        {"id": "c"},
    )
    scores = score_deduplication(groups(a="e!", b="b", c="e!"), rows)
    assert scores["leak_precision"] == 0.5
    assert scores["leak_recall"] == 0.5
    assert (scores["recall.flip"], scores["recall.text"]) == (1.0, 0.0)


def test_hard_negatives_survive_unless_joined_with_their_original() -> None:
    rows = truth(
        {"id": "a"},
        {"id": "b", "kind": "negative", "original": "A", "negative_kind": "pose"},
        {"id": "c", "kind": "negative", "original": "A", "negative_kind": "pose"},
    )
    assert score_deduplication(groups(a="a", b="b", c="a"), rows)["survived.pose"] == 0.5


def test_what_has_no_cases_is_absent() -> None:
    assert score_deduplication(groups(a="a", b="b"), truth({"id": "a"}, {"id": "b"})) == {}


def test_broken_files_and_images_without_truth_do_not_count() -> None:
    rows = truth({"id": "a"}, copy("b", "A"), {"id": "x", "kind": "broken"})
    scores = score_deduplication(groups(a="a", b="a", y="a"), rows)
    assert scores["precision"] == 1.0


def test_retrieval_is_scored_by_what_it_drops_and_keeps() -> None:
    rows = truth({"id": "a"}, {"id": "b"}, {"id": "x", "kind": "off_topic"}, {"id": "y", "kind": "off_topic"})
    scores = score_retrieval({"a", "x"}, {"a", "b", "x", "y"}, rows)
    assert scores == {"off_topic_dropped": 0.5, "on_topic_kept": 0.5}


def test_retrieval_without_off_topic_pictures_has_no_score_for_them() -> None:
    assert score_retrieval({"a"}, {"a"}, truth({"id": "a"})) == {"on_topic_kept": 1.0}
