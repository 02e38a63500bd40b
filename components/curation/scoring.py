"""Curation measured against planted truth."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa


def score_deduplication(groups: pa.Table, truth: pa.Table) -> dict[str, float]:
    """Compare groups with what was planted.

    Two training images are truly copies if both derive from one original. They are found to be copies if they are in
    one component. So a component of three counts as three pairs, whichever of its edges were seen.

    Args:
        groups: `id`, `component`, `kept`, `reason` of the training images.
        truth: `id`, `split`, `name`, `kind`, `original`, `transform`, `negative_kind`.

    Returns:
        Of the pairs `precision` and `recall`; `leak_precision`: share of the images discarded as leaks that derive from
        an evaluation image; `leak_recall`: share of those that derive from one that are discarded; `recall.TRANSFORM`:
        share of the planted copies that were put together with their original, or discarded as leaks of it;
        `survived.KIND`: share of the hard negatives that were not put together with their original. What has no cases
        is left out.
    """
    rows = [row for row in truth.to_pylist() if row["id"]]
    family = {row["id"]: _root(row) for row in rows}
    component = dict(zip(groups["id"].to_pylist(), groups["component"].to_pylist(), strict=True))
    reason = dict(zip(groups["id"].to_pylist(), groups["reason"].to_pylist(), strict=True))
    known = [one for one in component if one in family]
    found = _pairs(component[one] for one in known)
    real = _pairs(family[one] for one in known)
    both = _pairs((component[one], family[one]) for one in known)
    held_out = {row["name"] for row in rows if row["split"] == "eval"}
    leaks = [one for one in known if family[one] in held_out]
    discarded = [one for one in known if reason[one] == "leak"]
    right = sum(family[one] in held_out for one in discarded)
    scores = {
        "precision": _share(both, found),
        "recall": _share(both, real),
        "leak_precision": _share(right, len(discarded)),
        "leak_recall": _share(right, len(leaks)),
        **_by_transform(rows, component, reason),
        **_by_negative(rows, component),
    }
    return {name: value for name, value in scores.items() if value is not None}


def _root(row: Mapping[str, Any]) -> str:
    return str(row["original"] if row["kind"] in ("copy", "leak") else row["name"])


def _pairs(keys: Iterable[object]) -> int:
    """Number of pairs with equal keys."""
    return sum(count * (count - 1) // 2 for count in Counter(keys).values())


def _by_transform(
    rows: list[dict[str, Any]], component: Mapping[str, str], reason: Mapping[str, str]
) -> dict[str, float | None]:
    named = {row["name"]: row["id"] for row in rows}
    hits: dict[str, list[bool]] = {}
    for row in rows:
        one = row["id"]
        if row["transform"] is None or one not in component:
            continue
        original = named.get(row["original"] or "", "")
        if row["kind"] == "leak":
            hits.setdefault(row["transform"], []).append(reason[one] == "leak")
        elif original in component:
            hits.setdefault(row["transform"], []).append(component[one] == component[original])
    return {f"recall.{name}": _share(sum(found), len(found)) for name, found in sorted(hits.items())}


def _by_negative(rows: list[dict[str, Any]], component: Mapping[str, str]) -> dict[str, float | None]:
    named = {row["name"]: row["id"] for row in rows}
    apart: dict[str, list[bool]] = {}
    for row in rows:
        original = named.get(row["original"] or "", "")
        if row["negative_kind"] is not None and row["id"] in component and original in component:
            apart.setdefault(row["negative_kind"], []).append(component[row["id"]] != component[original])
    return {f"survived.{name}": _share(sum(kept), len(kept)) for name, kept in sorted(apart.items())}


def score_retrieval(chosen: set[str], base: set[str], truth: pa.Table) -> dict[str, float]:
    """Measure a choice of images against what is known to be off topic.

    Args:
        chosen: ids that retrieval kept.
        base: ids it chose from.
        truth: `id`, `kind`.

    Returns:
        `off_topic_dropped` and `on_topic_kept`, each a share in [0, 1].
    """
    kinds = zip(truth["id"].to_pylist(), truth["kind"].to_pylist(), strict=True)
    off_topic = {one for one, kind in kinds if kind == "off_topic"} & base
    on_topic = base - off_topic
    scores = {
        "off_topic_dropped": _share(len(off_topic - chosen), len(off_topic)),
        "on_topic_kept": _share(len(on_topic & chosen), len(on_topic)),
    }
    return {name: value for name, value in scores.items() if value is not None}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
