"""What a released artifact was made from, in hashes that lead back to parameters, data and teacher."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from components.data.manifest import Manifest
from components.data.tables import read_table
from components.models.backbone import LINEAGE, artifact_hash
from components.parameters import parameters_hash

FORMAT = 1
IDS = "ids.parquet"


def dvc_hash(path: Path) -> str:
    """The hash under which DVC caches a file or folder, as it stands in `dvc.lock` for the stage that made it.

    With it the very out can be fetched from any DVC remote, whatever the lock says by then. It is computed, not read
    from `dvc.lock`, because it must be right also for a stage started by hand, beside a lock that is older.

    Args:
        path: an existing file, or folder of files.

    Returns:
        MD5, hexadecimal; of a folder, of its listing, with the suffix `.dir`.
    """
    if path.is_file():
        return _md5(path)
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    listing = json.dumps([{"md5": _md5(files[name]), "relpath": name} for name in sorted(files)], sort_keys=True)
    return hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() + ".dir"


def evaluation_identity(manifest: Manifest, kept: Path, protocol: Mapping[str, Any]) -> dict[str, str]:
    """What scores were computed on and how: those of another identity are not comparable.

    Args:
        manifest: labels and splits.
        kept: table with the column `id` of the training images that deduplication kept.
        protocol: parameters that decide the scores.

    Returns:
        `queries`: SHA-256 over ids and labels of the evaluation split; `bank`: over those of the kept images;
        `protocol`: over the parameters.
    """
    bank = read_table(kept, ["id"])["id"].to_pylist()
    return {
        "queries": _labelled(manifest, manifest.ids("eval")),
        "bank": _labelled(manifest, sorted(bank)),
        "protocol": parameters_hash(protocol),
    }


def describe_lineage(
    *,
    role: str,
    teacher: Path,
    student: Path,
    curated: Path,
    embedder: Mapping[str, Any],
    parameters: Mapping[str, Any],
    dependencies: Iterable[Path],
    evaluation: Mapping[str, Any],
) -> dict[str, Any]:
    """Content of `lineage.json` of a released artifact: a pure function of what is given.

    Args:
        role: `teacher` or `student`: which of the two is released.
        teacher: artifact of the teacher.
        student: artifact of the student.
        curated: folder with `ids.parquet`, the images that were trained on.
        embedder: what the images were curated with: content of `data/embedder.lock`.
        parameters: sections of params.yaml that the artifact depends on.
        dependencies: relative paths of files and folders that it depends on; those that do not exist are left out.
        evaluation: metrics, and identity of the images they were computed on.
    """
    chosen = teacher if role == "teacher" else student
    initial = _training(teacher).get("initial", {})
    return {
        **{f"initial_{name}": digest for name, digest in initial.items()},
        "format": FORMAT,
        "role": role,
        "parameters": dict(parameters),
        "parameters_sha256": parameters_hash(parameters),
        "dependencies": {path.as_posix(): dvc_hash(path) for path in dependencies if path.exists()},
        "curated": {
            "sha256": hashlib.sha256((curated / IDS).read_bytes()).hexdigest(),
            "count": read_table(curated / IDS, ["id"]).num_rows,
        },
        "embedder": dict(embedder),
        "teacher_sha256": artifact_hash(teacher),
        "student_sha256": artifact_hash(student),
        "training": _training(chosen),
        "evaluation": {"role": role, **evaluation},
    }


def _training(artifact: Path) -> dict[str, Any]:
    """What the training stage has left in an artifact about itself."""
    found: dict[str, Any] = json.loads((artifact / LINEAGE).read_text(encoding="utf-8"))
    return found


def _labelled(manifest: Manifest, ids: list[str]) -> str:
    digest = hashlib.sha256()
    for one, label in zip(ids, manifest.labels(ids), strict=True):
        digest.update(f"{one}\0{label or ''}\n".encode())
    return digest.hexdigest()


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
