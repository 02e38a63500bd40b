import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from components.curation import embedding
from components.curation import parts as module
from components.curation.embedder import BUILTIN, EmbedderLock
from components.curation.embedding import EmbedParams, Resources, embed
from components.curation.parts import Part, PartStore, describe_here, plan_parts
from components.errors import UserError
from components.features.descriptor import descriptor_name
from tests.artifacts import make_artifact
from tests.textures import Files, jpeg, texture

LOCK = EmbedderLock(BUILTIN, descriptor_name(), "")
PARAMS = EmbedParams(batch_size=4)
IDS = [f"{number:02d}" for number in range(20)]


def locations(ids: list[str], shards: list[str]) -> pa.Table:
    """Images in shards, each lying before those of smaller ids."""
    offsets = [1000 - 10 * number for number in range(len(ids))]
    return pa.table({"id": ids, "shard": shards, "offset": offsets, "nbytes": [9] * len(ids)})


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 4)


def test_parts_follow_the_shards_and_cover_every_image_once() -> None:
    table = locations(IDS, ["b"] * 6 + ["a"] * 14)
    parts = plan_parts(IDS, table, "one")
    assert [len(part.ids) for part in parts] == [4, 4, 4, 2, 4, 2]
    assert parts[0].ids == ("19", "18", "17", "16")
    assert parts[-1].ids == ("01", "00")
    assert sorted(int(row) for part in parts for row in part.rows) == list(range(20))
    assert all(IDS[row] == one for part in parts for row, one in zip(part.rows, part.ids, strict=True))


def test_parts_of_a_shard_keep_their_names_when_another_shard_is_added() -> None:
    old = plan_parts(IDS[:8], locations(IDS[:8], ["a"] * 8), "one")
    new = plan_parts(IDS[:12], locations(IDS[:12], ["a"] * 8 + ["b"] * 4), "one")
    assert [part.key for part in old] == [part.key for part in new[:2]]


def test_another_describer_gives_other_names() -> None:
    assert {part.key for part in plan_parts(IDS, None, "one")}.isdisjoint(
        part.key for part in plan_parts(IDS, None, "other")
    )


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", None])
def test_what_is_not_there_whole_is_described_again(tmp_path: Path, damage: bytes | None) -> None:
    store, [part] = PartStore(tmp_path), plan_parts(IDS[:3], None, "one")
    assert store.load(part) is None
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    store.save(part, vectors)
    loaded = store.load(part)
    assert loaded is not None
    assert np.array_equal(loaded, vectors)
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-4] if damage is None else damage)
    assert store.load(part) is None


def test_a_part_of_other_images_is_not_taken(tmp_path: Path) -> None:
    store, [part] = PartStore(tmp_path), plan_parts(IDS[:3], None, "one")
    store.save(part, np.zeros((2, 5), np.float32))
    assert store.load(part) is None


