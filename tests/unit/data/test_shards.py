import os
import pickle
import tarfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from components.data import shard_writer
from components.data.shard_writer import Member, ShardWriter
from components.data.shards import ShardReader
from components.errors import UserError

IMAGES = {sha256(data).hexdigest(): data for data in (bytes([n]) * (700 * n) for n in range(1, 9))}
LIMIT = 10_240


def write(folder: Path, images: dict[str, bytes] = IMAGES, max_bytes: int = LIMIT, verify: bool = False) -> ShardReader:
    folder.mkdir()
    with ShardWriter(folder, max_bytes) as writer:
        for image_id, data in images.items():
            writer.write(image_id, "jpg", data)
    return ShardReader(folder, writer.locations(), verify=verify)


def many(count: int, start: int = 0) -> dict[str, bytes]:
    found = [np.random.default_rng(n).bytes(int(100 + n * 37 % 900)) for n in range(start, start + count)]
    return {sha256(data).hexdigest(): data for data in found}


def test_every_image_is_read_back(tmp_path: Path) -> None:
    with write(tmp_path / "shards") as reader:
        assert len(reader) == 8
        assert {image_id: reader.read(image_id) for image_id in reversed(IMAGES)} == IMAGES
        assert all(reader.nbytes(image_id) == len(data) for image_id, data in IMAGES.items())


def test_shards_are_plain_tars_named_by_id_and_within_their_limit(tmp_path: Path) -> None:
    write(tmp_path / "shards")
    paths = sorted((tmp_path / "shards").iterdir())
    assert len(paths) > 1
    assert all(path.stat().st_size <= LIMIT for path in paths)
    found = {}
    for path in paths:
        with tarfile.open(path) as archive:
            found |= {member.name: archive.extractfile(member).read() for member in archive}
            assert not any(member.mtime or member.uid or member.gid or member.uname for member in archive)
    assert found == {f"{image_id}.jpg": data for image_id, data in IMAGES.items()}


@pytest.mark.parametrize("where", [0, 100, 333, 400])
def test_images_added_anywhere_change_few_shards_and_none_of_the_same_name(tmp_path: Path, where: int) -> None:
    old, new = list(many(400).items()), many(10, start=1000)
    write(tmp_path / "before", dict(old), max_bytes=100_000)
    write(tmp_path / "after", dict([*old[:where], *new.items(), *old[where:]]), max_bytes=100_000)
    before, after = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("before", "after")
    )
    assert len(before) > 15
    assert len(before.keys() - after.keys()) <= 2
    assert len(after.keys() - before.keys()) <= 4
    assert all(after[name] == before[name] for name in before.keys() & after.keys())


def test_shards_have_an_eighth_of_the_largest_size_on_average(tmp_path: Path) -> None:
    write(tmp_path / "shards", many(2000), max_bytes=100_000)
    sizes = [path.stat().st_size for path in (tmp_path / "shards").iterdir()]
    assert 9_000 < np.mean(sizes) < 18_000
    assert max(sizes) <= 100_000


def test_a_shard_that_no_draw_ends_is_full(tmp_path: Path) -> None:
    """Ids whose draws are all high; their digits are beside the point here, so bytes are sought that have them."""
    late = {one: data for one, data in many(3000).items() if one[-13] == "f"}
    write(tmp_path / "shards", late, max_bytes=20_480)
    sizes = [path.stat().st_size for path in (tmp_path / "shards").iterdir()]
    assert len(sizes) > 1
    assert max(sizes) > 18_000


def test_bytes_that_are_not_those_of_the_id_enter_no_shard(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="are others"):
        write(tmp_path / "shards", {next(iter(IMAGES)): b"something else"})
    assert not list((tmp_path / "shards").iterdir())


def test_a_flipped_bit_is_found_on_request(tmp_path: Path) -> None:
    reader = write(tmp_path / "shards", verify=True, max_bytes=1 << 20)
    one = list(IMAGES)[3]
    assert reader.read(one) == IMAGES[one]
    for path in (tmp_path / "shards").iterdir():
        damaged = bytearray(path.read_bytes())
        place = damaged.find(IMAGES[one])
        if place >= 0:
            damaged[place + 9] ^= 1
            path.write_bytes(damaged)
    with pytest.raises(UserError, match=rf"shard-.*\.tar: image {one} is damaged.*dvc checkout"):
        reader.read(one)


def test_an_image_larger_than_a_shard_is_refused(tmp_path: Path) -> None:
    data = bytes(LIMIT)
    with pytest.raises(ValueError, match="does not fit"):
        write(tmp_path / "shards", {sha256(data).hexdigest(): data})


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
    one = list(IMAGES)[-1]
    reader = write(tmp_path / "shards", {one: IMAGES[one]})
    (path,) = (tmp_path / "shards").iterdir()
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, 3000 if damage == "short" else 0)
    with pytest.raises(UserError, match=path.name):
        reader.read(one)


def test_a_folder_without_images_has_an_empty_index(tmp_path: Path) -> None:
    reader = write(tmp_path / "shards", {})
    assert len(reader) == 0
    assert "0" * 64 not in reader


@pytest.mark.parametrize("nbytes", [0, 1, 2000, 2**30 - 1, 2**33 - 1])
def test_the_header_of_a_member_is_that_of_tarfile(nbytes: int) -> None:
    for image_id, extension in (("ab" * 32, "jpg"), ("0f" * 32, "webp")):
        plain = tarfile.TarInfo(f"{image_id}.{extension}")
        plain.size = nbytes
        assert shard_writer._header(Member(image_id, extension, nbytes, 512)) == plain.tobuf(tarfile.USTAR_FORMAT)
