"""`selfsight drift`: whether the source has changed since the champion, in the champion's eyes."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.curation.drift import DriftParams, DriftReport, describe_growth, draw, measure_drift
from components.data.forgotten import read_forgotten, usable
from components.data.manifest import Manifest
from components.errors import UserError
from components.registry.images import ImageRecords, among, pack
from components.registry.versions import RegisteredVersion, champion
from components.settings import Settings
from components.stages import paths
from components.stages.params import PipelineParams, load_params
from flows.exclusion import sole_pipeline
from flows.output import Output
from flows.repro import Reproducer
from flows.snapshot import refresh_locks

if TYPE_CHECKING:
    from components.data.reading import Reader

RUN = "drift"
INGEST = "ingest"


@dataclass(frozen=True)
class Sides:
    """Images to compare, one of each group, drawn by hash."""

    older: tuple[str, ...]
    """Of the champion's snapshot, still in the source."""
    newer: tuple[str, ...]
    """Not of it."""
    arrived: int
    """Images that are not of the champion's snapshot, whether drawn or not."""


@dataclass(frozen=True)
class DriftDecision:
    """Whether to train a successor."""

    champion: RegisteredVersion
    sides: Sides
    report: DriftReport | None
    """None where there is too little to compare."""
    must_train: bool
    reason: str
    """In one sentence, with the p-value where there is one."""

    def lines(self) -> list[str]:
        """The decision for people."""
        older, newer = len(self.sides.older), len(self.sides.newer)
        lines = [
            f"champion   {self.champion.name} version {self.champion}, compared on {older} images of its snapshot",
            f"new        {self.sides.arrived} images, {newer} of them compared",
            f"decision   {self.reason}",
        ]
        if self.report is not None:
            low, high = (100 * one for one in self.report.far_interval)
            lines.append(
                f"far        {100 * self.report.far:.1f} % of the new images (95 % interval {low:.1f} to {high:.1f}); "
                "of the older ones it is 1 %"
            )
            lines += [f"growth     {line}" for line in describe_growth(self.report.clusters)]
        return lines


def drift_now(settings: Settings, on_output: Callable[[Output], None]) -> DriftDecision:
    """Takes a snapshot, ingests it, and compares it with that of the champion.

    Args:
        settings: where things are.
        on_output: called with what `ingest` prints.

    Raises:
        UserError: if there is no champion, a source cannot be read, or what new images would be curated with or trained
            from cannot be had.
        StageError: if `ingest` failed otherwise.
    """
    with sole_pipeline(settings.root):
        params = load_params(settings.root / paths.PARAMS)
        current = champion(settings)
        if current is None:
            raise UserError("there is no champion to compare with", remedy="`selfsight run`, then `selfsight promote`")
        refresh_locks(params, settings)
        return decide_drift(current, params, settings, on_output)


def decide_drift(
    current: RegisteredVersion, params: PipelineParams, settings: Settings, on_output: Callable[[Output], None]
) -> DriftDecision:
    """Ingests what the source lock names, compares it with the snapshot of the champion, and logs what came of it.

    The same lock, champion and parameters give the same decision, so that a turn of the loop that was cut off is taken
    up with the same one.

    Args:
        current: the champion.
        params: all parameters.
        settings: where things are.
        on_output: called with what `ingest` prints.

    Raises:
        UserError: if the champion or an image cannot be read.
        StageError: if `ingest` failed otherwise.
    """
    with Reproducer(settings.root) as stages:
        stages.repro(INGEST, on_output, is_last=True)
    forgotten = read_forgotten(settings.root / paths.FORGOTTEN_LOCK)
    manifest = usable(Manifest.load(settings.root / paths.MANIFEST), forgotten)
    sides = _sides(current, manifest, params.drift, settings)
    if sides is None:
        reason = f"nothing tells any more which images version {current} comes from: nothing to compare with"
        return DriftDecision(current, Sides((), (), 0), None, True, reason)
    least = params.drift.min_images
    if len(sides.newer) < least:
        reason = f"no drift: {len(sides.newer)} independent new images, fewer than drift.min_images {least}"
        return DriftDecision(current, sides, None, False, reason)
    if len(sides.older) < least:
        reason = f"drift: {len(sides.older)} independent images of the champion are left in the source"
        return DriftDecision(current, sides, None, True, reason)
    return _measured(current, sides, manifest, params.drift, settings)


def _sides(current: RegisteredVersion, manifest: Manifest, params: DriftParams, settings: Settings) -> Sides | None:
    records, present = ImageRecords(settings), manifest.ids("train")
    pool = records.pool(current)
    packed = records.trained(current) if pool is None else pack(pool)
    if packed is None:
        return None
    known = among(present, packed)
    older, newer = [one for one in present if one in known], [one for one in present if one not in known]
    drawn = [tuple(draw(ids, manifest.groups(ids), params.images, params.seed)) for ids in (older, newer)]
    return Sides(drawn[0], drawn[1], len(newer))


def _measured(
    current: RegisteredVersion, sides: Sides, manifest: Manifest, params: DriftParams, settings: Settings
) -> DriftDecision:
    import torch

    from components.data.shard_access import open_shards
    from components.features.extraction import extract
    from components.models.backbone import load_backbone

    backbone = load_backbone(current.uri, expected_hash=current.digest or None)
    with open_shards(settings.root / paths.SHARDS, manifest.locations, settings) as reader:
        features = extract(
            backbone.model,
            reader,
            (*sides.older, *sides.newer),
            backbone.preprocess,
            batch_size=params.batch_size,
            device=settings.torch_device(),
            description="drift",
        )
        vectors = torch.nn.functional.normalize(features.last, dim=-1)
        report = measure_drift(vectors[: len(sides.older)], vectors[len(sides.older) :], params)
        _log(current, sides, report, params, reader, settings)
    return DriftDecision(current, sides, report, report.is_drift, str(report))


def _log(
    current: RegisteredVersion,
    sides: Sides,
    report: DriftReport,
    params: DriftParams,
    reader: "Reader",
    settings: Settings,
) -> None:
    from components.curation.drift_pictures import draw_farthest, draw_report
    from components.tracking import start_run

    tags = {"stage": RUN, "champion": current.version, "decision": str(report)}
    counts = {"images.older": len(sides.older), "images.new": len(sides.newer), "images.arrived": sides.arrived}
    with start_run(RUN, params=params.model_dump(mode="json"), tags=tags, settings=settings) as run:
        run.log_metrics({**report.metrics(), **counts})
        with tempfile.TemporaryDirectory() as folder:
            summary, farthest = Path(folder) / "drift.png", Path(folder) / "farthest.png"
            draw_report(report, summary)
            draw_farthest(report, sides.newer, reader, farthest)
            for picture in (summary, farthest):
                run.log_artifact(picture, RUN)
