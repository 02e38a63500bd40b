"""The gate lets nothing worse through, and says so when it cannot tell."""

import json

import pytest
from artifacts import SAME_IMAGES, evaluation
from pydantic import ValidationError

from components.errors import UserError
from components.parameters import validate
from components.registry.gates import GateParams, RetrainParams, compare
from components.registry.versions import EVALUATION_TAG, RegisteredVersion

OTHER_IMAGES = {**SAME_IMAGES, "bank": "c" * 64}


def version(number: int, recorded: dict) -> RegisteredVersion:
    return RegisteredVersion("backbone", str(number), f"digest{number}", {EVALUATION_TAG: json.dumps(recorded)})


def test_the_first_candidate_passes() -> None:
    result = compare(version(1, evaluation(0.1)), None, GateParams())
    assert result.passed
    assert result.reasons == ("there is no champion yet",)


@pytest.mark.parametrize(("ours", "passed"), [(0.51, True), (0.50, True), (0.499, False)])
def test_a_candidate_passes_when_it_is_not_worse(ours: float, passed: bool) -> None:
    result = compare(version(2, evaluation(ours)), version(1, evaluation(0.50)), GateParams())
    assert result.passed is passed
    assert result.comparable
    assert "50.0 %" in result.reasons[0]


def test_tolerance_lets_a_slightly_worse_candidate_pass() -> None:
    champion = version(1, evaluation(0.50))
    assert compare(version(2, evaluation(0.49)), champion, GateParams(tolerance=0.01)).passed
    assert not compare(version(2, evaluation(0.489)), champion, GateParams(tolerance=0.01)).passed


def test_the_gate_tells_whether_the_difference_may_be_chance() -> None:
    champion = version(1, evaluation(0.50))
    assert "overlap: the difference may be chance" in str(compare(version(2, evaluation(0.52)), champion, GateParams()))
    assert "do not overlap" in str(compare(version(2, evaluation(0.60)), champion, GateParams()))


def test_the_released_models_own_score_counts() -> None:
    recorded = evaluation(0.50, **{"student.knn.top1": 0.70})
    student = version(2, {**recorded, "role": "student"})
    assert compare(student, version(1, evaluation(0.60)), GateParams()).passed
    assert not compare(version(2, recorded), version(1, evaluation(0.60)), GateParams()).passed


def test_on_other_images_the_gain_over_raw_pixels_decides() -> None:
    champion = version(1, evaluation(0.60, pixels=0.30))
    easier = version(2, evaluation(0.70, pixels=0.50, images=OTHER_IMAGES))
    result = compare(easier, champion, GateParams())
    assert not result.passed, "a higher score on easier images is no better model"
    assert not result.comparable
    assert "not comparable" in str(result)
    harder = version(2, evaluation(0.50, pixels=0.15, images=OTHER_IMAGES))
    assert compare(harder, champion, GateParams()).passed


def test_on_other_images_without_raw_pixels_nothing_passes() -> None:
    candidate = version(2, evaluation(0.9, pixels=None, images=OTHER_IMAGES))
    assert not compare(candidate, version(1, evaluation(0.1)), GateParams()).passed


def test_a_champion_measured_again_on_the_candidates_images_is_comparable() -> None:
    candidate = version(2, evaluation(0.60, images=OTHER_IMAGES))
    champion = version(1, evaluation(0.70))
    again = {"knn.top1": 0.55, "knn.top1.low": 0.53, "knn.top1.high": 0.57}
    result = compare(candidate, champion, GateParams(), champion_score=again)
    assert result.passed
    assert result.comparable
    assert "55.0 %" in result.reasons[0]
    assert not compare(candidate, champion, GateParams(), champion_score={"knn.top1": 0.61}).passed


def test_without_labels_only_a_collapse_is_refused() -> None:
    champion = version(1, evaluation(None, **{"teacher.effective_rank": 20.0}))
    assert compare(version(2, evaluation(None, **{"teacher.effective_rank": 15.0})), champion, GateParams()).passed
    collapsed = compare(version(2, evaluation(None, **{"teacher.effective_rank": 2.0})), champion, GateParams())
    assert not collapsed.passed
    assert "collapsed" in collapsed.reasons[0]


def test_a_candidate_that_lost_its_labels_does_not_pass() -> None:
    assert not compare(version(2, evaluation(None)), version(1, evaluation(0.5)), GateParams()).passed


def test_a_version_registered_without_any_evaluation_does_not_pass_unseen() -> None:
    bare = RegisteredVersion("backbone", "2", "digest", {})
    assert not compare(bare, version(1, evaluation(0.5)), GateParams()).passed
    assert not compare(bare, RegisteredVersion("backbone", "1", "digest", {}), GateParams()).passed


def test_another_score_can_be_compared() -> None:
    champion = version(1, evaluation(0.5, **{"teacher.linear.top1": 0.6}))
    candidate = version(2, evaluation(0.4, **{"teacher.linear.top1": 0.7}))
    assert compare(candidate, champion, GateParams(score="linear.top1")).passed


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 3 * *", "five fields"),
        ("every day", "five fields"),
        ("0 3 * * * *", "five fields"),
        ("0 3 * * $(id)", "'\\$\\(id\\)' is no weekday"),
        ("99 3 * * *", "'99' is no minute"),
        ("0 3 0 * *", "'0' is no day of the month"),
        ("a b c d e", "'a' is no minute"),
        ("*/0 3 * * *", "is no minute"),
        ("5-1 3 * * *", "is no minute"),
    ],
)
def test_a_schedule_that_is_no_cron_line_is_refused(line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(RetrainParams, {"cron": line}, where="params.yaml")


def test_a_negative_tolerance_is_refused() -> None:
    with pytest.raises(ValidationError):
        GateParams(tolerance=-0.1)
