"""How many images came to each step of curation, how many went, and why."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from components.data.manifest import Manifest

SAME_BYTES = "same-bytes"
FORGOTTEN = "forgotten"
NOT_RETRIEVED = "not-retrieved"
SCHEMA = pa.schema([("step", pa.string()), ("came", pa.int64()), ("reason", pa.string()), ("went", pa.int64())])
"""Columns of the funnel as a table: one row a reason, and one without a reason where nothing went."""


@dataclass(frozen=True)
class Step:
    """One step of the funnel."""

    stage: str
    """That did it."""
    came: int
    went: dict[str, int]
    """Number of images by reason, in the order of the names."""

    @property
    def stayed(self) -> int:
        """Images that go on to the next step."""
        return self.came - sum(self.went.values())


def funnel(manifest: Manifest, groups: pa.Table, curated: Sequence[str]) -> list[Step]:
    """Follow the training part from the files of the source to the images that are trained on.

    Args:
        manifest: every file and image.
        groups: `id` and `reason` of the images that deduplication saw.
        curated: ids that retrieval chose.

    Returns:
        Steps of which each begins with what the one before left: `ingest` twice (files with the same bytes, images
        that do not decode), `dedup`, `retrieve`.
    """
    files = manifest.sources.filter(pc.equal(manifest.sources["split"], "train"))["id"]
    distinct = pc.unique(files)
    images = manifest.images.filter(pc.is_in(manifest.images["id"], value_set=distinct))
    unusable = images.filter(pc.not_equal(images["status"], "ok"))
    reasons = Counter(pc.coalesce(unusable["reason"], unusable["status"]).to_pylist())
    seen = Counter(groups["reason"].to_pylist())
    readable = len(distinct) - len(unusable)
    kept = seen["unique"] + seen["representative"]
    gone = {reason: seen[reason] for reason in ("duplicate", "leak")} | {FORGOTTEN: readable - groups.num_rows}
    return [
        _step("ingest", len(files), {SAME_BYTES: len(files) - len(distinct)}),
        _step("ingest", len(distinct), reasons),
        _step("dedup", readable, gone),
        _step("retrieve", kept, {NOT_RETRIEVED: kept - len(curated)}),
    ]


def _step(stage: str, came: int, went: dict[str, int]) -> Step:
    return Step(stage, came, {reason: count for reason, count in sorted(went.items()) if count})


def funnel_metrics(steps: Sequence[Step]) -> dict[str, float]:
    """Return `funnel.files`, `funnel.trained_on`, `funnel.STAGE.came`, `funnel.STAGE.stayed`, `funnel.went.REASON`."""
    metrics: dict[str, float] = {"funnel.files": steps[0].came, "funnel.trained_on": steps[-1].stayed}
    for step in steps:
        metrics.setdefault(f"funnel.{step.stage}.came", step.came)
        metrics[f"funnel.{step.stage}.stayed"] = step.stayed
        metrics |= {f"funnel.went.{reason}": count for reason, count in step.went.items()}
    return metrics


def funnel_table(steps: Sequence[Step]) -> pa.Table:
    """Return the funnel as a table, see `SCHEMA`."""
    rows = []
    for step in steps:
        went: list[tuple[str | None, int]] = [*step.went.items()] or [(None, 0)]
        rows += [{"step": step.stage, "came": step.came, "reason": reason, "went": count} for reason, count in went]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
