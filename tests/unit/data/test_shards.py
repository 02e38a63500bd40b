import os
import pickle
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest

from components.data.shards import ShardReader, ShardWriter
from components.errors import UserError

IMAGES = {sha256(bytes([n])).hexdigest(): bytes([n]) * (700 * n) for n in range(1, 9)}


def write(folder: Path, images: dict[str, bytes] = IMAGES, max_bytes: int = 10_240) -> ShardReader:
    folder.mkdir()
    with ShardWriter(folder, max_bytes) as writer:
        for image_id, data in images.items():
            writer.write(image_id, "jpg", data)
        return ShardReader(folder, writer.locations())


def test_every_image_is_read_back(tmp_path: Path) -> None:
    with write(tmp_path / "shards") as reader:
        assert len(reader) == 8
        assert {image_id: reader.read(image_id) for image_id in reversed(IMAGES)} == IMAGES
        assert all(reader.nbytes(image_id) == len(data) for image_id, data in IMAGES.items())


def test_shards_are_plain_tars_named_by_id_and_within_their_limit(tmp_path: Path) -> None:
    write(tmp_path / "shards")
    paths = sorted((tmp_path / "shards").iterdir())
    assert len(paths) > 1
    assert all(path.stat().st_size <= 10_240 for path in paths)
    found = {}
    for path in paths:
        with tarfile.open(path) as archive:
            found |= {member.name: archive.extractfile(member).read() for member in archive}
            assert not any(member.mtime or member.uid or member.gid or member.uname for member in archive)
    assert found == {f"{image_id}.jpg": data for image_id, data in IMAGES.items()}


def test_images_that_come_later_leave_full_shards_as_they_are(tmp_path: Path) -> None:
    write(tmp_path / "before", dict(list(IMAGES.items())[:6]))
    write(tmp_path / "after")
    before = sorted((tmp_path / "before").iterdir())
    assert len(before) > 1
    for path in before[:-1]:
        assert path.read_bytes() == (tmp_path / "after" / path.name).read_bytes()


def test_an_image_larger_than_a_shard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        write(tmp_path / "shards", {"f" * 64: bytes(10_240)})


def test_an_unknown_id_is_no_member(tmp_path: Path) -> None:
    reader = write(tmp_path / "shards")
    assert "0" * 64 not in reader
    assert next(iter(IMAGES)) in reader
    with pytest.raises(KeyError):
        reader.read("0" * 64)


def test_a_reader_works_after_pickling_and_after_a_fork(tmp_path: Path) -> None:
    reader = write(tmp_path / "shards")
    first, last = next(iter(IMAGES)), list(IMAGES)[-1]
    reader.read(first)
    assert pickle.loads(pickle.dumps(reader)).read(last) == IMAGES[last]
    child = os.fork()
    if child == 0:
        os._exit(0 if all(reader.read(image_id) == data for image_id, data in IMAGES.items()) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("damage", ["missing", "short", "empty"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: str) -> None:
    reader = write(tmp_path / "shards", max_bytes=1 << 20)
    path = tmp_path / "shards" / "shard-000000.tar"
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, 9000 if damage == "short" else 0)
    with pytest.raises(UserError, match=r"shard-000000\.tar"):
        reader.read(list(IMAGES)[-1])


def test_a_folder_without_images_has_an_empty_index(tmp_path: Path) -> None:
    reader = write(tmp_path / "shards", {})
    assert len(reader) == 0
    assert "0" * 64 not in reader
