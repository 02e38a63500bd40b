"""Weighted nearest-neighbour classification of frozen features (Wu et al. 2018; DINOv2, section 7.1)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from components.features.search import top_k

TEMPERATURE = 0.07
NEIGHBOURS = (10, 20, 100, 200)
REPORTED = 20


def knn_correct(
    bank: Float[Tensor, "bank dim"],
    bank_labels: Int[Tensor, " bank"],
    queries: Float[Tensor, "queries dim"],
    query_labels: Int[Tensor, " queries"],
) -> dict[int, Bool[Tensor, " queries"]]:
    """Whether each query is classified right, for every k of 10, 20, 100 and 200.

    A neighbour votes for its class with exp(cosine / 0.07). A k above the size of the bank is cut to it.

    Args:
        bank: features, not normalised.
        bank_labels: class numbers.
        queries: features, not normalised.
        query_labels: class numbers.
    """
    similarity, rows = top_k(F.normalize(queries, dim=-1), F.normalize(bank, dim=-1), max(NEIGHBOURS))
    classes = int(max(bank_labels.max(), query_labels.max())) + 1
    # the nearest weighs 1: the same order of classes as exp(cosine / T), without its range
    weights = ((similarity - similarity[:, :1]) / TEMPERATURE).exp()
    labels = bank_labels[rows]
    correct = {}
    for k in NEIGHBOURS:
        votes = torch.zeros(len(queries), classes).scatter_add_(1, labels[:, :k], weights[:, :k])
        correct[k] = votes.argmax(dim=1) == query_labels
    return correct
