import logging

import numpy as np
import pyarrow as pa
import pytest

from components.curation.evaluation_sets import (
    EvaluationSet,
    assign,
    leaks_by_set,
    require_usable,
    sets_of_sources,
    sources_with_images,
)
from components.data.manifest import Manifest
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


def lossy() -> Manifest:
    """Two images of flowers, of which one is quarantined; b has only quarantined images, one of them twice."""
    names = {"1": ["flowers/1.jpg"], "2": ["flowers/2.jpg"], "3": ["b/3.jpg", "b/4.jpg"], "5": ["b/5.jpg"]}
    images = [{"id": one, "status": "ok" if one == "1" else "quarantined"} for one in names]
    sources = [{"id": one, "name": name, "split": "eval"} for one, given in names.items() for name in given]
    return Manifest(pa.Table.from_pylist(images), pa.Table.from_pylist(sources), pa.table({}))


@pytest.mark.parametrize(
    ("forgotten", "left", "why"),
    [
        ((), ["flowers"], ["b: 2 quarantined"]),
        (("3",), ["flowers"], ["b: 1 quarantined, 1 forgotten"]),
        (("1",), [], ["flowers: 1 quarantined, 1 forgotten", "b: 2 quarantined"]),
    ],
)
def test_a_source_of_which_no_image_can_be_used_is_left_out_with_the_reason(
    caplog: pytest.LogCaptureFixture, forgotten: tuple[str, ...], left: list[str], why: list[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        assert sources_with_images(["flowers", "b"], lossy(), forgotten) == left
    told = "evaluation source {} is left out: none of its images can be used ({})"
    assert caplog.messages == [told.format(*one.split(": ")) for one in why]


def test_a_set_of_images_that_cannot_be_used_is_told_from_one_that_matches_no_name() -> None:
    require_usable({"flowers": "flowers/*", "birds": "birds/*"}, lossy(), ())
    with pytest.raises(UserError, match=r"the set c matches only evaluation images that cannot be used \(2 quar"):
        require_usable({"flowers": "flowers/*", "the set c": "b/*"}, lossy(), ())


def test_leaks_are_counted_for_each_set_that_they_touch() -> None:
    found = assign(SETS, 0.7, IDS, SOURCES)
    training = np.array([False, False, False, True, True])
    components = np.array([0, 1, 2, 0, 4])  # d leaks from a, which is of both named sets; e is of both parts
    assert leaks_by_set(found, training, components) == {"flowers": 1, "val": 2, "evaluation": 0}
