"""A training stage that takes seconds: a few small pictures, and a program that trains on them as a stage does.

As a program: `python -m tests.tiny_training FOLDER PARAMS.json [NAME]`, in a folder made by `make_data`.
"""

import hashlib
import io
import json
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from components.data.lock import Role
from components.data.manifest import IMAGES, SOURCES, Manifest
from components.data.shard_writer import ShardWriter
from components.data.tables import write_table

HEAD = {"hidden": 32, "bottleneck": 16, "prototypes": 48, "layers": 2}
PRETRAIN: dict[str, Any] = {
    "steps": 8,
    "batch_size": 8,
    "model": {"image_size": 16, "patch_size": 4, "width": 32, "depth": 2, "heads": 2, "drop_path": 0.25},
    "views": {"global_size": 16, "local_size": 8, "local_crops": 2},
    "objective": {"dino_head": HEAD, "ibot_head": HEAD, "koleo_group": 2, "drop_path_group": 2},
    "schedule": {"lr": 0.01, "momentum": 0.9},
    "log_every": 2,
}
DISTILL: dict[str, Any] = {
    **PRETRAIN,
    "model": {"image_size": 16, "patch_size": 4, "width": 16, "depth": 2, "heads": 2},
}


def make_data(folder: Path, images: int = 24) -> None:
    """`manifest`, `shards` and `curated` with pictures of stripes."""
    for name in ("manifest", "shards", "curated"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, sources = [], []
    role: Role = "train"
    with ShardWriter(folder / "shards") as writer:
        for number in range(images):
            stripes = np.sin(np.arange(24)[:, None] * rng.uniform(0.2, 2) + np.zeros(24)) * 90 + 128
            pixels = (stripes[..., None] * rng.uniform(0.4, 1, 3)).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            data = buffer.getvalue()
            one = hashlib.sha256(data).hexdigest()
            writer.write(one, "png", data)
            rows.append((one, "PNG", 24, 24, number, "ok", None))
            sources.append((one, f"file:{number}", f"{number}.png", role, None, None, None))
    by_column = [pa.table(dict(zip(s.names, zip(*r, strict=True), strict=True)), schema=s)
                 for s, r in ((IMAGES, rows), (SOURCES, sources))]  # fmt: skip
    Manifest(images=by_column[0], sources=by_column[1], locations=writer.locations()).save(folder / "manifest")
    write_table(pa.table({"id": sorted(row[0] for row in rows)}), folder / "curated" / "ids.parquet")


def train(folder: Path, params: dict[str, Any], name: str) -> dict[str, float]:
    """Trains into FOLDER/NAME and FOLDER/NAME.csv, as a stage would; `distill` distils FOLDER/pretrain."""
    from components.parameters import validate
    from components.settings import get_settings
    from components.training.distill import DistillParams
    from components.training.initial import resolve_initial
    from components.training.launch import Training, TrainingInputs
    from components.training.pretrain import PretrainParams

    teacher = folder / "pretrain" if name == "distill" else None
    model = DistillParams if name == "distill" else PretrainParams
    checked = validate(model, params, where="test")
    initial = resolve_initial(checked.initial, checked.model) if isinstance(checked, PretrainParams) else None
    inputs = TrainingInputs(
        folder / "manifest" / "locations.parquet", folder / "shards", folder / "curated", teacher, initial
    )
    training = Training(name, checked, inputs, get_settings())
    if get_settings().node_rank > 0:
        training.assist()
        return {}
    return training.run(artifact=folder / name, history=folder / f"{name}.csv", tracking=None)


def main() -> None:
    """Runs `train` and writes its metrics to NAME.json."""
    import logging

    logging.basicConfig(level=logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as the stage runner does
    folder, params = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    name = sys.argv[3] if len(sys.argv) > 3 else "pretrain"
    metrics = train(folder, params, name)
    if metrics:
        (folder / f"{name}.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    main()
