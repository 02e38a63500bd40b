"""What is wrong or wasteful in a plan, each line with its remedy."""

from collections.abc import Callable, Iterator

from components.objectives.dinov2 import DINOv2Params
from components.training.distill import DistillParams
from components.training.planning.workload import BranchWork, Workload
from components.training.pretrain import PretrainParams
from components.training.recipe import TrainingParams

HEAD_MULTIPLE = 64
WIDTH_MULTIPLE = 256
TOKEN_MULTIPLE = 8
USABLE_SHARE = 0.9
"""Of the memory of a GPU: the rest goes to the CUDA context, the communication library and gaps between tensors."""
TILE_ROWS = 64
"""Advised where there are none: enough rows for a matrix product, and 64 MiB of logits with 262,144 prototypes."""
GIB = 2**30


def shape_warnings(work: Workload) -> list[str]:
    """Shapes that leave parts of a matrix unit idle: each dimension is processed in tiles, the last of them padded."""
    found: list[str] = []
    models = {work.student.model: "student", work.teacher.model: "teacher"}
    for model, whose in models.items():
        of = "" if len(models) == 1 else f" of the {whose}"
        head = model.width // model.heads
        if head % HEAD_MULTIPLE:
            found.append(
                f"attention heads{of} are {head} wide, not a multiple of {HEAD_MULTIPLE}: "
                f"take {max(model.width // HEAD_MULTIPLE, 1)} heads instead of {model.heads}"
            )
        if model.width % WIDTH_MULTIPLE:
            nearest = max(round(model.width / WIDTH_MULTIPLE), 1) * WIDTH_MULTIPLE
            found.append(
                f"the embedding{of} is {model.width} wide, not a multiple of {WIDTH_MULTIPLE}: {nearest} would be"
            )
    found += _token_warnings(work.student)
    return found


def _token_warnings(student: BranchWork) -> Iterator[str]:
    odd = [kind for kind in student.crops if kind.tokens % TOKEN_MULTIPLE]
    for kind in odd:
        yield (
            f"{kind.name} crops of {kind.size} pixels have {kind.tokens} tokens, not a multiple of {TOKEN_MULTIPLE}: "
            f"{(-1 - kind.patches) % TOKEN_MULTIPLE} registers, or another crop size, would make it one"
        )


def batch_warnings(params: TrainingParams, gpus: int, images: int, dataset: int | None) -> list[str]:
    """How batch, GPUs and images go together, beyond what training refuses.

    Args:
        params: of the stage.
        gpus: how many there are.
        images: of one forward pass on one GPU.
        dataset: images to train on; None: not known.
    """
    found = []
    if dataset is not None and dataset < params.batch_size:
        found.append(f"a batch of {params.batch_size} needs as many images, and there are {dataset}: lower batch_size")
    assert isinstance(params, PretrainParams | DistillParams)
    objective: DINOv2Params = params.objective
    together = images * gpus
    if objective.centring == "sinkhorn" and together < params.batch_size:
        found.append(
            f"Sinkhorn balances the {together} images of one forward pass over all GPUs, not the batch of "
            f"{params.batch_size}: take more GPUs or a larger engine.micro_batch, or centring softmax, whose centre is "
            "that of the batch"
        )
    return found


def memory_warnings(need: Callable[[int], float], images: int, available: float, work: BranchWork) -> list[str]:
    """Whether the run fits.

    Args:
        need: bytes for so many images of a forward pass.
        images: of a forward pass.
        available: bytes of a GPU.
        work: of the student.
    """
    usable = USABLE_SHARE * available
    if need(images) <= usable:
        return []
    said = (
        f"{need(images) / GIB:.0f} GiB of memory, and a GPU has {available / GIB:.0f}, of which {usable / GIB:.0f} are "
    )
    said += "usable: "
    smaller = next((count for count in range(images - 1, 1, -1) if images % count == 0 and need(count) <= usable), None)
    ways = [] if smaller is None else [f"set engine.micro_batch to {smaller}"]
    ways += [] if work.recompute else ["set engine.activation_checkpointing to true"]
    ways += [] if work.tile_rows is not None else [f"set objective.tile_rows to {TILE_ROWS}"]
    more = "take more GPUs, or larger ones" if smaller is None else "take more GPUs"
    return [said + ", or ".join([*ways, more])]
