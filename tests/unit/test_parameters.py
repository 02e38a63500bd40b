"""Wrong parameters are refused with the key, the value, what is allowed and the nearest valid key (F16)."""

import pytest
from pydantic import Field

from components.errors import UserError
from components.parameters import Params, validate


class Optim(Params):
    learning_rate: float = Field(gt=0, description="step size")
    name: str = Field("adamw", description="algorithm")


class Section(Params):
    optim: Optim = Field(description="optimizer")
    steps: int = Field(ge=1, description="training steps")


GOOD = {"optim": {"learning_rate": 0.1}, "steps": 3}


def message(values: dict) -> str:
    with pytest.raises(UserError) as caught:
        validate(Section, values, where="params.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_good_values_pass() -> None:
    assert validate(Section, GOOD, where="params.yaml").optim.learning_rate == 0.1


def test_a_misspelt_nested_key_names_the_nearest_valid_one() -> None:
    text = message({"optim": {"learning_rate": 0.1, "naem": "x"}, "steps": 3})
    assert "'optim.naem'" in text
    assert "'name'" in text


def test_an_unknown_key_without_a_neighbour_lists_the_known_ones() -> None:
    assert "optim, steps" in message({**GOOD, "zzzzzz": 1})


def test_a_wrong_type_names_key_and_value() -> None:
    text = message({**GOOD, "steps": "many"})
    assert "'steps'" in text
    assert "'many'" in text


def test_a_value_out_of_range_says_what_is_allowed() -> None:
    text = message({"optim": {"learning_rate": -1.0}, "steps": 3})
    assert "'optim.learning_rate' is -1.0" in text
    assert "greater than 0" in text


def test_a_missing_key_is_named() -> None:
    assert "'steps' is missing" in message({"optim": {"learning_rate": 0.1}})


def test_parameters_are_frozen() -> None:
    section = validate(Section, GOOD, where="params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        section.steps = 4  # type: ignore[misc]
