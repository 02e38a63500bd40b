"""A job from its data to its artifact, as every training process runs it."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from components.data.loader import CropLoader
from components.data.reading import Reader
from components.data.shard_access import open_shards
from components.data.tables import read_table
from components.data.views import ViewParams
from components.errors import UserError, no_space_is_a_user_error
from components.models.attention import require_kernel
from components.models.vit import VisionTransformer
from components.objectives import Objective
from components.parameters import validate
from components.settings import get_settings
from components.tracking import Run, attach_run
from components.tracking.locking import file_lock
from components.training import distill, pretrain
from components.training.bucket_copies import BucketCopies
from components.training.checkpoint import LOCK, CheckpointError, CheckpointStore
from components.training.ema import MovingAverage
from components.training.engine import Engine, join_processes, own_device
from components.training.fast_path import checkpoint_activations, compile_blocks
from components.training.health import Health
from components.training.heartbeat import Heartbeat
from components.training.initial import load_initial
from components.training.job import Job
from components.training.loop import TrainingLoop
from components.training.mirror import Mirror
from components.training.parameter_groups import parameter_groups
from components.training.phases import Phase, PhasedLoader
from components.training.recipe import TrainingParams, resumable
from components.training.schedules import Schedule
from components.training.skipped_batches import SKIPPED_BATCHES, SkippedBatches
from components.training.standing import Standing
from components.training.training_state import TrainingState

_log = logging.getLogger(__name__)
SOLE_WRITER_SECONDS = 60.0
LAST_COPY_SECONDS = 600.0
"""How long the copy of the last checkpoint may take."""
PREEMPTED_COPY_SECONDS = 20.0
"""The same when training was stopped: SIGKILL comes a minute after SIGTERM."""


def train(job: Job, stop: Callable[[], bool], heartbeat: Heartbeat | None = None) -> dict[str, float]:
    """Trains, resuming from a checkpoint if there is one, and writes the artifact on process 0.

    Args:
        job: what to do.
        stop: whether to stop after the running step.
        heartbeat: shows the steps to whoever watches this process.

    Returns:
        Metrics of the run, on process 0.

    Raises:
        UserError: if training cannot begin or go on.
        Preempted: after `stop` and a checkpoint.
    """
    torch.set_num_threads(job.threads)
    join_processes(job.device, timeout=job.collective_seconds)
    if job.nodes > 1:
        _require_same_work(job)
    if dist.get_rank():
        return _train(job, stop, heartbeat, None)
    tracking = attach_run(job.run_key) if job.run_key else nullcontext()
    with _sole_writer(job.checkpoints), tracking as run, _mirror(job) as mirror:
        return _train(job, stop, heartbeat, run, mirror)


def _require_same_work(job: Job) -> None:
    """Several machines were told what to do one by one: they must have been told the same.

    Raises:
        UserError: on all processes, naming the first machine that differs and in what.
    """
    mine = {"parameters or images": job.checkpoints.name, "code": job.code, "device": job.device}
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, (job.node_rank, mine))
    for node, theirs in found:
        differing = [what for what, value in theirs.items() if value != found[0][1][what]]
        if differing:
            raise UserError(
                f"machine {node} has other {' and '.join(differing)} than machine 0",
                remedy="let all run in the same working tree, or check out the same commit and pull its data",
            )


def _train(
    job: Job, stop: Callable[[], bool], heartbeat: Heartbeat | None, run: Run | None, mirror: Mirror | None = None
) -> dict[str, float]:
    params = job_params(job)
    ids = read_table(job.curated / "ids.parquet")["id"].to_pylist()
    share = params.share(dist.get_world_size())
    total = params.total_steps(len(ids))
    schedules, phases = params.schedules(total), params.phases(total)
    objective = _objective(job, params)
    groups = parameter_groups(objective.named_parameters(), params.groups, depth=params.model.depth)
    kernel = attention(objective, params, phases, device=job.device)
    checkpoint_activations(objective, params.engine)
    engine = Engine(objective, groups, params.engine, images=share, device=job.device)
    compile_blocks(engine.module, params.engine, device=job.device)
    average = MovingAverage(engine.layout, engine.shards, objective.ema_pairs())
    state = TrainingState(engine, average, _store(job, params), mirror)
    health = Health(params.health, prototypes=params.prototypes(), steps=schedules.steps)
    standing = Standing(step=0, health=health)
    evidence = SkippedBatches(job.checkpoints / SKIPPED_BATCHES) if dist.get_rank() == 0 else None
    recorded = {
        "run_key": job.run_key,
        "processes": dist.get_world_size(),
        "micro_batches": engine.micro_batches,
        "zero_stage": params.engine.zero_stage,
        "total_steps": schedules.steps,
        "code": job.code,
        "health_params": params.health.model_dump(mode="json"),
    }
    if run is not None:
        run.set_tags({"device": job.device, **{name: str(recorded[name]) for name in ("processes", "zero_stage")}})
        run.set_tags({"attention": kernel})
    _resume(state, job, standing, recorded)
    if evidence is not None and standing.step == 0:
        evidence.start_anew()
    loop = TrainingLoop(
        engine,
        average,
        state,
        params,
        schedules,
        recorded=recorded,
        stop=stop,
        run=run,
        evidence=evidence,
        heartbeat=heartbeat,
        name=job.name,
    )
    _announce(job, params, engine, schedules)
    reader = open_shards(job.shards, read_table(job.locations), get_settings())
    loader = PhasedLoader(phases, partial(crop_loader, reader, ids, params, device=job.device, threads=job.threads))
    try:
        loop.train(loader, standing)
    finally:
        loader.close()
        reader.close()
    averages = {name: value for name, value in average.gather() if value is not None}
    if dist.get_rank() == 0:
        with no_space_is_a_user_error(f"writing the result of {job.name}, which its last checkpoint keeps"):
            _write_result(job, params, averages, standing)
    dist.barrier()
    return _metrics(standing, params, len(ids))


def crop_loader(
    reader: Reader, ids: list[str], params: TrainingParams, views: ViewParams, *, device: str, threads: int
) -> CropLoader:
    """The batches of this process.

    Args:
        reader: gives the bytes of an image.
        ids: images to train on.
        params: of the run.
        views: the crops.
        device: `cpu` or `cuda`; crops are made in a thread of their own.
        threads: that decode where the model is on a GPU; on a CPU the model needs them.
    """
    return CropLoader(
        reader,
        ids,
        views=views,
        masks=params.masks,
        global_batch=params.batch_size,
        seed=params.seed,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        workers=threads if device == "cuda" else 1,
        patch_size=params.model.patch_size,
        device=own_device(device),
    )


def job_params(job: Job) -> TrainingParams:
    """The parameters of a job, as its stage's model."""
    kind: type[TrainingParams] = pretrain.PretrainParams if job.name == "pretrain" else distill.DistillParams
    return validate(kind, job.params, where="job")


