"""`selfsight plan`: every recipe can be planned, and nothing is written or started."""

import shutil
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from components.data.tables import write_table
from components.errors import UserError
from components.settings import Settings, get_settings
from flows.cli import app
from flows.params_edit import Request, known_recipes
from flows.plan import Question, make_plan
from flows.yaml_text import parse

ROOT = Path(__file__).parents[3]
PUBLISHED_GPUS = {"vitl14": 96, "vitg14": 256, "vitl16-in1k-short": 32}


@pytest.fixture
def settings(project: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    shutil.copy(ROOT / "params.yaml", project)
    shutil.copytree(ROOT / "infra" / "recipes", project / "infra" / "recipes")
    monkeypatch.setenv("SELFSIGHT_DEVICE", "cpu")
    get_settings.cache_clear()
    return get_settings()


def apply(recipe: str, settings: Settings, changes: dict[str, dict[str, dict[str, object]]] | None = None) -> None:
    """The recipe as params.yaml, without the care for comments, which takes seconds."""
    values = parse((ROOT / "params.yaml").read_text()) | parse((ROOT / f"infra/recipes/{recipe}.yaml").read_text())
    for stage, sections in (changes or {}).items():
        for section, keys in sections.items():
            values[stage][section] |= keys
    with (settings.root / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(values, file)


@pytest.mark.parametrize("recipe", known_recipes(ROOT / "infra" / "recipes"))
def test_every_recipe_can_be_planned_for_the_gpus_that_it_is_meant_for(recipe: str, settings: Settings) -> None:
    gpus = 8 if recipe.startswith("vit") else 1
    apply(recipe, settings)
    for stage in ("pretrain", "distill"):
        plan = make_plan(Question(stage, gpus=gpus, images=10_000_000), settings)
        assert plan.seconds
        assert plan.seconds > 0
        assert not [text for text in plan.warnings if "would refuse" in text]


@pytest.mark.parametrize("recipe", ["vits14", "vitb14"])
@pytest.mark.parametrize("stage", ["pretrain", "distill"])
def test_the_smaller_recipes_fit_eight_gpus_in_the_stage_in_which_blocks_compile(
    recipe: str, stage: Literal["pretrain", "distill"], settings: Settings
) -> None:
    apply(recipe, settings, {stage: {"engine": {"zero_stage": 2, "compile": True}}})
    plan = make_plan(Question(stage, gpus=8), settings)
    assert plan.memory.total < 30 * 2**30
    assert not [text for text in plan.warnings if "memory" in text or "refuse" in text]


@pytest.mark.parametrize(("recipe", "gpus"), PUBLISHED_GPUS.items())
def test_a_published_recipe_on_its_published_gpus_is_one_pass_a_step_and_fits(
    recipe: str, gpus: int, settings: Settings
) -> None:
    apply(recipe, settings)
    plan = make_plan(Question("pretrain", gpus=gpus), settings)
    assert plan.micro_batches == 1
    assert not [text for text in plan.warnings if "memory" in text or "Sinkhorn" in text or "refuse" in text]


@pytest.mark.parametrize(("recipe", "lr"), [("vitl14", 3.46e-4), ("vitg14", 3.46e-4), ("vitl16-in1k-short", 5.66e-3),
                                            ("vits14", 1e-3)])  # fmt: skip
def test_a_published_recipe_has_the_published_learning_rate(recipe: str, lr: float, settings: Settings) -> None:
    apply(recipe, settings)
    assert make_plan(Question("pretrain"), settings).peak_lr == pytest.approx(lr, rel=2e-3)


def test_the_number_of_images_is_that_of_the_curated_ones(settings: Settings) -> None:
    (settings.root / "data" / "curated").mkdir(parents=True)
    write_table(pa.table({"id": ["a" * 64, "b" * 64]}), settings.root / "data" / "curated" / "ids.parquet")
    assert make_plan(Question("pretrain"), settings).dataset == 2


def test_the_command_prints_the_plan_and_writes_nothing(settings: Settings) -> None:
    before = {path: path.read_bytes() for path in settings.root.rglob("*") if path.is_file()}
    arguments = ["plan", "--recipe", "vitl14", "--gpus", "96", "--images", "142000000", "--tflops", "800"]
    answer = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert answer.exit_code == 0
    for words in ("memory of a GPU", "FLOPs of a step", "800.0  TFLOP/s", "625000 steps", "13.5 epochs"):
        assert words in answer.stdout
    assert {path: path.read_bytes() for path in settings.root.rglob("*") if path.is_file()} == before


def test_F16_an_unknown_recipe_or_key_is_one_line(settings: Settings) -> None:
    with pytest.raises(UserError, match="did you mean 'vitl14'"):
        make_plan(Question("pretrain", Request(recipe="vitl15")), settings)
    with pytest.raises(UserError, match="did you mean 'batch_size'"):
        make_plan(Question("pretrain", Request(overrides=("pretrain.bach_size=8",))), settings)
    with pytest.raises(UserError, match=r"pretrain\.batch_size|batch_size 1"):
        make_plan(Question("pretrain", batch=1), settings)