class Counting(Files):
    """Files that count what is read."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(files)
        self.asked: list[str] = []

    def read(self, image_id: str) -> bytes:
        self.asked.append(image_id)
        return super().read(image_id)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return {one: jpeg(texture(number, (40, 32))) for number, one in enumerate(IDS)}


def test_finished_parts_are_not_described_again(tmp_path: Path, files: dict[str, bytes]) -> None:
    resources, reader = Resources(cache=tmp_path), Counting(files)
    whole = embed(LOCK, reader, IDS, PARAMS, resources=resources)
    assert sorted(reader.asked) == IDS
    sorted(tmp_path.iterdir())[1].unlink()
    reader.asked.clear()
    assert np.array_equal(embed(LOCK, reader, IDS, PARAMS, resources=resources), whole)
    assert len(reader.asked) == 4


def test_an_error_keeps_what_was_finished(tmp_path: Path, files: dict[str, bytes]) -> None:
    broken = Counting({**files, "13": b"no image"})
    with pytest.raises(Exception, match="not-an-image"):
        embed(LOCK, broken, IDS, PARAMS, resources=Resources(cache=tmp_path))
    kept = len(list(tmp_path.iterdir()))
    assert kept >= 1
    mended = Counting(files)
    embed(LOCK, mended, IDS, PARAMS, resources=Resources(cache=tmp_path))
    assert len(mended.asked) == 20 - 4 * kept


def test_only_the_parts_of_the_last_run_stay(tmp_path: Path, files: dict[str, bytes]) -> None:
    for ids in (IDS, IDS[2:]):
        embed(LOCK, Files(files), ids, PARAMS, resources=Resources(cache=tmp_path))
    assert {path.stem for path in tmp_path.iterdir()} == {part.key for part in plan_parts(IDS[2:], None, _name())}


def test_parts_that_another_process_may_want_stay(tmp_path: Path, files: dict[str, bytes]) -> None:
    cache = tmp_path / "embeddings"
    with PartStore(cache).in_use():
        for ids in (IDS[:10], IDS[10:]):
            embed(LOCK, Files(files), ids, PARAMS, resources=Resources(cache=cache))
        assert len(list(cache.iterdir())) == 3 + 3
    embed(LOCK, Files(files), IDS[10:], PARAMS, resources=Resources(cache=cache))
    assert len(list(cache.iterdir())) == 3, "alone, it cleans up"


def test_a_part_is_at_least_a_batch_long() -> None:
    assert [len(part.ids) for part in plan_parts(IDS, None, "one", batch_size=3)] == [4] * 5
    assert [len(part.ids) for part in plan_parts(IDS, None, "one", batch_size=12)] == [12, 8]


def test_embedding_cuts_parts_as_long_as_its_batches(tmp_path: Path, files: dict[str, bytes]) -> None:
    embed(LOCK, Files(files), IDS, EmbedParams(batch_size=12), resources=Resources(cache=tmp_path / "cache"))
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_gpu_works_on_one_part_while_the_next_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    at_a_time: list[int] = []

    def here(describe: object, parts: list[Part], done: Callable[..., None], *, threads: int) -> None:
        at_a_time.append(threads)
        for part in parts:
            done(part, np.zeros((len(part.ids), 1), np.float32))

    monkeypatch.setattr(embedding, "describe_here", here)
    embed(LOCK, Files({}), IDS, PARAMS, resources=Resources(device="cuda", threads=7))
    embed(LOCK, Files({}), IDS, PARAMS, resources=Resources(device="cpu", threads=7))
    assert at_a_time == [2, 7]


def _name() -> str:
    from components.curation.embedding import Describe

    return Describe(LOCK, Files({}), PARAMS.batch_size, "cpu").name


@pytest.mark.parametrize("own", [False, True], ids=["builtin", "backbone"])
def test_neither_threads_nor_order_change_a_bit(tmp_path: Path, files: dict[str, bytes], own: bool) -> None:
    from components.models.backbone import load_backbone

    lock, params = LOCK, EmbedParams(batch_size=3)
    if own:
        folder = make_artifact(tmp_path / "backbone")
        lock = EmbedderLock(str(folder), "", load_backbone(folder).digest)
        params = EmbedParams(embedder=str(folder), batch_size=3)
    one, three = (embed(lock, Files(files), IDS, params, resources=Resources(threads=n)) for n in (1, 3))
    assert np.array_equal(one, three)


def test_a_part_is_the_work_of_one_thread_and_those_of_torch_stay_what_they_were() -> None:
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:

        def describe(ids: object) -> np.ndarray:
            seen.append((torch.get_num_threads(), threading.current_thread().name))
            return np.zeros((4, 1), np.float32)

        describe_here(describe, plan_parts(IDS, None, "one"), lambda part, vectors: None, threads=2)
        assert {count for count, _ in seen} == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_backbone_without_numbers_is_named(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.curation.embedding import Describe

    monkeypatch.setattr(Describe, "_features", lambda self, ids: np.full((len(ids), 2), np.nan, np.float32))
    describe = Describe(EmbedderLock("models/teacher", "", ""), Files(files), 4, "cpu")
    with pytest.raises(UserError, match="models/teacher gives features that are no numbers"):
        describe(IDS[:2])


def test_the_keys_change_with_the_code_that_vectors_depend_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = module._CODE
    for name in ("features", "models", "data", "curation"):
        shutil.copytree(own / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "_CODE", tmp_path)
    before = {module.code_digest.__wrapped__()}
    for name in ("curation/embedding.py", "curation/parts.py", "data/decoding.py", "features/images.py"):
        with (tmp_path / name).open("a") as file:
            file.write("# another line\n")
        assert module.code_digest.__wrapped__() not in before, name
        before.add(module.code_digest.__wrapped__())
