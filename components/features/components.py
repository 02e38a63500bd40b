"""Connected components of an undirected graph."""

import numpy as np
from jaxtyping import Int


def connected_components(n: int, pairs: Int[np.ndarray, "pairs 2"]) -> Int[np.ndarray, " n"]:
    """Label every node with the smallest node of its component.

    Args:
        n: number of nodes.
        pairs: edges between nodes 0 … n - 1.
    """
    parent = list(range(n))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for first, second in pairs.tolist():
        one, other = sorted((root(first), root(second)))
        parent[other] = one
    return np.array([root(node) for node in range(n)], dtype=np.int64)
