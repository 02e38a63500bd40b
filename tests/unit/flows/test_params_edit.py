"""The command line's changes to params.yaml: checked whole, shown, and never with a secret."""

import functools
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import Field

from components.errors import UserError
from components.parameters import Params, validate
from components.stages.params import parse_params
from flows.params_edit import Request, edit_params, edited_params, known_recipes, sources_given
from flows.yaml_text import parse

ROOT = Path(__file__).parents[3]
RECIPES = ROOT / "infra" / "recipes"
OTHER_RECIPES = [name for name in known_recipes(RECIPES) if name != "demo"]


class Snapshot(Params):
    source: str | dict[str, str]
    eval: str | dict[str, str] | None = None


class Training(Params):
    steps: int = Field(ge=1)
    patch_size: int = 4


class Everything(Params):
    snapshot: Snapshot
    training: Training


TEXT = """\
snapshot:
  source: scenes  # which images
  eval: labelled
training:
  steps: 10  # how many
"""


@pytest.fixture
def params(tmp_path: Path) -> Path:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "demo.yaml").write_text("# quick\ntraining:\n  steps: 3\n")
    path = tmp_path / "params.yaml"
    path.write_text(TEXT)
    return path


def edit(path: Path, request: Request) -> str:
    def check(text: str) -> None:
        validate(Everything, parse(text), where=path.name)

    return edit_params(path, request, check, recipes=path.parent / "recipes")


def test_a_set_value_is_written_and_the_difference_shown(params: Path) -> None:
    difference = edit(params, Request(overrides=("training.steps=20",)))
    assert difference == "-  steps: 10  # how many\n+  steps: 20  # how many"
    assert params.read_text() == TEXT.replace("10", "20")


def test_nothing_asked_for_means_nothing_read_or_written(tmp_path: Path) -> None:
    assert edit(tmp_path / "absent.yaml", Request()) == ""


def test_a_value_that_is_there_already_shows_no_difference(params: Path) -> None:
    assert edit(params, Request(overrides=("training.steps=10",))) == ""


def test_new_data_without_evaluation_data_forgets_the_old_ones(params: Path) -> None:
    edit(params, Request(data="/photos"))
    assert parse(params.read_text())["snapshot"] == {"source": "/photos", "eval": None}


def test_new_data_come_with_their_evaluation_data(params: Path) -> None:
    edit(params, Request(data="a.tar", eval="b.tar"))
    assert parse(params.read_text())["snapshot"] == {"source": "a.tar", "eval": "b.tar"}


