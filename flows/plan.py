"""`selfsight plan`: what training needs, before anything is rented. Nothing is written or started."""

from dataclasses import dataclass, field
from typing import Literal

from components.settings import Settings
from components.stages import paths
from components.stages.params import parse_params
from components.training.planning.matmul_rate import ASSUMED_TFLOPS, matmul_tflops
from components.training.planning.plan import Machines, Plan, plan_distillation, plan_pretraining
from flows.params_edit import RECIPES, Request, edited_params

GIB = 2**30
ASSUMED_GIB = 80.0
"""Memory of a GPU, where there is none to ask."""


@dataclass(frozen=True)
class Question:
    """What is to be planned.

    Attributes:
        stage: which stage.
        request: changes to params.yaml: a recipe, single keys.
        gpus: over all machines.
        batch: images of a step; None: as in the parameters.
        images: to train on; None: the curated ones, if there are any.
        tflops: matrix products of one GPU, TFLOP/s; None: measured, or assumed where there is no GPU.
        utilisation: share of it that training reaches.
        memory: of one GPU, GiB; None: asked, or assumed.
    """

    stage: Literal["pretrain", "distill"]
    request: Request = field(default=Request())
    gpus: int = 1
    batch: int | None = None
    images: int | None = None
    tflops: float | None = None
    utilisation: float = 0.5
    memory: float | None = None


def make_plan(question: Question, settings: Settings) -> Plan:
    """Plans a training stage.

    Raises:
        UserError: if the parameters are wrong.
    """
    batch = () if question.batch is None else (f"{question.stage}.batch_size={question.batch}",)
    asked = question.request
    request = Request(asked.data, asked.eval, asked.recipe, (*asked.overrides, *batch))
    text = edited_params(settings.root / paths.PARAMS, request, recipes=settings.root / RECIPES)
    params = parse_params(text, where=paths.PARAMS.name)
    section = params.distill if question.stage == "distill" else params.pretrain
    machines = _machines(question, settings, section.engine.precision)
    images = question.images if question.images is not None else _curated(settings)
    if question.stage == "distill":
        return plan_distillation(params.distill, params.pretrain, machines, images)
    return plan_pretraining(params.pretrain, machines, images)


def _machines(question: Question, settings: Settings, precision: str) -> Machines:
    here = settings.torch_device() == "cuda"
    memory = question.memory or ASSUMED_GIB
    if here and question.memory is None:
        import torch

        memory = torch.cuda.get_device_properties(0).total_memory / GIB
    tflops = question.tflops
    if tflops is None:
        tflops = matmul_tflops("cuda", precision) if here else ASSUMED_TFLOPS[precision]
    return Machines(
        gpus=question.gpus,
        memory=memory * GIB,
        tflops=tflops,
        measured=here and question.tflops is None,
        utilisation=question.utilisation,
    )


def _curated(settings: Settings) -> int | None:
    """How many images curation has left, if it has run."""
    path = settings.root / paths.CURATED / "ids.parquet"
    if not path.exists():
        return None
    import pyarrow.parquet

    return int(pyarrow.parquet.read_metadata(path).num_rows)
