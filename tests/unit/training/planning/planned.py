"""Small training parameters of every kind, and a batch for them."""

from dataclasses import replace
from typing import Any

import torch

from components.data.batch import CropBatch
from components.data.masking import draw_masks
from components.objectives import StepState
from components.parameters import validate
from components.training.distill import DistillParams
from components.training.planning.workload import Workload
from components.training.pretrain import PretrainParams
from components.training.recipe import TrainingParams

IMAGES = 8
MODEL = {"image_size": 32, "patch_size": 4, "width": 64, "depth": 3, "heads": 2}
VIEWS = {"global_size": 32, "local_size": 16, "local_crops": 3}
HEAD = {"hidden": 96, "bottleneck": 48, "prototypes": 320}
OTHER_HEAD = {"hidden": 80, "bottleneck": 32, "prototypes": 256}
PRETRAIN: dict[str, Any] = {
    "steps": 100,
    "batch_size": IMAGES,
    "model": MODEL,
    "views": VIEWS,
    "objective": {"dino_head": HEAD, "koleo_group": IMAGES, "drop_path_group": IMAGES},
}
STATE = StepState(step=0, seed=0, teacher_temperature=0.05)
CASES: dict[str, dict[str, Any]] = {
    "one head, MLP": {},
    "two heads, SwiGLU, registers": {
        "model": {**MODEL, "ffn": "swiglu", "registers": 3},
        "objective": {**PRETRAIN["objective"], "ibot_head": OTHER_HEAD, "centring": "sinkhorn"},
    },
    "stochastic depth, no LayerScale": {"model": {**MODEL, "drop_path": 0.25, "layer_scale": None}},
    "no local crops, no iBOT": {
        "views": {**VIEWS, "local_crops": 0},
        "objective": {**PRETRAIN["objective"], "ibot_weight": 0.0},
    },
}


def pretrain(**changes: Any) -> PretrainParams:
    return validate(PretrainParams, {**PRETRAIN, **changes}, where="test")


def distill(**changes: Any) -> DistillParams:
    student = {**MODEL, "width": 32, "depth": 2}
    return validate(DistillParams, {**PRETRAIN, "model": student, **changes}, where="test")


def batch_of(params: TrainingParams, images: int = IMAGES) -> CropBatch:
    """Noise in the shape of crops."""
    views = params.views
    sizes = [(2, views.global_size), (views.local_crops, views.local_size)]
    crops = [torch.randn(count * images, 3, size, size) for count, size in sizes if count]
    masks = draw_masks(
        params.masks, seed=0, step=0, crops=2 * images, grid=views.global_size // params.model.patch_size
    )
    return CropBatch(crops, masks, tuple(map(str, range(images))), torch.arange(images), 0)


def with_patch_rows(workload: Workload, rows: float) -> Workload:
    """The work, with as many masked patches an image as were drawn."""
    branches = {name: replace(getattr(workload, name), patch_rows=rows) for name in ("student", "teacher")}
    return Workload(**branches)
