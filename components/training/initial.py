"""The backbone that continued pretraining begins with: resolved by a lock, adapted, and put into the objective."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from components.data.lock import read_resolved, write_resolved
from components.errors import UserError
from components.models.adaptation import adapt
from components.models.backbone import load_backbone
from components.models.conversion.imported import ImportOptions
from components.models.conversion.source import read_source
from components.models.fetching import pinned
from components.models.vit import ViTConfig
from components.objectives.base import Objective
from components.objectives.branch import HEAD_NAMES, Branch

FILE = "initial.safetensors"
BACKBONE = "backbone"
CONVERTED = "converted_from_sha256"


@dataclass(frozen=True)
class InitialLock:
    """The backbone that a snapshot resolved `pretrain.initial` to."""

    uri: str | None = None
    """As asked for; None: weights are drawn from the seed."""
    resolved: str | None = None
    """The same with the number of a registered version in place of an alias."""
    digest: str = ""
    """Hash of the artifact, file or folder."""


@dataclass(frozen=True)
class Beginning:
    """A backbone to begin with, as the training processes find it."""

    path: Path
    """Its tensors, adapted."""
    lineage: dict[str, str]
    """`sha256` of what was locked and, if it came from elsewhere in a foreign format, `converted_from_sha256`."""


def resolve_initial(uri: str | None, model: ViTConfig) -> InitialLock:
    """Names exactly what `pretrain` will begin with, and tries it.

    Args:
        uri: `pretrain.initial`.
        model: architecture to train.

    Raises:
        UserError: if it cannot be read, or not be adapted to the architecture.
    """
    if uri is None:
        return InitialLock()
    resolved = pinned(uri)
    backbone = load_backbone(resolved, options=ImportOptions(heads=model.heads))
    adapt(backbone.model.state_dict(), backbone.config, model, uri)
    return InitialLock(uri, resolved, backbone.digest)


def write_initial_lock(lock: InitialLock, path: Path) -> None:
    """Writes the lock, replacing the file whole."""
    write_resolved(lock, path)


def read_initial_lock(path: Path) -> InitialLock:
    """Reads the lock.

    Raises:
        UserError: if it is absent or damaged.
    """
    return read_resolved(InitialLock, path)


def check_asked_for(lock: InitialLock, uri: str | None) -> None:
    """Refuses a lock of something else than the parameters ask for.

    Raises:
        UserError: naming both.
    """
    if lock.uri != uri:
        raise UserError(
            f"pretrain.initial is {uri or 'null'}, the snapshot names {lock.uri or 'null'}",
            remedy="take a new snapshot with `selfsight snapshot`",
        )


def prepare_initial(lock: InitialLock, model: ViTConfig, folder: Path) -> Beginning | None:
    """Fetches the locked backbone once, adapts it, and leaves it for the training processes.

    Args:
        lock: what to begin with.
        model: architecture to train.
        folder: to write into.

    Returns:
        The file and where it comes from; None: there is nothing to begin with.

    Raises:
        UserError: if it is gone, is not what was locked, or cannot be adapted.
    """
    if lock.resolved is None:
        return None
    options = ImportOptions(heads=model.heads)
    imported, told = read_source(lock.resolved, options, expected_hash=lock.digest)
    state = adapt(imported.tensors, imported.config, model, lock.resolved)
    tensors = {f"{BACKBONE}.{name}": value for name, value in state.items()}
    for name, head in imported.heads.items():
        tensors |= {f"{name}.{key}": value for key, value in head.state_dict().items()}
    path = folder / FILE
    path.write_bytes(save({name: value.contiguous() for name, value in tensors.items()}))
    foreign = {CONVERTED: str(told[CONVERTED])} if CONVERTED in told else {}
    return Beginning(path, {"sha256": lock.digest, **foreign})


@torch.no_grad()
def load_initial(objective: Objective, path: Path) -> list[str]:
    """Puts the prepared weights into student and teacher, whole and not yet partitioned.

    A head is taken if all its layers have the shape that the parameters ask for; otherwise the new one stays.

    Args:
        objective: with a student and a teacher.
        path: of the result of `prepare_initial`.

    Returns:
        Names of the parts that were taken.
    """
    tensors = load_file(path)
    taken = []
    for part in (BACKBONE, *HEAD_NAMES):
        given = {name: value for name, value in tensors.items() if name.startswith(f"{part}.")}
        for branch in (objective.student, objective.teacher):
            assert isinstance(branch, Branch)
            own = {name: value for name, value in branch.state_dict().items() if name.startswith(f"{part}.")}
            shapes = {name: value.shape for name, value in own.items()}
            missing = shapes.keys() - given.keys()
            fits = all(shapes.get(name) == value.shape for name, value in given.items())
            if given and fits and (part == BACKBONE or not missing):
                branch.load_state_dict(given, strict=False)
                taken.append(part)
    return list(dict.fromkeys(taken))
