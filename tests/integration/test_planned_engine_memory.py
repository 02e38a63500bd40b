"""Planned memory between steps against the tensors that DeepSpeed keeps, in every ZeRO stage, on two processes."""

import json

import pytest

from components.training.planning import memory
from components.training.planning.inventory import Inventory
from components.training.pretrain import PretrainParams
from tests.integration.memory_cases import CASES, PARAMS
from tests.integration.ranks import run_ranks

pytestmark = pytest.mark.slow
PROCESSES = 2
TOLERANCE = 0.06
"""Padding, and parameters across the border between two processes: of no weight in a model of real size."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], dict[str, int]]:
    path = tmp_path_factory.mktemp("memory") / "found.json"
    run_ranks("tests.integration.memory_cases", PROCESSES, str(path))
    return {(stage, precision): parts for stage, precision, parts in json.loads(path.read_text())}


@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_what_stays_between_steps_is_what_the_engine_keeps(
    found: dict[tuple[int, str], dict[str, int]], stage: int, precision: str
) -> None:
    engine = {"zero_stage": stage, "precision": precision}
    params = PretrainParams.model_validate({**PARAMS, "engine": engine})
    inventory = Inventory.of_pretraining(params)
    planned = {
        "weights": memory.sharded_weights(inventory, params.engine, PROCESSES),
        "master": memory.master_weights(inventory, params.engine, PROCESSES),
        "moments": memory.moments(inventory, params.engine, PROCESSES),
        "averages": memory.averages(inventory, params.engine, PROCESSES),
        "gradients": memory.accumulated_gradients(inventory, params.engine, PROCESSES),
    }
    assert planned == pytest.approx(found[stage, precision], rel=TOLERANCE)
