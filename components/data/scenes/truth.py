"""The truth of a set of scenes as a table, one row for every file."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from components.data.scenes.actions import draw_action, motion
from components.data.scenes.content import detail, layout
from components.data.scenes.layout import EVAL
from components.data.scenes.plan import Entry, entry
from components.data.scenes.spec import ScenesSpec

SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("kind", pa.string()),  # image, copy, leak, off_topic, broken, negative
        ("original", pa.string()),  # name of what a copy, leak or negative was made from
        ("transform", pa.string()),  # of a copy or leak
        ("detail", pa.string()),  # parts of `combined`, kind of an off-topic picture, way of breaking
        ("negative_kind", pa.string()),  # scene, pose, colours, background, frame
        ("class", pa.string()),  # null for off-topic pictures and broken files
        ("instance", pa.string()),
        ("scene", pa.string()),  # name of the background
        ("clip", pa.string()),
        ("frame", pa.int32()),
        ("action", pa.string()),
        ("motion", pa.float64()),  # mean displacement from the original, in sides of the picture
        ("x", pa.float64()),  # pose of the main object in [-1, 1], to the right
        ("y", pa.float64()),  # downwards
        ("scale", pa.float64()),  # radius in half-sides
        ("rotation", pa.float64()),  # radians
    ]
)
"""Columns of the truth table."""


def instance_name(one: Entry) -> str:
    """For example `fish-07`."""
    return f"{one.category}-{one.instance:02d}"


def clip_name(one: Entry) -> str | None:
    """For example `clip-0000123`; None outside clips."""
    return None if one.clip is None else f"clip-{one.clip:07d}"


def table(spec: ScenesSpec, planned: Sequence[Entry]) -> pa.Table:
    """Return the truth of some entries."""
    return pa.Table.from_pylist([_row(spec, one) for one in planned], schema=SCHEMA)


def _row(spec: ScenesSpec, one: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": one.name,
        "kind": one.kind,
        "transform": one.transform,
        "detail": detail(spec, one),
        "negative_kind": one.negative_kind,
        "clip": clip_name(one),
        "frame": one.frame,
    }
    if one.clip is not None:
        row["action"] = draw_action(spec, one.clip)[0]
    original = None
    if one.original is not None:
        original = entry(spec, EVAL if one.kind == "leak" else one.part, one.original)
        row["original"] = original.name
    if one.kind in ("off_topic", "broken"):
        return row
    shown = layout(spec, original if original and one.kind in ("copy", "leak") else one)
    if shown is None:
        return row
    row |= {"class": one.category, "instance": shown.main.instance.name, "scene": shown.background.name}
    if one.kind in ("copy", "leak"):
        return row
    pose = shown.main.pose
    row |= {"x": pose.x, "y": pose.y, "scale": pose.scale, "rotation": pose.rotation}
    if one.negative_kind in ("frame", "pose") and original is not None:
        before = layout(spec, original)
        row["motion"] = motion(before.main.pose, pose) if before else None
    return row
