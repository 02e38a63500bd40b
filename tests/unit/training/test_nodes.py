"""Several machines: what is refused, and what torchrun is told."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.run import get_args_parser
from training_jobs import JOB

from components.errors import UserError
from components.settings import Settings
from components.training import processes
from components.training.agent import understood
from components.training.launch import check_processes
from components.training.nodes import Nodes


def settings(**values: Any) -> Settings:
    return Settings(device="cpu", _env_file=None, **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nodes": 2}, "no address at which they meet"),
        ({"nodes": 2, "node_rank": 2, "rendezvous": "a:1"}, "SELFSIGHT_NODE_RANK=2, but SELFSIGHT_NODES=2"),
        ({"node_rank": 1}, "number the machines 0 to 0"),
        ({"nodes": 2, "rendezvous": "node0"}, "SELFSIGHT_RENDEZVOUS=node0: write HOST:PORT"),
        ({"nodes": 2, "rendezvous": "node0:70000"}, "write HOST:PORT"),
        ({"nodes": 2, "rendezvous": "tcp://node0:29500"}, "write HOST:PORT"),
    ],
)
def test_F16_machines_that_would_not_find_each_other_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_processes(settings(**values))


def test_one_machine_needs_no_address() -> None:
    assert Nodes.of(settings(rendezvous="left.over:29500")) == Nodes()


def test_all_processes_are_those_of_all_machines() -> None:
    assert settings(nodes=3, processes=2).all_processes == 6


def told(**changes: Any) -> Any:
    command = processes._command(replace(JOB, **changes), Path("job.json"))
    given = command[command.index("components.training.agent") + 1 :]
    return get_args_parser().parse_args(understood(given))


def test_several_machines_meet_in_the_order_of_their_numbers() -> None:
    options = told(nodes=2, node_rank=1, rendezvous="node0:29500")
    assert (options.nnodes, options.node_rank, options.nproc_per_node) == ("2", 1, str(JOB.processes))
    assert (options.rdzv_backend, options.rdzv_endpoint) == ("static", "node0:29500")


def test_one_machine_meets_nobody() -> None:
    options = told()
    assert (options.nnodes, options.rdzv_endpoint) == ("1", "127.0.0.1:0")
