"""Several sources under names: their URI, and what they list and read together."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from components.data.changes import removed_since
from components.data.ingest import IngestParams, build_manifest
from components.data.lock import Annotation, SourceLock, SourceObject
from components.data.manifest import Manifest
from components.data.named_sources import divided, each, is_joined, joined, named, readable
from components.data.snapshot import SnapshotParams, take_snapshot
from components.data.sources import Source, is_remote, object_uri, open_source
from components.errors import UserError
from components.settings import Settings

SCENES, FEW = (f"scenes?images=60&eval=10&size=32&leaks=0.1&seed={seed}" for seed in (1, 2))
TWO = {"val": "s3://team/val?x&y=1", "ours": "./hold out"}


def opened(settings: Settings, role: str = "train", **sources: object) -> Source:
    uri = joined({name.replace("_", "-"): str(one) for name, one in sources.items()})
    return open_source(uri, role=role, settings=settings)  # type: ignore[arg-type]


def test_a_joined_uri_says_the_same_in_any_order_and_is_read_back() -> None:
    uri = joined(TWO)
    assert (
        uri == joined(dict(reversed(TWO.items()))) == "sets?ours=.%2Fhold%20out&val=s3%3A%2F%2Fteam%2Fval%3Fx%26y%3D1"
    )
    assert dict(named(uri)) == TWO
    assert each(uri) == ("./hold out", "s3://team/val?x&y=1")
    assert readable(uri) == "ours=./hold out, val=s3://team/val?x&y=1"


@pytest.mark.parametrize("uri", ["scenes", "scenes?images=9", "sets", "sets?/*.tar", "./sets?a=b", "s3://sets?a=b"])
def test_the_uri_of_one_source_is_left_alone(uri: str) -> None:
    assert not is_joined(uri)
    assert (dict(named(uri)), each(uri), readable(uri), divided(uri, "a/b")) == ({}, (uri,), uri, ("", "a/b"))


@pytest.mark.parametrize("uri", ["sets?b=x&a=y", "sets?a=./x", "sets?a=x&a=y", "sets?a=x&b"])
def test_a_joined_uri_of_other_hands_is_damaged(uri: str) -> None:
    with pytest.raises(UserError, match="is damaged: name the sources"):
        named(uri)


def test_f15_secrets_are_not_shown() -> None:
    assert "geheim" not in readable(joined({"val": "https://user:geheim@host/x"}))


def test_names_are_prefixed_and_sorted_over_all(folder: Path, bare_settings: Settings) -> None:
    both = opened(bare_settings, pets=folder, pets_2=folder / "cat")
    found = list(both.list())
    assert [one.name for one in found] == sorted(one.name for one in found)
    assert [one.name for one in found[:4]] == ["pets-2/0.jpg", "pets-2/1.jpg", "pets-2/2.jpg", "pets/cat/0.jpg"]
    assert len(found) == 9
    for one in found:
        assert both.read(one.name, one.digest)


def test_a_source_says_what_it_says_alone(folder: Path, bare_settings: Settings) -> None:
    both = opened(bare_settings, pets=folder, cats=folder / "cat")
    assert both.annotation("pets/dog/3.jpg") == Annotation(label="dog")
    assert both.annotation("cats/0.jpg") == Annotation()  # the name of a source is no label
    assert both.truth() is None
    assert object_uri(both.uri, "pets/dog/3.jpg") == f"{folder}/dog/3.jpg"
    assert object_uri(joined(TWO), "val/a.jpg") == "s3://team/val?x&y=1/a.jpg"
    assert [is_remote(open_source(joined(TWO | {"ours": str(folder)}), role="eval", settings=bare_settings), name)
            for name in ("val/a.jpg", "ours/a.jpg")] == [True, False]  # fmt: skip


def test_another_process_reads_the_same(folder: Path, bare_settings: Settings) -> None:
    both = opened(bare_settings, pets=folder, drawn="scenes?images=30&eval=10")
    again = pickle.loads(pickle.dumps(both))
    assert list(again.list()) == list(both.list())
    assert again.read("pets/cat/0.jpg") == (folder / "cat" / "0.jpg").read_bytes()


@pytest.mark.parametrize("name", ["0.jpg", "dogs/0.jpg", ""])
def test_a_name_of_no_source_is_named(folder: Path, bare_settings: Settings, name: str) -> None:
    with pytest.raises(UserError, match="there is no source"):
        opened(bare_settings, pets=folder).read(name)


def test_the_truth_of_scenes_names_objects_as_they_are_listed(folder: Path, bare_settings: Settings) -> None:
    both = opened(bare_settings, pets=folder, drawn="scenes?images=60&eval=10")
    truth = both.truth()
    assert truth is not None
    listed = {one.name for one in both.list()}
    assert set(truth["name"].to_pylist()) == {name for name in listed if name.startswith("drawn/")}
    copies = [row["original"] for row in truth.to_pylist() if row["kind"] == "copy"]
    assert copies
    assert set(copies) <= listed
    alone = open_source("scenes?images=60&eval=10", role="train", settings=bare_settings).truth()
    assert alone is not None
    assert truth["original"].null_count == alone["original"].null_count


@pytest.mark.parametrize(
    ("source", "evaluation", "shared"),
    [
        ({"a": SCENES}, {"b": SCENES}, [SCENES]),
        (SCENES, {"b": SCENES}, [SCENES]),
        ({"a": SCENES}, SCENES, [SCENES]),
        ({"a": SCENES, "c": FEW}, {"b": SCENES}, [SCENES]),
        ({"a": SCENES, "c": FEW}, {"c": SCENES, "a": FEW}, [SCENES, FEW]),
    ],
)
def test_the_original_of_a_leak_is_named_as_its_evaluation_source_names_it(
    bare_settings: Settings,
    tmp_path: Path,
    source: str | dict[str, str],
    evaluation: str | dict[str, str],
    shared: list[str],
) -> None:
    def leaks(**given: str | dict[str, str]) -> set[tuple[str, str]]:
        """Ids of leaks and of what they leak from."""
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        truth = built(take_snapshot(SnapshotParams(**given), bare_settings), bare_settings, out).truth  # type: ignore[arg-type]
        assert truth is not None
        rows = truth.to_pylist()
        evaluated = {row["name"]: row["id"] for row in rows if row["split"] == "eval"}
        return {(row["id"], evaluated[row["original"]]) for row in rows if row["kind"] == "leak"}

    alone = [leaks(source=one) for one in shared]
    assert all(alone)
    assert leaks(source=source, eval=evaluation) == set().union(*alone)


def test_patterns_are_held_against_the_names_within_each_source(folder: Path, bare_settings: Settings) -> None:
    params = SnapshotParams(source={"a": str(folder), "b": str(folder / "dog")}, exclude=("dog/*", "3*"))
    lock = take_snapshot(params, bare_settings)
    assert [one.name for one in lock.objects] == ["a/cat/0.jpg", "a/cat/1.jpg", "a/cat/2.jpg", "b/4.jpg", "b/5.jpg"]


def built(lock: SourceLock, settings: Settings, out: Path, **params: str) -> Manifest:
    build_manifest(lock, IngestParams(**params), out / "manifest", out / "shards", settings)  # type: ignore[arg-type]
    return Manifest.load(out / "manifest")


def test_bytes_of_two_sources_are_one_image_with_a_row_each(
    folder: Path, bare_settings: Settings, tmp_path: Path, picture: Callable[..., bytes]
) -> None:
    """The same folder twice, and an evaluation image that two sets share."""
    for name in ("one", "two"):
        for place in ("x", "y"):
            (tmp_path / name / place).mkdir(parents=True)
        (tmp_path / name / "x" / "same.jpg").write_bytes(picture(50))
    (tmp_path / "one" / "y" / "other.jpg").write_bytes(picture(51))
    chosen = SnapshotParams(
        source={"a": str(folder), "b": str(folder / "dog")},
        eval={"one": str(tmp_path / "one"), "two": str(tmp_path / "two")},
    )
    lock = take_snapshot(chosen, bare_settings)
    found = built(lock, bare_settings, tmp_path / "out")
    rows = found.sources.to_pylist()
    assert len(rows) == len(lock.objects) == 12
    assert len(found.images) == len(found.ids()) == 8
    names = {row["name"]: row["id"] for row in rows}
    assert names["one/x/same.jpg"] == names["two/x/same.jpg"]
    dog = [row for row in rows if row["id"] == names["b/3.jpg"]]
    assert [row["name"] for row in dog] == ["a/dog/3.jpg", "b/3.jpg"]
    assert {row["uri"] for row in dog} == {f"{folder}/dog/3.jpg"}
    # two has one label, which says nothing; one has two
    assert {row["name"]: row["label"] for row in rows if row["split"] == "eval"} == {
        "one/x/same.jpg": "x",
        "one/y/other.jpg": "y",
        "two/x/same.jpg": None,
    }
    assert found.labels([names["one/x/same.jpg"]]) == ["x"]


def test_a_group_is_of_its_source_and_a_pattern_sees_the_name_in_there(
    folder: Path, bare_settings: Settings, tmp_path: Path
) -> None:
    lock = take_snapshot(SnapshotParams(source={"a": str(folder), "b": str(folder)}), bare_settings)
    found = built(lock, bare_settings, tmp_path / "out", group_pattern="^(?P<group>cat|dog)/")
    groups = {row["name"]: row["group"] for row in found.sources.to_pylist()}
    assert set(groups.values()) == {"a/cat", "a/dog", "b/cat", "b/dog"}
    assert groups["b/dog/3.jpg"] == "b/dog"


def test_what_went_from_one_source_is_kept_when_another_joins() -> None:
    def lock_of(uris: dict[str, str], *names: str) -> SourceLock:
        return SourceLock(joined(uris), objects=tuple(SourceObject("train", name, 1, "sha256:0") for name in names))

    before = lock_of({"a": "x", "b": "y"}, "a/1", "a/2", "b/1", "b/2")
    after = lock_of({"a": "x", "b": "elsewhere", "c": "z"}, "a/1", "c/1")
    assert [one.name for one in removed_since(after, before).objects] == ["a/2"]
    alone = replace(before, train_uri="x")
    assert [one.name for one in removed_since(after, alone).objects] == ["a/a/1", "a/a/2", "a/b/1", "a/b/2"]
