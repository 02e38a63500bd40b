import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from components.features.components import connected_components

GRAPHS = st.integers(1, 30).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=40))
)


def test_nodes_without_edges_are_their_own_components() -> None:
    assert connected_components(3, np.zeros((0, 2), int)).tolist() == [0, 1, 2]


def test_a_chain_is_one_component_named_by_its_first_node() -> None:
    assert connected_components(6, np.array([[4, 5], [2, 4], [1, 2]])).tolist() == [0, 1, 1, 3, 1, 1]


@settings(deadline=None)
@given(GRAPHS)
def test_labels_are_those_of_scipy(graph: tuple[int, list[tuple[int, int]]]) -> None:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components as reference

    n, edges = graph
    pairs = np.array(edges, dtype=np.int64).reshape(-1, 2)
    labels = connected_components(n, pairs)
    _, expected = reference(coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n)))
    same = labels[:, None] == labels[None]
    assert np.array_equal(same, expected[:, None] == expected[None])
    assert all(label == np.flatnonzero(labels == label).min() for label in labels)
