"""Several machines that train together: torchrun on each, which find each other at the address of the first."""

import re
from dataclasses import dataclass
from typing import Self

from components.errors import UserError
from components.settings import Settings

WAIT_SECONDS = 1800
"""How long a machine waits for the others: another one may still be pulling data, or wait in a queue."""
_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})")
LARGEST_PORT = 65535


@dataclass(frozen=True)
class Nodes:
    """The machines of a training run, seen from one of them.

    Attributes:
        count: how many there are.
        rank: which this is; number 0 keeps the books and writes the result.
        rendezvous: `HOST:PORT` of number 0; None with one machine.
    """

    count: int = 1
    rank: int = 0
    rendezvous: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """What the settings say.

        Raises:
            UserError: if they do not say where the others are, or which this is.
        """
        count, rank, rendezvous = settings.nodes, settings.node_rank, settings.rendezvous
        if rank >= count:
            raise UserError(
                f"SELFSIGHT_NODE_RANK={rank}, but SELFSIGHT_NODES={count}",
                remedy=f"number the machines 0 to {count - 1}, or say how many there are",
            )
        if count == 1:
            return cls()
        if rendezvous is None:
            raise UserError(
                f"SELFSIGHT_NODES={count}, but no address at which they meet",
                remedy="set SELFSIGHT_RENDEZVOUS to HOST:PORT of machine 0, the same on all",
            )
        found = _ADDRESS.fullmatch(rendezvous)
        if found is None or not 0 < int(found["port"]) <= LARGEST_PORT:
            raise UserError(f"SELFSIGHT_RENDEZVOUS={rendezvous}", remedy="write HOST:PORT, for example node0:29500")
        return cls(count, rank, rendezvous)

    def torchrun_options(self) -> list[str]:
        """How torchrun is told.

        Several machines meet in the order of their numbers (`static`), so that process 0 is on machine 0. With one, any
        free port does.
        """
        if self.count == 1:
            return ["--nnodes=1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
        return [
            f"--nnodes={self.count}",
            f"--node-rank={self.rank}",
            "--rdzv-backend=static",
            f"--rdzv-endpoint={self.rendezvous}",
            f"--rdzv-conf=timeout={WAIT_SECONDS}",
        ]
