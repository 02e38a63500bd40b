"""The parts of an embedding on Ray Data: on the cores of this machine, or on a cluster."""

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from components.curation.parts import Describe, Part, Vectors
from components.errors import UserError
from components.settings import quiet_environment
from components.tracking import progress

if TYPE_CHECKING:
    import types

OBJECT_STORE = 256 << 20
"""Bytes of shared memory of a Ray that is started here: it holds vectors on their way, and images never."""
START_SECONDS = 120
LOOPBACK = "127.0.0.1"
CODE = Path(__file__).parents[2]
"""What workers import this code from."""
TOKEN = secrets.token_hex(32)
"""Lets into a Ray that is started here; one a process, as Ray reads it once."""


class Describer:
    """What a Ray worker does: it describes the parts that it is given, each on one thread.

    Args:
        describe: gives the vectors of images by id; pickled once for all workers.
        folder: of the project, which the paths in it are relative to.
    """

    def __init__(self, describe: Describe, folder: str) -> None:
        quiet_environment()
        os.chdir(folder)
        torch.set_num_threads(1)
        self.describe = describe

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Vectors of one part."""
        return {"number": row["number"], "vectors": self.describe(list(row["ids"]))}


def describe_on_ray(
    describe: Describe,
    parts: Sequence[Part],
    done: Callable[[Part, Vectors], None],
    *,
    address: str | None,
    workers: int,
    gpu: bool,
) -> None:
    """Describes parts on Ray Data; as `describe_here`, and with the same bits.

    Args:
        describe: picklable; the workers read the shards themselves, so the project's folder must be where they are.
        parts: what to do.
        done: told of each part as it comes back, in any order.
        address: of a cluster; None starts Ray here, on the loopback address, for the length of this call.
        workers: processes on this machine; on a cluster, as many as it has cores for.
        gpu: whether each worker needs a GPU.

    Raises:
        UserError: if Ray is not installed or does not answer, and what the workers raise.
    """
    if not parts:
        return
    with _session(address, workers) as ray:
        ray.data.DataContext.get_current().raise_original_map_exception = True  # else only its text arrives
        most = min(len(parts), workers if address is None else max(1, int(ray.cluster_resources().get("CPU", 1))))
        rows = [{"number": number, "ids": list(part.ids)} for number, part in enumerate(parts)]
        found = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            Describer,
            fn_constructor_args=(describe, str(Path.cwd())),
            num_cpus=1,
            num_gpus=1 if gpu else None,
            compute=ray.data.ActorPoolStrategy(min_size=most if address is None else 1, max_size=most),
        )
        try:
            for row in progress(found.iter_rows(), total=len(parts), description="embed on ray", unit="part"):
                done(parts[int(row["number"])], np.array(row["vectors"]))  # a view would hold its block
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, UserError) else error) from None


@contextmanager
def _session(address: str | None, workers: int) -> Iterator["types.ModuleType"]:
    """Ray, connected to a cluster, or started here and stopped at the end."""
    quiet_environment()
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        if address is None:
            # read when ray is imported: nodes of one machine then find each other on the loopback address
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
            os.environ["RAY_AUTH_MODE"] = "token"
            os.environ["RAY_AUTH_TOKEN"] = TOKEN
            os.environ["RAY_raylet_start_wait_time_s"] = str(START_SECONDS)  # noqa: SIM112
            here: dict[str, Any] = {
                "address": "local",
                "num_cpus": workers,
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE,
                "_node_ip_address": LOOPBACK,
                "_temp_dir": folder,
            }
        else:
            here = {"address": address}
        ray = _ray()
        try:
            _connect(ray, {**here, "runtime_env": {"env_vars": {"PYTHONPATH": str(CODE)}}})
            yield ray
        finally:
            ray.shutdown()


def _connect(ray: "types.ModuleType", arguments: dict[str, Any]) -> None:
    try:
        ray.init(**arguments, log_to_driver=False, configure_logging=False)
    except Exception as error:  # Ray raises whatever it stumbled over
        remedy = "start it, or mend SELFSIGHT_RAY_ADDRESS; embed.engine local needs none"
        where = arguments["address"]
        raise UserError(f"no Ray at {where}, {type(error).__name__}", remedy=remedy) from error
    ray.data.DataContext.get_current().enable_progress_bars = False


def _ray() -> "types.ModuleType":
    try:
        import ray
        import ray.data
    except ImportError:
        remedy = "install it with `pip install 'selfsight[ray]'`, or set embed.engine to local"
        raise UserError("embed.engine is ray, which is not installed", remedy=remedy) from None
    found: types.ModuleType = ray
    return found
