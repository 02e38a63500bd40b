"""dvc.yaml says what is true: code dependencies are the imports, outs have one owner, parameters exist."""

from pathlib import Path

import grimp
import pytest
from ruamel.yaml import YAML

from components.stages.params import PipelineParams, load_params
from components.stages.paths import LOCATIONS
from components.stages.release import SOURCES, UNRELATED

ROOT = Path(__file__).parents[3]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
# what every stage goes through but no out depends on
SURROUNDINGS = (
    "components.tracking",
    "components.settings",
    "components.errors",
    "components.redaction",
    "components.durable",
    "components.s3",
    "components.parameters",
    "components.stages.runner",
    "components.stages.params",
    "components.stages.paths",
    "components.stages.publish",
    "components.stages.lifeline",
)
# modules that a stage starts as processes of their own
STARTED = dict.fromkeys(("pretrain", "distill"), ("components.training.worker", "components.training.agent"))


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("components", cache_dir=None)


def needed(stage: str, imports: grimp.ImportGraph) -> set[str]:
    """Files of all modules that the stage imports, directly or not."""
    waiting = [f"components.stages.{stage}", *STARTED.get(stage, ())]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in seen or any(module == one or module.startswith(f"{one}.") for one in SURROUNDINGS):
            continue
        seen.add(module)
        waiting += imports.find_modules_directly_imported_by(module)
    return {file for module in seen if (file := file_of(module)) is not None}


def file_of(module: str) -> str | None:
    path = ROOT / module.replace(".", "/")
    if not path.is_dir():
        return f"{module.replace('.', '/')}.py"
    holds_code = "import" in (path / "__init__.py").read_text()
    return f"{module.replace('.', '/')}/__init__.py" if holds_code else None


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_are_what_the_stage_imports(stage: str, imports: grimp.ImportGraph) -> None:
    stated = {dep for dep in STAGES[stage]["deps"] if dep.startswith("components/")}
    assert stated == needed(stage, imports)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_its_module_reads_its_section_and_names_its_run(stage: str) -> None:
    definition = STAGES[stage]
    assert definition["cmd"] == f"python -m components.stages.{stage}"
    assert definition["params"] == (list(STAGES) if stage == "release" else [stage])
    assert f"runs/{stage}.json" in definition["outs"]
    assert {f"metrics/{stage}.json": {"cache": False}} in definition["metrics"]
    assert definition["meta"]["phase"] in ("curate", "pretrain", "distill", "evaluate", "release")


def test_whatever_the_lineage_names_is_a_dependency_of_release() -> None:
    """Otherwise `release` would be skipped while its artifact names what a fresh run would not."""
    named = {path.as_posix() for path in SOURCES.dependencies()}
    assert named == {dep for dep in STAGES["release"]["deps"] if not dep.startswith("components/")}
    assert {field.alias or name for name, field in PipelineParams.model_fields.items()} - UNRELATED == set(STAGES)


def test_no_stage_depends_on_a_run() -> None:
    assert not [dep for one in STAGES.values() for dep in one["deps"] if dep.startswith("runs/")]


def test_data_dependencies_are_outs_of_other_stages_or_locks() -> None:
    made = {path for one in STAGES.values() for path in one["outs"]} | {f"metrics/{name}.json" for name in STAGES}
    locks = {"data/source.lock", "data/embedder.lock", "data/initial.lock", "data/forgotten.lock"}
    wanted = {dep for one in STAGES.values() for dep in one["deps"] if not dep.startswith("components/")}
    inside = {path for path in wanted if str(Path(path).parent) in made}
    assert wanted - inside <= made | locks


@pytest.mark.parametrize("stage", ["pretrain", "distill"])
def test_training_depends_on_where_images_are_and_on_nothing_that_is_said_about_them(stage: str) -> None:
    """A label that is corrected must not train again."""
    deps = STAGES[stage]["deps"]
    assert [one for one in deps if one.startswith("data/manifest")] == [LOCATIONS.as_posix()]
    assert "components/data/manifest.py" not in deps


def test_the_shipped_parameters_are_valid_and_have_a_section_for_each_stage() -> None:
    load_params(ROOT / "params.yaml")
    sections = {field.alias or name for name, field in PipelineParams.model_fields.items()}
    assert set(STAGES) == sections - {"snapshot", "drift", "retrain"}
