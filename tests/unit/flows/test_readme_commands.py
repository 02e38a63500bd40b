"""The commands of README for GPUs: as written, their batches can be divided among the processes."""

import re
import shlex
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components.settings import Settings
from components.stages.params import PipelineParams, parse_params
from flows.preflight import require_division
from flows.yaml_text import parse

ROOT = Path(__file__).parents[3]
COMMANDS = [
    line for line in (ROOT / "README.md").read_text().splitlines() if re.match(r"(\S+=\d+ )?selfsight run", line)
]
GPUS_OF_A_NODE = int(re.findall(r"--gpus-per-node=(\d+)", (ROOT / "infra/slurm/train.sbatch").read_text())[0])


def params_of(command: str) -> PipelineParams:
    """params.yaml as the command leaves it, without the care for comments, which takes seconds."""
    words = shlex.split(command)
    recipe = words[words.index("--recipe") + 1]
    values: dict[str, Any] = parse((ROOT / "params.yaml").read_text())
    values |= parse((ROOT / f"infra/recipes/{recipe}.yaml").read_text())
    for place in [place for place, word in enumerate(words) if word == "--set"]:
        key, _, value = words[place + 1].partition("=")
        section, _, name = key.partition(".")
        values[section][name] = parse(f"value: {value}")["value"]
    text = StringIO()
    YAML(typ="safe").dump(values, text)
    return parse_params(text.getvalue(), where="README.md")


def settings_of(command: str) -> Settings:
    """Those in front of the command, or of the Slurm job that it starts."""
    nodes = re.findall(r"--nodes=(\d+)", command)
    processes = re.findall(r"SELFSIGHT_PROCESSES=(\d+)", command)
    return Settings(
        _env_file=None,
        nodes=int(nodes[0]) if nodes else 1,
        processes=GPUS_OF_A_NODE if nodes else int(processes[0]) if processes else 1,
    )


def test_there_is_a_command_for_one_gpu_for_eight_and_for_two_machines() -> None:
    assert [settings_of(command).all_processes for command in COMMANDS] == [1, 8, 16]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[:40])
def test_a_command_of_readme_passes_the_checks_of_its_recipe(command: str) -> None:
    params = params_of(command)
    require_division(params, settings_of(command))
    assert params.pretrain.engine.precision == "bf16"
