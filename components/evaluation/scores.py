"""Every score of one set of features, with its interval."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from components.evaluation.knn import REPORTED, knn_correct
from components.evaluation.linear import LinearParams, linear_probe
from components.evaluation.split import LabelledSplit
from components.features.extraction import Features
from components.features.statistics import bootstrap_interval, effective_rank, uniformity, wilson_interval


def accuracy(name: str, correct: Bool[Tensor, " queries"], groups: Sequence[str]) -> dict[str, float]:
    """`name`, `name.low` and `name.high`: the share that is right and its 95 % interval.

    Images of one group (a video, an instance) are right or wrong together: with groups the interval comes from drawing
    groups, otherwise it is Wilson's.

    Args:
        name: of the score.
        correct: whether each query is right.
        groups: group of each query.
    """
    right, total = int(correct.sum()), len(correct)
    grouped = len(set(groups)) < total
    interval = bootstrap_interval(correct.float(), groups) if grouped else wilson_interval(right, total)
    return {name: right / total, f"{name}.low": interval.low, f"{name}.high": interval.high}


def knn_scores(bank: Tensor, queries: Tensor, split: LabelledSplit) -> dict[str, float]:
    """`knn.top1` (k = 20) with its interval, and `knn.kN.top1` for the other k.

    Args:
        bank: Float[bank, dim].
        queries: Float[queries, dim].
        split: labels.
    """
    bank_labels, query_labels = torch.tensor(split.bank_labels), torch.tensor(split.query_labels)
    correct = knn_correct(bank, bank_labels, queries, query_labels)
    others = {f"knn.k{k}.top1": int(right.sum()) / len(right) for k, right in correct.items() if k != REPORTED}
    return {**accuracy("knn.top1", correct[REPORTED], split.query_groups), **others}


def linear_scores(
    bank: Features, queries: Features, split: LabelledSplit, params: LinearParams, *, seed: int
) -> dict[str, float]:
    """`linear.top1` with its interval, and which head was chosen."""
    bank_labels, query_labels = torch.tensor(split.bank_labels), torch.tensor(split.query_labels)
    probe = linear_probe(bank, bank_labels, split.bank_groups, queries, query_labels, params, seed=seed)
    return {
        **accuracy("linear.top1", probe.correct, split.query_groups),
        "linear.learning_rate": probe.learning_rate,
        "linear.blocks": float(probe.blocks),
        "linear.with_patches": float(probe.with_patches),
    }


def label_free_scores(features: Features) -> dict[str, float]:
    """Measures that need no label, on the evaluation part; none of a single image, which is spread over nothing."""
    if len(features.last) < 2:
        return {}
    return {"effective_rank": effective_rank(features.last), "uniformity": uniformity(features.last)}
