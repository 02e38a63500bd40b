"""Phases and stages in an order in which they can run."""

import pytest

from components.errors import UserError
from flows.graph import Phase, PipelineGraph, _group

PARENTS = {
    "ingest": frozenset[str](),
    "embed": frozenset({"ingest"}),
    "pretrain": frozenset({"embed"}),
    "evaluate": frozenset({"pretrain", "ingest"}),
}
PHASES = {"ingest": "curate", "embed": "curate", "pretrain": "pretrain", "evaluate": "evaluate"}


def test_stages_are_grouped_by_phase_in_the_order_of_their_edges() -> None:
    shuffled = {name: PARENTS[name] for name in ("evaluate", "embed", "pretrain", "ingest")}
    graph = _group(shuffled, PHASES)
    assert graph.stages == ("ingest", "embed", "pretrain", "evaluate")
    assert graph.phases[0] == Phase("curate", ("ingest", "embed"))


def test_what_the_edges_leave_open_is_in_the_order_of_dvc_yaml() -> None:
    graph = _group({"b": frozenset(), "a": frozenset(), "c": frozenset()}, dict.fromkeys("bac", "one"))
    assert graph.stages == ("b", "a", "c")


def test_a_phase_brings_with_it_what_it_depends_on_and_nothing_after_it() -> None:
    graph = _group(PARENTS, PHASES).up_to(["pretrain"])
    assert graph.stages == ("ingest", "embed", "pretrain")


def test_a_phase_leaves_out_stages_of_other_phases_that_it_does_not_need() -> None:
    parents = {**PARENTS, "gallery": frozenset({"ingest"})}
    graph = _group(parents, {**PHASES, "gallery": "curate"})
    assert "gallery" not in graph.up_to(["pretrain"]).stages


def test_no_phase_named_means_all() -> None:
    graph = _group(PARENTS, PHASES)
    assert graph.up_to([]) == graph


def test_an_unknown_phase_is_refused_with_the_known_ones() -> None:
    graph: PipelineGraph = _group(PARENTS, PHASES)
    with pytest.raises(UserError, match="no phase 'train': phases are curate, pretrain, evaluate"):
        graph.up_to(["train"])


def test_phases_that_wait_for_each_other_are_refused() -> None:
    phases = {"ingest": "one", "embed": "two", "pretrain": "one", "evaluate": "one"}
    with pytest.raises(UserError, match="circle"):
        _group(PARENTS, phases)
