"""Small real backbone artifacts, registered or not, for tests."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from components.models.backbone import Preprocess, save_backbone
from components.models.vit import VisionTransformer, ViTConfig

CONFIG = ViTConfig(name="test", image_size=8, patch_size=4, width=8, depth=2, heads=2, layer_scale=None)
SAME_IMAGES = {"queries": "q" * 64, "bank": "b" * 64, "protocol": "p" * 64}


def evaluation(
    knn: float | None, *, pixels: float | None = 0.3, images: Mapping[str, str] = SAME_IMAGES, **more: float
) -> dict[str, Any]:
    """What `release` records about the evaluation of a teacher; `knn` None: no labels."""
    metrics = {"teacher.effective_rank": 5.0, **more}
    if knn is not None:
        metrics |= {"teacher.knn.top1": knn, "teacher.knn.top1.low": knn - 0.02, "teacher.knn.top1.high": knn + 0.02}
        metrics |= {} if pixels is None else {"pixels.knn.top1": pixels}
    return {"role": "teacher", "metrics": metrics, **images}


def make_artifact(folder: Path, seed: int = 0, **lineage: Any) -> Path:
    """A tiny backbone with random weights; another seed, another artifact."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VisionTransformer(CONFIG)
    save_backbone(model, Preprocess(image_size=8, resize=8), folder, lineage=lineage, card=f"# test {seed}\n")
    return folder


def read_json(path: Path) -> Any:
    """Content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
