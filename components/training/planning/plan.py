"""A plan: what a recipe needs on so many GPUs, and how long it takes."""

from dataclasses import dataclass

from components.errors import UserError
from components.training.distill import DistillParams
from components.training.planning import workload
from components.training.planning.advice import batch_warnings, memory_warnings, shape_warnings
from components.training.planning.flops import Flops, model_flops, run_flops
from components.training.planning.inventory import Inventory
from components.training.planning.memory import Memory, memory
from components.training.planning.workload import Workload
from components.training.pretrain import PretrainParams
from components.training.recipe import TrainingParams
from components.training.schedules import Schedules

TERA = 1e12


@dataclass(frozen=True)
class Machines:
    """What the run is to be planned for.

    Attributes:
        gpus: over all machines.
        memory: of one GPU, bytes.
        tflops: matrix products of one GPU, TFLOP/s in the precision of the run.
        measured: whether that was measured here, not assumed.
        utilisation: share of it that training is expected to reach.
    """

    gpus: int
    memory: float
    tflops: float
    measured: bool
    utilisation: float


@dataclass(frozen=True)
class Plan:
    """What a training stage needs.

    Attributes:
        stage: `pretrain` or `distill`.
        params: of the stage.
        machines: that it is planned for.
        inventory: its weights.
        workloads: its work for an image in each phase.
        images: of one forward pass on one GPU.
        micro_batches: forward passes of a step.
        memory: of one GPU in the phase that needs most, bytes.
        dataset: images to train on; None: not known.
        warnings: what is wrong or wasteful, each with its remedy.
    """

    stage: str
    params: TrainingParams
    machines: Machines
    inventory: Inventory
    workloads: tuple[Workload, ...]
    images: int
    micro_batches: int
    memory: Memory
    dataset: int | None
    warnings: tuple[str, ...]

    @property
    def workload(self) -> Workload:
        """Of the first phase."""
        return self.workloads[0]

    @property
    def model_flops(self) -> Flops:
        """Of the mathematics of one image of the first phase."""
        return model_flops(self.workload)

    @property
    def run_flops(self) -> Flops:
        """Of what is run for one image of the first phase."""
        return run_flops(self.workload)

    @property
    def images_per_second(self) -> tuple[float, ...]:
        """Over all GPUs in each phase, communication and data loading not counted."""
        machines = self.machines
        rate = machines.gpus * machines.tflops * TERA * machines.utilisation
        return tuple(rate / run_flops(work).total for work in self.workloads)

    @property
    def steps(self) -> int | None:
        """Of the whole run; None: the recipe counts epochs, and the number of images is not known."""
        if self.params.steps is None and self.dataset is None:
            return None
        return self.params.total_steps(self.dataset or 0)

    @property
    def seconds(self) -> float | None:
        """Of the whole run."""
        if self.steps is None:
            return None
        phases = zip(self.params.phases(self.steps), self.images_per_second, strict=True)
        return sum((phase.stop - phase.start) * self.params.batch_size / rate for phase, rate in phases)

    @property
    def peak_lr(self) -> float:
        """Learning rate after the warm-up, scaled to the batch."""
        return Schedules(self.params.schedule, 1, self.params.batch_size).peak_lr


def plan_pretraining(params: PretrainParams, machines: Machines, dataset: int | None) -> Plan:
    """Plans the stage `pretrain`.

    Raises:
        UserError: if its last phase would leave no steps before it.
    """
    inventory = Inventory.of_pretraining(params)
    return _plan("pretrain", params, machines, dataset, inventory, workload.phases_of_pretraining(params))


def plan_distillation(params: DistillParams, teacher: PretrainParams, machines: Machines, dataset: int | None) -> Plan:
    """Plans the stage `distill`, with the teacher that `pretrain` gives."""
    inventory = Inventory.of_distillation(params, teacher)
    return _plan("distill", params, machines, dataset, inventory, (workload.distillation(params, teacher),))


def _plan(
    stage: str,
    params: TrainingParams,
    machines: Machines,
    dataset: int | None,
    inventory: Inventory,
    works: tuple[Workload, ...],
) -> Plan:
    if params.steps is not None or dataset is not None:
        params.phases(params.total_steps(dataset or 0))
    refused = []
    try:
        share = params.share(machines.gpus)
    except UserError as error:
        refused.append(f"training would refuse this: {error}")
        share = max(params.batch_size // machines.gpus, 2)
    images = min(params.engine.micro_batch or share, share)

    def need(count: int) -> Memory:
        phases = [memory(inventory, work, params.engine, gpus=machines.gpus, images=count) for work in works]
        return max(phases, key=lambda phase: phase.total)

    return Plan(
        stage=stage,
        params=params,
        machines=machines,
        inventory=inventory,
        workloads=works,
        images=images,
        micro_batches=max(share // images, 1),
        memory=need(images),
        dataset=dataset,
        warnings=(
            *refused,
            *batch_warnings(params, machines.gpus, images, dataset),
            *memory_warnings(lambda count: need(count).total, images, machines.memory, works[0].student),
            *dict.fromkeys(text for work in works for text in shape_warnings(work)),
        ),
    )
