from pathlib import Path

import pytest

from components.curation.deduplication import DedupParams
from components.curation.embedder import BUILTIN, EmbedderLock
from components.curation.embedding import Describe
from components.curation.known_pairs import Described, Measure, labelled_pairs, planted_pairs
from components.curation.thresholds import curve, suggest
from components.data.scenes.planting import TRANSFORMS
from components.errors import UserError
from components.features.descriptor import descriptor_name
from tests.textures import Files, jpeg, texture

LOCK = EmbedderLock(BUILTIN, descriptor_name(), "")
IDS = [f"{number:02d}" for number in range(30)]


@pytest.fixture(scope="module")
def files() -> Files:
    return Files({one: jpeg(texture(number)) for number, one in enumerate(IDS)})


@pytest.fixture(scope="module")
def describe(files: Files) -> Describe:
    return Describe(LOCK, files, 8, "cpu")


@pytest.mark.parametrize("measure", ["agreement", "cosine"])
def test_planted_copies_are_told_from_other_pictures(files: Files, describe: Describe, measure: Measure) -> None:
    described = Described(IDS, describe(IDS))
    found = planted_pairs(files, described, describe, measure=measure, images=20, params=DedupParams(neighbours=4))
    assert found.same.sum() == 60
    assert set(TRANSFORMS) == {name for name in found.transform if name}
    others = {(a, b) for a, b, same in zip(found.first, found.second, found.same, strict=True) if not same}
    assert len(others) == (~found.same).sum() >= 20 * 4 / 2
    assert all(a != b for a, b in others)
    best = suggest(curve(found), 0.95)
    assert best is not None
    assert best["recall"] > 0.7


def test_a_copy_that_would_not_be_compared_counts_as_missed(files: Files, describe: Describe) -> None:
    """Here the vectors are such that no copy is near its original, and no hash may differ."""
    away = Described(IDS, -describe(IDS))
    params = DedupParams(neighbours=1, hash_distance=0)
    found = planted_pairs(files, away, describe, measure="agreement", images=10, params=params)
    whole = planted_pairs(
        files, Described(IDS, describe(IDS)), describe, measure="agreement", images=10, params=DedupParams()
    )
    assert (found.score[found.same] == 0).sum() > (whole.score[whole.same] == 0).sum()


def labels(folder: Path, text: str) -> Path:
    path = folder / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("measure", ["agreement", "cosine"])
def test_labelled_pairs_are_measured(tmp_path: Path, describe: Describe, measure: Measure) -> None:
    files = Files({**describe.reader.files, "copy": jpeg(texture(3), quality=50)})
    named = {one: one for one in files.files} | {"street/3.jpg": "03"}
    path = labels(tmp_path, "first,second,same\nstreet/3.jpg,copy,1\n04,05,0\n06,07,no\n")
    found = labelled_pairs(path, named, files, describe.of(files), measure)
    assert found.same.tolist() == [True, False, False]
    assert found.score[0] > 0.9
    assert found.score[0] > found.score[1:].max()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("first,second,same\n00,99,1\n", "line 2"),
        ("first,second,same\n00,01,1\n00,02,perhaps\n", "line 3"),
        ("a,b\n00,01\n", "line 2"),
        ("first,second,same\n00,01,0\n", "no pair of copies"),
        ("", "no pair of copies"),
    ],
)
def test_f16_labels_that_say_nothing_are_named(tmp_path: Path, describe: Describe, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        labelled_pairs(labels(tmp_path, text), {one: one for one in IDS}, describe.reader, describe, "cosine")


def test_a_file_that_is_not_there_is_named(tmp_path: Path, describe: Describe) -> None:
    with pytest.raises(UserError, match="no readable CSV"):
        labelled_pairs(tmp_path / "none.csv", {}, describe.reader, describe, "cosine")
