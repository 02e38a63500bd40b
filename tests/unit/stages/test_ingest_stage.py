import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.data.ingest import IngestParams
from components.data.lock import write_lock
from components.data.manifest import Manifest
from components.data.shard_writer import ShardWriter
from components.data.shards import ShardReader
from components.data.snapshot import SnapshotParams, take_snapshot
from components.errors import UserError
from components.settings import Settings
from components.stages import ingest, paths


@pytest.fixture
def context(project: Path) -> Any:
    """A project with a locked folder of four pictures."""
    settings = Settings(root=project, home=project, threads=1, _env_file=None)
    for index in range(4):
        path = project / "photos" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
    write_lock(take_snapshot(SnapshotParams(source="photos"), settings), paths.SOURCE_LOCK)
    return SimpleNamespace(settings=settings)


def outs() -> list[str]:
    return sorted(path.name for path in Path("data").iterdir())


def test_manifest_and_shards_are_published(context: Any) -> None:
    metrics = ingest.run(IngestParams(), context)
    assert outs() == ["manifest", "shards", "source.lock"]
    manifest = Manifest.load(paths.MANIFEST)
    with ShardReader(paths.SHARDS, manifest.locations) as reader:
        assert all(reader.read(image_id) for image_id in manifest.ids())
    assert metrics["images"] == 4
    assert all(type(value) in (int, float) for value in metrics.values())


def test_f7_a_full_disk_leaves_what_was_there_and_says_so(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest.run(IngestParams(), context)
    (shard,) = paths.SHARDS.iterdir()
    before = shard.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ShardWriter, "reuse", full)
    with pytest.raises(UserError, match="no space left"):
        ingest.run(IngestParams(holdout_fraction=0.5), context)
    assert outs() == ["manifest", "shards", "source.lock"]
    assert shard.read_bytes() == before


def test_f10_a_failed_stage_leaves_nothing_half_written(context: Any) -> None:
    Path("photos/3.png").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"photos/3\.png: changed since the snapshot"):
        ingest.run(IngestParams(), context)
    assert outs() == ["source.lock"]
