"""Making the artifact that is registered: weights, lineage and model card in one folder."""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc
from pydantic import Field

from components.data.forgotten import load_usable
from components.data.manifest import Manifest
from components.data.tables import read_table
from components.errors import UserError
from components.models.backbone import CARD, CONFIG, HEADS, LINEAGE, PREPROCESS, WEIGHTS, load_backbone
from components.parameters import Params
from components.registry.card import DataSummary, model_card
from components.registry.lineage import IDS, describe_lineage, evaluation_identity

KEPT = "kept.parquet"


class ReleaseParams(Params):
    """What is released."""

    model: Literal["teacher", "student"] = Field("teacher", description="which of the two becomes a registered version")
    heads: bool = Field(
        True, description="keep the prototype heads, if there are any, so that pretraining can be continued"
    )


@dataclass(frozen=True)
class ReleaseSources:
    """Folders and files a release is made from."""

    teacher: Path
    student: Path
    manifest: Path
    dedup: Path
    curated: Path
    metrics: Path
    """`metrics/evaluate.json`"""
    source_lock: Path
    embedder_lock: Path

    def dependencies(self) -> Iterable[Path]:
        """All of them, sorted."""
        data = (self.source_lock, self.embedder_lock, self.manifest, self.dedup, self.curated)
        return sorted((*data, self.teacher, self.student, self.metrics))


def assemble_release(
    params: ReleaseParams,
    sources: ReleaseSources,
    folder: Path,
    *,
    parameters: Mapping[str, Any],
    protocol: Mapping[str, Any],
) -> dict[str, float]:
    """Writes the artifact.

    Args:
        params: which model.
        sources: what it is made from; paths relative to the project's root, because the lineage names them.
        folder: to make.
        parameters: sections of params.yaml that the weights depend on.
        protocol: those of the parameters that decide the scores.

    Returns:
        Metrics of the stage: `parameters` (weights), `bytes`, and the released model's scores without its role.

    Raises:
        UserError: if a source is missing or damaged.
    """
    chosen = sources.teacher if params.model == "teacher" else sources.student
    backbone = load_backbone(chosen)
    manifest = load_usable(sources.manifest, sources.dedup)
    metrics = {str(key): float(value) for key, value in _read_json(sources.metrics, "dvc repro evaluate").items()}
    lineage = describe_lineage(
        role=params.model,
        teacher=sources.teacher,
        student=sources.student,
        curated=sources.curated,
        embedder=_read_json(sources.embedder_lock, "selfsight snapshot"),
        parameters=parameters,
        dependencies=sources.dependencies(),
        evaluation={"metrics": metrics, **evaluation_identity(manifest, sources.dedup / KEPT, protocol)},
    )
    folder.mkdir(parents=True)
    for file in (CONFIG, WEIGHTS, PREPROCESS, *((HEADS,) if params.heads else ())):
        if (chosen / file).exists():
            shutil.copyfile(chosen / file, folder / file)
    (folder / LINEAGE).write_text(json.dumps(lineage, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
    data = summarise(manifest, sources.dedup / KEPT, sources.curated / IDS)
    card = model_card(backbone, lineage=lineage, metrics=metrics, data=data)
    (folder / CARD).write_text(card, encoding="utf-8")
    role = f"{params.model}."
    own = {key.removeprefix(role): value for key, value in metrics.items() if key.startswith(role)}
    weights = sum(one.numel() for one in backbone.model.parameters())
    return {"parameters": weights, "bytes": sum(one.stat().st_size for one in folder.iterdir()), **own}


def summarise(manifest: Manifest, kept: Path, curated: Path) -> DataSummary:
    """Counts images for the card."""
    evaluation = manifest.ids("eval")
    return DataSummary(
        train=len(manifest.ids("train")),
        kept=read_table(kept, ["id"]).num_rows,
        curated=read_table(curated, ["id"]).num_rows,
        evaluation=len(evaluation),
        quarantined=int(pc.sum(pc.equal(manifest.images["status"], "quarantined")).as_py() or 0),
        classes=len({label for label in manifest.labels(evaluation) if label is not None}),
    )


def _read_json(path: Path, maker: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", remedy=f"run `{maker}`, or fetch it with git") from None
    except ValueError as error:
        raise UserError(f"{path}: no JSON ({error})", remedy=f"delete it and run `{maker}`") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no JSON object", remedy=f"delete it and run `{maker}`")
    return values
