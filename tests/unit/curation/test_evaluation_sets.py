import numpy as np
import pyarrow as pa
import pytest

from components.curation.evaluation_sets import EvaluationSet, assign, leaks_by_set, sets_of_sources
from components.errors import UserError

SETS = (
    EvaluationSet(name="flowers", pattern="flowers/*", leak_threshold=0.5),
    EvaluationSet(name="val", pattern="*/val/*", leak_threshold=0.4),
)
IDS = ["a", "b", "c", "d", "e"]
SOURCES = pa.Table.from_pylist(
    [
        {"id": "a", "name": "flowers/val/1.jpg", "split": "eval"},
        {"id": "b", "name": "flowers/2.jpg", "split": "eval"},
        {"id": "c", "name": "streets/3.jpg", "split": "eval"},
        {"id": "d", "name": "flowers/4.jpg", "split": "train"},
        {"id": "e", "name": "streets/5.jpg", "split": "train"},
        {"id": "e", "name": "streets/val/5.jpg", "split": "eval"},
        {"id": "quarantined", "name": "flowers/6.jpg", "split": "eval"},
    ]
)


def test_images_are_of_the_sets_that_their_names_match_and_else_of_the_rest() -> None:
    found = assign(SETS, 0.7, IDS, SOURCES)
    assert found.names == ("flowers", "val", "evaluation")
    assert found.members.tolist() == [
        [True, True, False, False, False],
        [True, False, False, False, True],
        [False, False, True, False, False],
    ]
    assert found.evaluation.tolist() == [True, True, True, False, True]


def test_an_image_of_two_sets_has_the_lower_threshold() -> None:
    assert assign(SETS, 0.7, IDS, SOURCES).threshold.tolist() == [0.4, 0.5, 0.7, 2.0, 0.4]


def test_a_set_without_a_pattern_is_the_evaluation_source_of_its_name() -> None:
    found = [
        assign((EvaluationSet(name="flowers", pattern=one, leak_threshold=0.5),), 0.7, IDS, SOURCES).members.tolist()
        for one in (None, "flowers/*")
    ]
    assert found[0] == found[1]


def test_each_of_several_sources_is_a_set_and_one_named_as_the_rest_is_the_rest() -> None:
    found = assign(sets_of_sources(["evaluation", "flowers"], 0.7), 0.7, IDS, SOURCES)
    assert found.names == ("flowers", "evaluation")
    assert found.threshold.tolist() == [0.7, 0.7, 0.7, 2.0, 0.7]


def test_without_sets_all_evaluation_images_are_one() -> None:
    found = assign((), 0.7, IDS, SOURCES)
    assert found.names == ("evaluation",)
    assert found.threshold.tolist() == [0.7, 0.7, 0.7, 2.0, 0.7]


def test_a_set_without_images_is_a_mistake() -> None:
    with pytest.raises(UserError, match=r"birds/\* of the set birds"):
        assign((EvaluationSet(name="birds", pattern="birds/*", leak_threshold=0.5),), 0.7, IDS, SOURCES)


def test_leaks_are_counted_for_each_set_that_they_touch() -> None:
    found = assign(SETS, 0.7, IDS, SOURCES)
    training = np.array([False, False, False, True, True])
    components = np.array([0, 1, 2, 0, 4])  # d leaks from a, which is of both named sets; e is of both parts
    assert leaks_by_set(found, training, components) == {"flowers": 1, "val": 2, "evaluation": 0}