def _objective(job: Job, params: TrainingParams) -> Objective:
    if isinstance(params, distill.DistillParams):
        assert job.teacher is not None
        return distill.build(params, job.teacher)
    assert isinstance(params, pretrain.PretrainParams)
    objective = pretrain.build(params)
    if job.initial is not None:
        taken = load_initial(objective, job.initial)
        if dist.get_rank() == 0:
            _log.info("%s begins with the given %s", job.name, ", ".join(taken))
    return objective


def attention(objective: Objective, params: TrainingParams, phases: Sequence[Phase], *, device: str) -> str:
    """The attention kernel of a run, which a GPU must have for heads as wide as those of student and teacher."""
    precision = torch.bfloat16 if params.engine.precision == "bf16" else torch.float32
    sizes = [phase.views.global_size for phase in phases]
    tokens = [1 + params.model.registers + (size // params.model.patch_size) ** 2 for size in sizes]
    models = [params.model, *(module.config for module in objective.modules() if isinstance(module, VisionTransformer))]
    kernels = [
        require_kernel(own_device(device), precision, head_width=width, tokens=tokens)
        for width in dict.fromkeys(model.width // model.heads for model in models)
    ]
    return kernels[0]


def _announce(job: Job, params: TrainingParams, engine: Engine, schedules: Schedule) -> None:
    if dist.get_rank() == 0:
        for key, size in params.batch_groups().items():
            if params.batch_size % size:
                _log.warning(
                    "%s %d does not divide a batch of %d: all of it is one group", key, size, params.batch_size
                )
        weights = sum(math.prod(shard.shape) for shard in engine.shards)
        _log.info(
            "%s: %d steps of %d images, %.1f million weights, %s, ZeRO-%d, %d process(es) of %d thread(s) on %s",
            *(job.name, schedules.steps, params.batch_size, weights / 1e6, params.engine.precision),
            *(params.engine.zero_stage, dist.get_world_size(), job.threads, job.device),
        )


def _write_result(job: Job, params: TrainingParams, averages: dict[str, Tensor], standing: Standing) -> None:
    if isinstance(params, distill.DistillParams):
        distill.save_student(params, averages, params.preprocess(), job.artifact, job.lineage)
    else:
        assert isinstance(params, pretrain.PretrainParams)
        pretrain.save_teacher(params, averages, params.preprocess(), job.artifact, job.lineage)
    standing.history.write_csv(job.history)


def _metrics(standing: Standing, params: TrainingParams, images: int) -> dict[str, float]:
    """Pure numbers: nothing of when or where."""
    return {
        "images": images,
        "images_seen": standing.trained * params.batch_size,
        "skipped_steps": standing.health.skipped,
        "steps": standing.step,
        **{f"final.{name}": value for name, value in standing.history.final().items()},
    }


def _resume(state: TrainingState, job: Job, standing: Standing, recorded: dict[str, Any]) -> None:
    """Puts the newest whole checkpoint back, if there is one that this run can go on from."""
    chosen: list[Path | None] = [None]
    if dist.get_rank() == 0:
        chosen[0] = state.newest(
            lambda found: resumable(
                found, total_steps=recorded["total_steps"], code=job.code, health=recorded["health_params"]
            )
        )
    dist.broadcast_object_list(chosen)
    if chosen[0] is None:
        state.start_at(0)
        return
    try:
        found = state.load(chosen[0])
    except CheckpointError as error:
        remedy = f"go on with the code that wrote it, or delete {chosen[0].parent}: the run then starts anew"
        raise UserError(f"{chosen[0]} cannot be gone on from: {error}", remedy=remedy) from None
    standing.restore(found)
    state.start_at(standing.step)
    if dist.get_rank() == 0:
        _log.info("%s goes on from step %d of %d", job.name, standing.step, recorded["total_steps"])
        for name, value in recorded.items():
            if name != "run_key" and found.get(name) != value:
                _log.warning("%s was %s at the checkpoint and is %s now", name, found.get(name), value)


def _store(job: Job, params: TrainingParams) -> CheckpointStore:
    return CheckpointStore(job.checkpoints, keep=params.checkpoint.keep)


@contextmanager
def _mirror(job: Job) -> Iterator[Mirror | None]:
    """Copies of the checkpoints, if the job asks for them; at the end the last one is waited for."""
    if job.mirror is None:
        yield None
        return
    params = job_params(job)
    copies = BucketCopies(job.mirror, job.checkpoints.name, endpoint=job.s3_endpoint, keep=params.checkpoint.keep)
    mirror = Mirror(copies, _store(job, params))
    patience = PREEMPTED_COPY_SECONDS
    try:
        yield mirror
        patience = LAST_COPY_SECONDS
    finally:
        mirror.close(patience)


@contextmanager
def _sole_writer(checkpoints: Path) -> Iterator[None]:
    """Keeps others from writing the same checkpoints.

    An earlier run that was killed a moment ago may take a second to be gone.

    Raises:
        UserError: if another run holds them.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + SOLE_WRITER_SECONDS
    while True:
        with file_lock(checkpoints / LOCK, blocking=False) as mine:
            if mine:
                yield
                return
        if time.monotonic() > deadline:
            raise UserError(f"another process trains {checkpoints.name}", remedy="wait for it, or end it")
        time.sleep(0.2)
