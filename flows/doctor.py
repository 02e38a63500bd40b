"""`selfsight doctor`: is this machine fit, is the experiment set up, do the services answer."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from components.errors import UserError
from components.redaction import redact
from components.settings import Settings
from components.stages import paths
from flows.preflight import CHEAP, Body, Check, run_check

GIB = 2**30
MINIMUM_PYTHON = (3, 11)
MEMORY_GIB = 3.0
DISK_GIB = 5.0
DISK_MINIMUM_GIB = 1.0
SHARED_MEMORY_GIB = 0.25


def all_checks(settings: Settings) -> Iterator[Check]:
    """Every check of the machine, the experiment and the services, as it is made."""
    for body in (check_python, *CHEAP, *MACHINE, *EXPERIMENT, *SERVICES):
        yield run_check(body, settings)


def check_python(_: Settings) -> Check:
    """Python is recent enough."""
    version = platform.python_version()
    if sys.version_info < MINIMUM_PYTHON:
        return Check("python", "fail", f"Python {version}", "make a virtual environment with Python 3.11 or later")
    return Check("python", "ok", f"Python {version}")


def check_device(settings: Settings) -> Check:
    """The device that is asked for exists."""
    import torch

    device = settings.torch_device()
    if device == "cpu":
        return Check("device", "ok", f"CPU, {settings.thread_count()} threads a process")
    properties = torch.cuda.get_device_properties(0)
    return Check("device", "ok", f"{properties.name}, {properties.total_memory / GIB:.0f} GiB")


def check_precision(settings: Settings) -> Check:
    """The device multiplies numbers of the precision that training is set to."""
    import torch

    from components.stages.params import load_params

    params = load_params(settings.root / paths.PARAMS)
    wanted = {params.pretrain.engine.precision, params.distill.engine.precision}
    is_slow = settings.torch_device() == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if "bf16" in wanted and is_slow:
        remedy = "set pretrain.engine.precision and distill.engine.precision to fp32"
        return Check("precision", "warn", "this processor is slow at bf16", remedy)
    return Check("precision", "ok", ", ".join(sorted(wanted)))


def check_memory(_: Settings) -> Check:
    """Enough memory is free for the default run."""
    import psutil

    free = psutil.virtual_memory().available / GIB
    if free < MEMORY_GIB:
        remedy = "close other programs, or lower pretrain's batch size"
        return Check("memory", "warn", f"{free:.1f} GiB free, {MEMORY_GIB:g} wanted", remedy)
    return Check("memory", "ok", f"{free:.1f} GiB free")


def check_shared_memory(settings: Settings) -> Check:
    """Several processes on one machine talk through /dev/shm."""
    place = Path("/dev/shm")  # noqa: S108
    if settings.processes == 1 or not place.exists():
        return Check("shared memory", "ok", "not needed")
    free = shutil.disk_usage(place).free / GIB
    if free < SHARED_MEMORY_GIB:
        remedy = "start the container with --shm-size=1g"
        return Check("shared memory", "fail", f"{free * 1024:.0f} MiB free in {place}", remedy)
    return Check("shared memory", "ok", f"{free:.1f} GiB free")


def check_disk(settings: Settings) -> Check:
    """There is room for shards, checkpoints and the cache."""
    free = shutil.disk_usage(settings.root).free / GIB
    remedy = "free some space; `dvc gc --workspace` drops data that no stage uses any more"
    if free < DISK_MINIMUM_GIB:
        return Check("disk", "fail", f"{free:.1f} GiB free", remedy)
    return Check("disk", "ok" if free >= DISK_GIB else "warn", f"{free:.1f} GiB free", remedy)


def check_data(settings: Settings) -> Check:
    """The first object of each source can be read."""
    from components.stages.params import load_params
    from flows.snapshot import probe_sources

    return Check("data", "ok", ", ".join(probe_sources(load_params(settings.root / paths.PARAMS), settings)))


def check_snapshot(settings: Settings) -> Check:
    """The committed snapshot is of the sources that the parameters name."""
    from components.data.lock import read_lock
    from components.data.named_sources import readable
    from components.stages.params import load_params

    path = settings.root / paths.SOURCE_LOCK
    remedy = "`selfsight run` and `selfsight snapshot` take one"
    if not path.exists():
        return Check("snapshot", "warn", "none yet", remedy)
    lock, wanted = read_lock(path), load_params(settings.root / paths.PARAMS).snapshot
    for role, locked, asked in (
        ("", lock.train_uri, wanted.train_uri),
        ("evaluation ", lock.eval_uri, wanted.eval_uri),
    ):
        if locked != asked:
            shown = [f"{role}{readable(one)}" if one else f"no {role}source" for one in (locked, asked)]
            return Check("snapshot", "warn", f"of {shown[0]}, not of {shown[1]}", remedy)
    counts = f"{len(lock.of_role('train'))} objects, {len(lock.of_role('eval'))} for evaluation"
    return Check("snapshot", "ok", counts)


def check_labels(settings: Settings) -> Check:
    """Something can be scored: there is an evaluation source, or a part is held out."""
    from components.data.named_sources import readable
    from components.stages.params import load_params

    snapshot = load_params(settings.root / paths.PARAMS).snapshot
    if snapshot.eval_uri is None:
        remedy = "give labelled images with --eval; labels are the names of their folders"
        return Check("labels", "warn", "no evaluation source: a part is held out, labelled only by folders", remedy)
    return Check("labels", "ok", readable(snapshot.eval_uri))


def check_record(settings: Settings) -> Check:
    """What a run leaves behind is in git, so that another machine can take it up."""
    if not (settings.root / "dvc.lock").exists():
        return Check("record", "ok", "no run yet")
    tracked = subprocess.run(
        ["git", "ls-files", "--error-unmatch", "dvc.lock"], cwd=settings.root, capture_output=True, check=False
    )
    if tracked.returncode != 0:
        remedy = "`git add dvc.lock data metrics && git commit` records the run"
        return Check("record", "warn", "dvc.lock is not in git", remedy)
    return Check("record", "ok", "dvc.lock is in git")


def check_mlflow(settings: Settings) -> Check:
    """MLflow answers."""
    from components.tracking import initialise_database

    where = redact(settings.tracking_uri)
    try:
        initialise_database(settings)
    except UserError:
        raise
    except Exception as error:  # MLflow may fail in any way
        remedy = "mend SELFSIGHT_MLFLOW_URI or start the server; runs are kept in the journal until it answers"
        return Check("mlflow", "warn", f"{where} does not answer ({type(error).__name__})", remedy)
    return Check("mlflow", "ok", where)


def check_prefect(_: Settings) -> Check:
    """Prefect can be imported, and the user's own server, if there is one, answers."""
    import prefect
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        return Check("prefect", "ok", f"Prefect {prefect.__version__}, embedded server")
    import httpx

    try:
        httpx.get(f"{url}/health", timeout=5).raise_for_status()
    except httpx.HTTPError as error:
        remedy = "start that server, or unset PREFECT_API_URL to use an embedded one"
        return Check("prefect", "fail", f"{redact(url)} does not answer ({type(error).__name__})", remedy)
    return Check("prefect", "ok", f"Prefect {prefect.__version__} at {redact(url)}")


def check_s3(settings: Settings) -> Check:
    """The buckets to share through and to keep artifacts in, if any are set, are there."""
    from flows.sharing import artifact_bucket, check_bucket

    buckets = [name for name in (settings.s3_bucket, artifact_bucket(settings)) if name is not None]
    for name in buckets:
        check_bucket(name, settings)
    return Check("s3", "ok", ", ".join(f"s3://{name}" for name in buckets) or "no bucket set, nothing is shared")


MACHINE: tuple[Body, ...] = (check_device, check_precision, check_memory, check_shared_memory, check_disk)
EXPERIMENT: tuple[Body, ...] = (check_data, check_snapshot, check_labels, check_record)
SERVICES: tuple[Body, ...] = (check_mlflow, check_prefect, check_s3)
