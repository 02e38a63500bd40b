import pytest

from components.curation.queries import ALL, QuerySet, query_sets
from components.curation.retrieval import RetrieveParams
from components.errors import UserError
from components.parameters import validate
from tests.unit.curation.test_checks import manifest, sha


def test_without_sets_all_readable_evaluation_images_are_one() -> None:
    assert query_sets(manifest(train=3, evaluation=4), {}, 10, 0) == {
        ALL: sorted(sha(f"eval/cat/{n}.jpg") for n in range(3, 7))
    }


def test_sets_are_named_by_patterns_and_may_share_images() -> None:
    sets = {"cats": QuerySet(match="eval/cat/*"), "five": QuerySet(match="*/5.jpg")}
    found = query_sets(manifest(train=3, evaluation=4), sets, 10, 0)
    assert list(found) == ["cats", "five"]
    assert len(found["cats"]) == 4
    assert found["five"] == [sha("eval/cat/5.jpg")]


def test_a_set_without_a_pattern_is_the_evaluation_source_of_its_name() -> None:
    assert len(query_sets(manifest(train=3, evaluation=4), {"eval": QuerySet()}, 10, 0)["eval"]) == 4
    with pytest.raises(UserError, match=r"retrieve\.sets\.val\.match 'val/\*' fits none"):
        query_sets(manifest(), {"val": QuerySet()}, 10, 0)


def test_each_set_has_its_own_draw() -> None:
    found = query_sets(manifest(evaluation=9), {"a": QuerySet(match="*"), "b": QuerySet(match="*")}, 3, 0)
    assert len(found["a"]) == len(found["b"]) == 3


def test_a_pattern_that_fits_nothing_is_an_error_that_shows_a_name() -> None:
    with pytest.raises(UserError, match=r"retrieve\.sets\.dogs\.match 'dog/\*' fits none of the 2") as caught:
        query_sets(manifest(), {"dogs": QuerySet(match="dog/*")}, 3, 0)
    assert "eval/cat/" in caught.value.remedy


def test_a_misspelt_key_of_a_set_is_named_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r"sets\.pets\.mach.*did you mean 'match'"):
        validate(RetrieveParams, {"sets": {"pets": {"match": "*", "mach": "*"}}}, where="params.yaml")


def test_names_of_sets_can_be_names_of_metrics() -> None:
    with pytest.raises(UserError):
        validate(RetrieveParams, {"sets": {"pets & dogs": {"match": "*"}}}, where="params.yaml")
