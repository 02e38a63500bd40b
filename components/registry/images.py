"""Which images a registered version was trained on: recorded beside it, looked up in a moment."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Shaped

from components.data.forgotten import load_usable
from components.data.tables import read_table, write_table
from components.registry.lineage import IDS, dvc_hash
from components.registry.versions import RegisteredVersion, RegistryUnavailable, registry, stored
from components.settings import Settings

_log = logging.getLogger(__name__)
FOLDER = "images"
"""Folder of the record inside the run that holds the artifact."""
TRAINED = "trained.parquet"
"""The very `ids.parquet` that training read: its hash is the version's tag `curated.sha256`."""
POOL = "pool.parquet"
"""Ids of the readable training images of the snapshot, those that curation dropped too: what drift is held against."""
RECORDED_TAG = "images.recorded"
CURATED_TAG = "curated.sha256"
CURATED = "data/curated"
DVC_FILES = Path(".dvc/cache/files/md5")
Packed = Shaped[np.ndarray, " images"]
"""Ids as 32 bytes each, sorted."""


@dataclass(frozen=True)
class ImageSources:
    """Outs of a pipeline that say which images there were; paths relative to `root`, as the lineage names them."""

    root: Path
    manifest: Path
    dedup: Path
    curated: Path


def record_images(
    version: RegisteredVersion, lineage: Mapping[str, Any], sources: ImageSources, settings: Settings
) -> bool:
    """Stores the ids of the images with the run of a version, once, if the outs here are those it was made from.

    Args:
        version: a registered version.
        lineage: of its artifact.
        sources: outs that may be others by now.
        settings: where MLflow is.

    Returns:
        Whether the record is there.

    Raises:
        RegistryUnavailable: if it cannot be stored.
    """
    if RECORDED_TAG in version.tags:
        return True
    trained = sources.root / sources.curated / IDS
    if not version.run_id or not _is(trained, lineage.get("curated", {}).get("sha256")):
        _log.info("version %s: the images it was trained on are not those of data/curated here", version)
        return False
    with tempfile.TemporaryDirectory() as made:
        files = {TRAINED: trained.read_bytes()}
        if (pool := _pool(lineage, sources)) is not None:
            write_table(pa.table({"id": pa.array(pool, pa.string())}), Path(made) / POOL)
            files[POOL] = (Path(made) / POOL).read_bytes()
        with registry(settings) as client:
            for name, content in files.items():
                (Path(made) / name).write_bytes(content)
                with stored(f"the images of version {version} cannot be recorded"):
                    client.log_artifact(version.run_id, str(Path(made) / name), FOLDER)
            client.set_model_version_tag(version.name, version.version, RECORDED_TAG, " ".join(sorted(files)))
    return True


def _pool(lineage: Mapping[str, Any], sources: ImageSources) -> list[str] | None:
    folder, known = sources.root / sources.manifest, lineage.get("dependencies", {})
    if not folder.is_dir() or known.get(sources.manifest.as_posix()) != dvc_hash(folder):
        return None
    return load_usable(folder, sources.root / sources.dedup).ids("train")


class ImageRecords:
    """Looks up what versions were trained on. Lists are fetched once, then read from the cache by memory map.

    Args:
        settings: where MLflow, the cache and the working tree are.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cache = settings.cache / "images"

    def trained(self, version: RegisteredVersion) -> Packed | None:
        """Ids of the images that a version was trained on, packed; None if nothing is left that tells."""
        digest = version.tags.get(CURATED_TAG)
        if digest is None:
            return None
        cached = self._cache / f"{digest}.npy"
        if not cached.exists():
            content = self._find(version, digest)
            if content is None:
                return None
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / IDS).write_bytes(content)
                ids = read_table(Path(folder) / IDS, ["id"])["id"].to_pylist()
            _save(pack(ids), cached)
        found: Packed = np.load(cached, mmap_mode="r")
        return found

    def pool(self, version: RegisteredVersion) -> list[str] | None:
        """Ids of all readable training images of the snapshot that a version comes from; None if not on record.

        Raises:
            RegistryUnavailable: if MLflow does not answer.
        """
        if POOL not in version.tags.get(RECORDED_TAG, "").split():
            return None
        with tempfile.TemporaryDirectory() as folder:
            found: list[str] = read_table(self._download(version, POOL, Path(folder)), ["id"])["id"].to_pylist()
        return found

    def _find(self, version: RegisteredVersion, digest: str) -> bytes | None:
        """The table of that hash: here, with the version, or in DVC's cache."""
        for path in (self._settings.root / CURATED / IDS, *self._in_dvc_cache(version.tags.get(f"dvc.{CURATED}", ""))):
            if _is(path, digest):
                return path.read_bytes()
        if RECORDED_TAG not in version.tags:
            return None
        try:
            with tempfile.TemporaryDirectory() as folder:
                content = self._download(version, TRAINED, Path(folder)).read_bytes()
        except RegistryUnavailable as error:  # one list that is lost must not hide what the others say
            _log.warning("%s", error)
            return None
        return content if hashlib.sha256(content).hexdigest() == digest else None

    def _in_dvc_cache(self, listing: str) -> Iterable[Path]:
        files = self._settings.root / DVC_FILES
        try:
            entries = json.loads((files / listing[:2] / listing[2:]).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        for entry in entries:
            if entry["relpath"] == IDS:
                yield files / entry["md5"][:2] / entry["md5"][2:]

    def _download(self, version: RegisteredVersion, name: str, folder: Path) -> Path:
        with (
            registry(self._settings) as client,
            stored(f"the images of version {version} cannot be fetched"),
        ):
            return Path(client.download_artifacts(version.run_id, f"{FOLDER}/{name}", str(folder)))


def pack(ids: Iterable[str]) -> Packed:
    """Ids as sorted rows of 32 bytes, which are searched without a Python object for each."""
    return np.sort(np.frombuffer(b"".join(map(bytes.fromhex, ids)), dtype="S32"))


def among(ids: Iterable[str], packed: Packed) -> frozenset[str]:
    """Those of the ids that are in a packed list."""
    wanted = sorted(set(ids))
    if not wanted or not len(packed):
        return frozenset()
    keys = np.frombuffer(b"".join(map(bytes.fromhex, wanted)), dtype="S32")
    rows = np.minimum(np.searchsorted(packed, keys), len(packed) - 1)
    return frozenset(one for one, hit in zip(wanted, packed[rows] == keys, strict=True) if hit)


def _is(path: Path, digest: str | None) -> bool:
    return digest is not None and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def _save(packed: Packed, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.save(file, packed)
    partial.replace(path)
