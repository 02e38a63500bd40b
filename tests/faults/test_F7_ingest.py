"""F7: no room under an ingest: what is there stays, and it goes on when there is some."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.data.manifest import Manifest
from components.data.shards import ShardReader
from components.errors import UserError
from components.stages import paths
from tests.faults import ingest_program
from tests.faults.disks import disk, mount


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A project on a file system of its own."""
    before = Path.cwd()
    with disk(tmp_path / "disk", "4m") as folder:
        yield folder
        os.chdir(before)


def add_photos(folder: Path, numbers: range) -> None:
    (folder / "photos").mkdir(exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (80, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number:04d}.png")
    ingest_program.lock_folder(folder)


def test_F7_a_full_disk_keeps_the_old_outs_and_ingest_goes_on_with_room(small_disk: Path) -> None:
    add_photos(small_disk, range(20))
    ingest_program.run(small_disk)
    before = {path: path.read_bytes() for path in paths.SHARDS.iterdir()}
    add_photos(small_disk, range(20, 120))
    with pytest.raises(UserError, match=r"no space left while writing data/.*free some space"):
        ingest_program.run(small_disk)
    assert {path: path.read_bytes() for path in paths.SHARDS.iterdir()} == before
    assert not list(Path().rglob("*.partial-*")), "what is not whole does not fill the disk"
    assert not list(Path().rglob(".partial-*"))
    assert mount(small_disk, "remount", "size=64m")
    ingest_program.run(small_disk)
    manifest = Manifest.load(paths.MANIFEST)
    with ShardReader(paths.SHARDS, manifest.locations, verify=True) as reader:
        assert len([reader.read(one) for one in manifest.ids()]) == 120
