"""The pipeline's graph, as DVC knows it: the only place where stages and edges are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import UserError


@dataclass(frozen=True)
class Phase:
    """A named group of stages, in the order in which they can run."""

    name: str
    stages: tuple[str, ...]


@dataclass(frozen=True)
class PipelineGraph:
    """Stages by phase, and who depends on whom."""

    phases: tuple[Phase, ...]
    """In an order in which they can run."""
    parents: dict[str, frozenset[str]]
    """The stages that each stage takes its dependencies from."""

    @property
    def stages(self) -> tuple[str, ...]:
        """All stages, in an order in which they can run."""
        return tuple(stage for phase in self.phases for stage in phase.stages)

    def up_to(self, names: Sequence[str]) -> "PipelineGraph":
        """The part that makes the named phases: they and everything they depend on; all of it for no names.

        Raises:
            UserError: for a name that is no phase.
        """
        if not names:
            return self
        by_name = {phase.name: phase for phase in self.phases}
        for name in names:
            if name not in by_name:
                raise UserError(f"there is no phase '{name}'", remedy=f"phases are {', '.join(by_name)}")
        wanted = self._with_ancestors([stage for name in names for stage in by_name[name].stages])
        kept = [Phase(phase.name, tuple(s for s in phase.stages if s in wanted)) for phase in self.phases]
        return PipelineGraph(tuple(phase for phase in kept if phase.stages), self.parents)

    def _with_ancestors(self, stages: list[str]) -> set[str]:
        found: set[str] = set()
        while stages:
            stage = stages.pop()
            if stage not in found:
                found.add(stage)
                stages.extend(self.parents[stage])
        return found


def read_graph(root: Path) -> PipelineGraph:
    """Reads stages, edges and `meta.phase` from DVC.

    Args:
        root: the project's root.

    Raises:
        UserError: if DVC cannot read the project, a stage has no phase, or phases depend on each other in a circle.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            graph = repo.index.graph
            stages = [stage for stage in repo.index.stages if stage.cmd]
    except DvcException as error:
        what = " ".join(str(error).split())
        raise UserError(f"DVC cannot read the pipeline ({what})", remedy="mend dvc.yaml; `dvc dag` checks it") from None
    names = {stage: str(stage.addressing) for stage in stages}
    parents = {
        names[stage]: frozenset(names[parent] for parent in graph.successors(stage) if parent in names)
        for stage in stages
    }
    return _group(parents, {names[stage]: _phase_of(stage) for stage in stages})


def _phase_of(stage: Any) -> str:
    phase = (stage.meta or {}).get("phase")
    if not isinstance(phase, str):
        raise UserError(f"dvc.yaml: stage '{stage.addressing}' has no meta.phase", remedy="add `meta: {phase: NAME}`")
    return phase


def _group(parents: dict[str, frozenset[str]], phase_of: dict[str, str]) -> PipelineGraph:
    """Orders phases, and stages in them, by their edges; what the edges leave open is in the order of dvc.yaml."""
    order = {phase: index for index, phase in enumerate(dict.fromkeys(phase_of.values()))}
    edges = {
        phase: frozenset(
            phase_of[parent] for stage in parents if phase_of[stage] == phase for parent in parents[stage]
        ).difference({phase})
        for phase in order
    }
    sorted_phases = _sort(edges)
    if sorted_phases is None:
        raise UserError("dvc.yaml: phases depend on each other in a circle", remedy="change meta.phase of a stage")
    sorted_stages = _sort(parents) or []  # DVC refuses circles of stages itself
    phases = (Phase(name, tuple(s for s in sorted_stages if phase_of[s] == name)) for name in sorted_phases)
    return PipelineGraph(tuple(phases), parents)


def _sort(parents: dict[str, frozenset[str]]) -> list[str] | None:
    """A topological order that keeps the given one where it can; None if there is a circle."""
    done: dict[str, None] = {}
    while len(done) < len(parents):
        ready = next((name for name in parents if name not in done and parents[name] <= done.keys()), None)
        if ready is None:
            return None
        done[ready] = None
    return list(done)
