"""Which labelled images are the bank and which are asked about."""

from collections.abc import Iterable
from dataclasses import dataclass

from components.data.manifest import Manifest
from components.data.splits import held_out

EVALUATION_BANK_SHARE = 0.5


@dataclass(frozen=True)
class LabelledSplit:
    """A bank with known labels and queries whose labels are predicted; both sorted by id.

    Attributes:
        bank: image ids.
        bank_labels: class number of each.
        bank_groups: group (video or instance) of each, or its id where it has none.
        queries: image ids.
        query_labels: class number of each.
        query_groups: as `bank_groups`.
        classes: class names, by number.
    """

    bank: tuple[str, ...]
    bank_labels: tuple[int, ...]
    bank_groups: tuple[str, ...]
    queries: tuple[str, ...]
    query_labels: tuple[int, ...]
    query_groups: tuple[str, ...]
    classes: tuple[str, ...]


def labelled_split(manifest: Manifest, kept: set[str], *, seed: int) -> LabelledSplit | None:
    """The split every score is computed on.

    The bank is the deduplicated training part where it shares at least two classes with the evaluation part; otherwise
    the evaluation part is divided in two by hash of the group, or of the id where there is none.

    Args:
        manifest: labels and parts.
        kept: training images that deduplication kept; leaks are not among them.
        seed: of the division.

    Returns:
        None if the evaluation part has fewer than two classes: there is nothing to score.
    """
    queries = _labelled(manifest, manifest.ids("eval"))
    classes = sorted(set(queries.values()))
    if len(classes) < 2:
        return None
    bank = _labelled(manifest, [one for one in manifest.ids("train") if one in kept and one not in queries])
    bank = {one: label for one, label in bank.items() if label in set(classes)}
    if len(set(bank.values())) < 2:
        bank, queries = _divide(manifest, queries, seed)
        classes = sorted(set(bank.values()) | set(queries.values()))
        if not queries or len(set(bank.values())) < 2:
            return None
    number = {name: index for index, name in enumerate(classes)}
    bank_ids, query_ids = sorted(bank), sorted(queries)
    return LabelledSplit(
        bank=tuple(bank_ids),
        bank_labels=tuple(number[bank[one]] for one in bank_ids),
        bank_groups=_groups(manifest, bank_ids),
        queries=tuple(query_ids),
        query_labels=tuple(number[queries[one]] for one in query_ids),
        query_groups=_groups(manifest, query_ids),
        classes=tuple(classes),
    )


def _labelled(manifest: Manifest, ids: list[str]) -> dict[str, str]:
    return {one: label for one, label in zip(ids, manifest.labels(ids), strict=True) if label is not None}


def _groups(manifest: Manifest, ids: list[str]) -> tuple[str, ...]:
    return tuple(group or one for one, group in zip(ids, manifest.groups(ids), strict=True))


def _divide(manifest: Manifest, labels: dict[str, str], seed: int) -> tuple[dict[str, str], dict[str, str]]:
    ids = list(labels)
    groups = _groups(manifest, ids)
    if len(set(groups)) < 2:
        return labels, {}
    drawn = drawn_groups(groups, EVALUATION_BANK_SHARE, purpose="bank", seed=seed)
    in_bank = {one for one, group in zip(ids, groups, strict=True) if group in drawn}
    bank = {one: label for one, label in labels.items() if one in in_bank}
    return bank, {one: label for one, label in labels.items() if one not in in_bank}


def drawn_groups(groups: Iterable[str], share: float, *, purpose: str, seed: int) -> frozenset[str]:
    """Draws whole groups by hash, at least one and not all.

    Args:
        groups: at least two different ones; an image without one is its own.
        share: to draw, in (0, 1).
        purpose: of the draw. The images here are themselves what a draw has left over or taken out (the evaluation
            part); one by the same hash would take none of them, or all.
        seed: of the draw.
    """
    prefix = f"{purpose}:"
    drawn = held_out((f"{prefix}{group}" for group in groups), fraction=share, seed=seed)
    return frozenset(group.removeprefix(prefix) for group in drawn)
