import pytest

from components.errors import UserError
from components.training.health import Health, HealthParams


def test_a_good_step_ends_the_row_of_bad_ones_but_not_their_count() -> None:
    health = Health(HealthParams(max_skipped=3))
    for step in range(2):
        health.bad(step, ("a",))
    health.good()
    for step in range(3, 5):
        health.bad(step, ("a",))
    assert (health.skipped, health.in_a_row) == (4, 2)
    assert list(health.ids) == [3, 4]


def test_too_many_in_a_row_stop_training_and_name_the_steps(caplog: pytest.LogCaptureFixture) -> None:
    health = Health(HealthParams(max_skipped=2))
    health.bad(7, ("0123456789abcdef", "b"))
    assert "0123456789ab" in caplog.text
    with pytest.raises(UserError, match="in steps 7 to 8, 2 in a row") as caught:
        health.bad(8, ("c",))
    assert "lower" in caught.value.remedy