def test_several_sources_are_written_by_name_and_comments_stay(params: Path) -> None:
    two = {"val": "s3://team/val", "2024": "./a, b: c"}
    difference = edit(params, Request(data=two, eval=two))
    assert "+  source: {'2024': './a, b: c', val: s3://team/val}  # which images" in difference
    assert parse(params.read_text())["snapshot"] == {"source": two, "eval": two}
    edit(params, Request(overrides=("snapshot.eval.more=./more",)))
    assert parse(params.read_text())["snapshot"]["eval"] == {**two, "more": "./more"}
    edit(params, Request(data="scenes", eval="labelled"))
    assert params.read_text() == TEXT


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (None, None),
        ([], None),
        (["./photos"], "./photos"),
        ([""], ""),
        (["scenes?images=3"], "scenes?images=3"),
        (["s3://bucket/day=1"], "s3://bucket/day=1"),
        (["./day=1"], "./day=1"),
        (["a/day=1"], "a/day=1"),
        (["val=s3://bucket/day=1"], {"val": "s3://bucket/day=1"}),
        (["val=./x", "ours=scenes?seed=1"], {"val": "./x", "ours": "scenes?seed=1"}),
    ],
)
def test_an_option_given_once_or_often_names_sources(values: Sequence[str] | None, wanted: object) -> None:
    assert sources_given(values, "--eval") == wanted


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a=x", "a=y"], "--eval: 'a' is given twice: give each"),
        (["=x"], "--eval: '' before '=' is no name of a source: a name has 1 to 40 letters"),
        (["my set=x"], "--eval: 'my set' before '=' is no name"),
        (["x", "a=y"], "--eval x: of several sources each needs a name: write --eval NAME=URI"),
        (["a=y", "a/b=x"], "--eval a/b=x: of several sources each needs a name"),
        (["x", "y"], "--eval x: of several sources each needs a name"),
        (["s3://u:geheim@host/x", "y"], "--eval s3://host/x: of several"),
    ],
)
def test_f16_wrong_names_of_sources_are_one_line(values: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        sources_given(values, "--eval")
    assert str(caught.value).startswith(message)


def test_single_keys_win_over_the_recipe(params: Path) -> None:
    edit(params, Request(recipe="demo", overrides=("training.patch_size=8",)))
    assert parse(params.read_text())["training"] == {"steps": 3, "patch_size": 8}
    edit(params, Request(recipe="demo", overrides=("training.steps=5",)))
    assert parse(params.read_text())["training"]["steps"] == 5


def test_a_recipe_replaces_the_sections_that_it_names_and_no_others(params: Path) -> None:
    edit(params, Request(overrides=("training.patch_size=8",)))
    edit(params, Request(recipe="demo"))
    assert parse(params.read_text()) == {**parse(TEXT), "training": {"steps": 3}}


def test_params_yaml_is_the_recipe_demo() -> None:
    text = edited_params(ROOT / "params.yaml", Request(recipe="demo"), recipes=RECIPES)
    assert text == (ROOT / "params.yaml").read_text()


def test_the_recipes_are_those_that_the_documentation_lists() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert [name for name in known_recipes(RECIPES) if f"`{name}`" not in page] == []
    assert {"vits14", "vitb14", "vitl14", "vitg14", "vitl16-in1k-short", "cifar10-cpu", "cifar10-gpu"} <= set(
        OTHER_RECIPES
    )


@pytest.mark.parametrize("name", OTHER_RECIPES)
def test_the_recipe_demo_undoes_every_other_recipe(name: str, tmp_path: Path) -> None:
    shipped = (ROOT / "params.yaml").read_text()
    path = tmp_path / "params.yaml"
    path.write_text(shipped)

    def apply(recipe: str) -> str:
        check = functools.partial(parse_params, where="params.yaml")
        return edit_params(path, Request(recipe=recipe), check, recipes=RECIPES)

    assert apply(name) != ""
    assert apply("demo") != ""
    assert parse(path.read_text()) == parse(shipped)


@pytest.mark.parametrize("name", ["cifar10-cpu", "vitg14"])
def test_a_recipe_gives_the_same_whatever_was_there_before(name: str, tmp_path: Path) -> None:
    found = []
    for first in ("demo", "vitl16-in1k-short"):
        path = tmp_path / f"{first}.yaml"
        path.write_text((ROOT / "params.yaml").read_text())
        for one in (first, name):
            edit_params(path, Request(recipe=one), lambda _: None, recipes=RECIPES)
        found.append(parse(path.read_text()))
    assert found[0] == found[1]


def test_looking_at_a_change_writes_nothing(params: Path) -> None:
    text = edited_params(params, Request(recipe="demo"), recipes=params.parent / "recipes")
    assert parse(text)["training"] == {"steps": 3}
    assert params.read_text() == TEXT


def test_an_unknown_recipe_is_refused_naming_the_nearest(params: Path) -> None:
    with pytest.raises(UserError, match=r"no recipe 'dmo' in .*: did you mean 'demo'"):
        edit(params, Request(recipe="dmo"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.step=3", "unknown key 'training.step': did you mean 'steps'"),
        ("trainin.steps=3", "unknown key 'trainin': did you mean 'training'"),
        ("training.steps=many", "'training.steps' is 'many'"),
        ("training.steps=0", "'training.steps' is 0"),
        ("training.steps.x=0", "'training.steps' is a value"),
        ("training.steps", "not KEY=VALUE"),
        ("=3", "not KEY=VALUE"),
        ("training.steps=[1", "not valid YAML"),
    ],
)
def test_f16_a_wrong_override_is_refused_before_anything_is_written(params: Path, override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        edit(params, Request(overrides=("training.patch_size=8", override)))
    assert message in str(caught.value)
    assert params.read_text() == TEXT


def test_a_change_may_mend_a_file_that_is_wrong(params: Path) -> None:
    params.write_text(TEXT.replace("10", "0"))
    edit(params, Request(overrides=("training.steps=1",)))
    assert parse(params.read_text())["training"]["steps"] == 1


def test_a_file_that_is_no_yaml_is_named_with_the_line(params: Path) -> None:
    params.write_text("a: [1\nb: 2\n")
    with pytest.raises(UserError, match=r"not valid YAML .*line"):
        edit(params, Request(data="x"))


@pytest.mark.parametrize(
    "uri",
    ["s3://AKIA:geheim@bucket/x", "https://u:geheim@host/x.tar", "https://h/x.tar?X-Amz-Signature=geheim"],
)
def test_f15_a_secret_is_neither_written_nor_repeated(params: Path, uri: str) -> None:
    for request in (
        Request(data=uri),
        Request(data="x", eval={"a": "x", "b": uri}),
        Request(overrides=(f"snapshot.source='{uri}'",)),
    ):
        with pytest.raises(UserError) as caught:
            edit(params, request)
        assert "geheim" not in str(caught.value)
    assert params.read_text() == TEXT
