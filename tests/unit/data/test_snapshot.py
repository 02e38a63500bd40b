import json
from dataclasses import replace
from pathlib import Path

import pytest

from components.curation.embedding import EmbedParams
from components.data.changes import Changes, removed_since
from components.data.lock import Annotation, SourceLock, SourceObject, read_lock, same_lock, write_lock
from components.data.snapshot import SnapshotParams, take_snapshot
from components.data.sources import object_uri
from components.errors import UserError
from components.parameters import validate
from components.settings import Settings
from components.stages.params import load_params, parse_params
from flows.snapshot import probe_sources, refresh_locks

ROOT = Path(__file__).parents[3]


def test_a_snapshot_lists_both_roles_sorted(folder: Path, bare_settings: Settings) -> None:
    params = SnapshotParams(source=str(folder), eval=str(folder / "cat"), exclude=("dog/3*",))
    lock = take_snapshot(params, bare_settings)
    assert [(one.role, one.name) for one in lock.objects] == [
        *(("eval", f"{n}.jpg") for n in range(3)),
        *(("train", f"cat/{n}.jpg") for n in range(3)),
        *(("train", f"dog/{n}.jpg") for n in (4, 5)),
    ]
    assert (lock.train_uri, lock.eval_uri, lock.exclude) == (str(folder), str(folder / "cat"), ("dog/3*",))


def test_a_second_snapshot_is_the_same_until_something_changes(folder: Path, bare_settings: Settings) -> None:
    params = SnapshotParams(source=str(folder))
    lock = take_snapshot(params, bare_settings)
    assert same_lock(lock, take_snapshot(params, bare_settings))
    (folder / "notes.txt").write_text("no image, so no change")
    assert same_lock(lock, take_snapshot(params, bare_settings))
    (folder / "cat" / "0.jpg").rename(folder / "cat" / "00.jpg")
    assert not same_lock(lock, take_snapshot(params, bare_settings))


def test_scenes_bring_their_own_evaluation_part(bare_settings: Settings) -> None:
    lock = take_snapshot(SnapshotParams(source="scenes?images=30&eval=10"), bare_settings)
    assert lock.train_uri == lock.eval_uri == "scenes?images=30&eval=10"
    assert (len(lock.of_role("train")), len(lock.of_role("eval"))) == (30, 10)
    without = take_snapshot(SnapshotParams(source="scenes?images=30&eval=0&leaks=0"), bare_settings)
    assert without.eval_uri is None


def test_the_committed_lock_is_what_a_snapshot_of_the_default_scenes_gives(bare_settings: Settings) -> None:
    committed = read_lock(ROOT / "data" / "source.lock")
    assert same_lock(committed, take_snapshot(SnapshotParams(), bare_settings))


def test_one_image_is_too_few_to_train_on(folder: Path, bare_settings: Settings) -> None:
    params = SnapshotParams(source=str(folder), include=("cat/1.jpg",))
    with pytest.raises(UserError, match="1 image: at least 2 are needed to train"):
        take_snapshot(params, bare_settings)


def test_the_training_source_cannot_be_its_own_evaluation(folder: Path, bare_settings: Settings) -> None:
    with pytest.raises(UserError, match="the evaluation source is the training source"):
        take_snapshot(SnapshotParams(source=str(folder), eval=str(folder)), bare_settings)


def test_one_of_several_cannot_be_trained_on_and_evaluated_on(folder: Path, bare_settings: Settings) -> None:
    pets, cats = str(folder), str(folder / "cat")
    params = SnapshotParams(source={"a": pets, "b": cats}, eval={"c": cats})
    with pytest.raises(UserError, match=r"cat: the evaluation source is the training source"):
        take_snapshot(params, bare_settings)


def test_of_several_sources_scenes_bring_their_evaluation_part(folder: Path, bare_settings: Settings) -> None:
    drawn = "scenes?images=30&eval=10"
    params = SnapshotParams(source={"pets": str(folder), "drawn": drawn})
    assert params.eval_uri == "sets?drawn=scenes%3Fimages%3D30%26eval%3D10"
    lock = take_snapshot(params, bare_settings)
    assert (len(lock.of_role("train")), len(lock.of_role("eval"))) == (36, 10)
    assert SnapshotParams(source={"pets": str(folder)}).eval_uri is None
    assert take_snapshot(SnapshotParams(source={"a": drawn}, eval={"b": drawn}), bare_settings).eval_uri is not None


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({}, "give one URI, or at least one under a name"),
        (["a", "b"], "give one URI, or at least one under a name"),
        (3, "give one URI, or at least one under a name"),
        ({"a/b": "x"}, "'a/b' is no name of a source: a name has 1 to 40 letters, digits, - and _"),
        ({"": "x"}, "'' is no name of a source"),
        ({2024: "x"}, "2024 is no name of a source.*quote"),
        ({"a": {"b": "x"}}, "'a' is not one URI: give a folder"),
        ({"a": None}, "'a' is not one URI"),
        ({"a": "sets?b=x"}, "'a' is not one URI"),
        ("sets?b=x", "write several sources as {NAME: URI, …}"),
    ],
)
def test_f16_what_is_no_source_is_one_line(given: object, remedy: str) -> None:
    for key in ("source", "eval"):
        with pytest.raises(UserError, match=remedy) as caught:
            validate(SnapshotParams, {key: given}, where="snapshot")
        assert f"snapshot: '{key}'" in str(caught.value)
        assert "more)" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_f16_a_name_given_twice_is_one_line_that_says_where() -> None:
    with pytest.raises(
        UserError, match=r"^p\.yaml: not valid YAML \(found duplicate key \"a\".*, line 4\): mend"
    ) as caught:
        parse_params("snapshot:\n  eval:\n    a: x\n    a: y\n", where="p.yaml")
    assert "\n" not in str(caught.value)


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"snapshot.*'source' is ' '"):
        validate(SnapshotParams, {"source": " "}, where="snapshot")


def lock_of(*names: str, uri: str = "photos", digest: str = f"sha256:{0:064x}") -> SourceLock:
    return SourceLock(uri, objects=tuple(SourceObject("train", name, 1, digest) for name in names))


def names(objects: tuple[SourceObject, ...]) -> list[str]:
    return [one.name for one in objects]


def test_changes_are_told_by_name() -> None:
    before = lock_of("a", "b", "c")
    after = replace(before, objects=(*lock_of("b", "d").objects, *lock_of("c", digest="etag:1").objects))
    found = Changes.between(before, after)
    assert (names(found.new), names(found.changed), names(found.removed)) == (["d"], ["c"], ["a"])
    assert found.changed[0].digest == "etag:1"


def test_another_label_is_a_change_and_survives_the_file(tmp_path: Path) -> None:
    (plain,) = lock_of("a").objects
    locks = [
        SourceLock("photos", objects=(replace(plain, annotation=said),))
        for said in (None, Annotation(), Annotation("cat"), Annotation("cat", "clip", 0))
    ]
    for number, lock in enumerate(locks):
        write_lock(lock, tmp_path / "source.lock")
        assert read_lock(tmp_path / "source.lock") == lock
        assert [same_lock(lock, other) for other in locks] == [index == number for index in range(len(locks))]


@pytest.mark.parametrize("said", [{"label": 3}, {"frame": -1}, {"frame": 1 << 63}, {"colour": "red"}, "cat"])
def test_an_annotation_that_no_snapshot_writes_is_named_by_line(tmp_path: Path, said: object) -> None:
    write_lock(lock_of("a"), tmp_path / "source.lock")
    text = (tmp_path / "source.lock").read_text()
    (tmp_path / "source.lock").write_text(text.replace('"digest"', f'"annotation": {json.dumps(said)}, "digest"'))
    with pytest.raises(UserError, match="line 2 is damaged"):
        read_lock(tmp_path / "source.lock")


def test_removed_objects_add_up_until_they_are_back() -> None:
    first, second = lock_of("a", "b", "c", "d"), lock_of("c", "d")
    removed = removed_since(second, first)
    assert names(removed.objects) == ["a", "b"]
    third = lock_of("b", "d")
    assert names(removed_since(third, second, removed).objects) == ["a", "c"]
    assert removed_since(lock_of("b", uri="elsewhere"), second).objects == ()


def test_a_snapshot_tells_what_went_and_records_it(folder: Path, bare_settings: Settings) -> None:
    params = load_params(ROOT / "params.yaml").model_copy(
        update={"snapshot": SnapshotParams(source=str(folder)), "embed": EmbedParams(embedder="builtin")}
    )
    assert refresh_locks(params, bare_settings).source == f"{folder}: 6 objects, 0 for evaluation"
    assert refresh_locks(params, bare_settings).source is None
    record = bare_settings.root / "data" / "source.removed"
    assert not record.exists()
    for name in ("cat/0.jpg", "cat/1.jpg", "dog/3.jpg", "dog/4.jpg"):
        (folder / name).unlink()
    (folder / "dog" / "6.jpg").write_bytes((folder / "dog" / "5.jpg").read_bytes())
    (folder / "dog" / "5.jpg").write_bytes((folder / "cat" / "2.jpg").read_bytes())
    assert refresh_locks(params, bare_settings).source == (
        f"{folder}: 3 objects, 0 for evaluation (1 new, 1 changed, 4 removed: cat/0.jpg, cat/1.jpg, dog/3.jpg, …)"
    )
    assert names(read_lock(record).objects) == ["cat/0.jpg", "cat/1.jpg", "dog/3.jpg", "dog/4.jpg"]
    (folder / "cat" / "0.jpg").write_bytes((folder / "cat" / "2.jpg").read_bytes())
    assert (
        refresh_locks(params, bare_settings).source
        == f"{folder}: 4 objects, 0 for evaluation (1 new, 0 changed, 0 removed)"
    )
    assert names(read_lock(record).objects) == ["cat/1.jpg", "dog/3.jpg", "dog/4.jpg"]


def test_what_a_source_has_lost_stays_on_record_under_other_names_and_while_it_is_absent(
    folder: Path, bare_settings: Settings
) -> None:
    """Alone, among several, under another name, left out, back again, and alone again."""
    params = load_params(ROOT / "params.yaml").model_copy(update={"embed": EmbedParams(embedder="builtin")})
    record, pets, cats = bare_settings.root / "data" / "source.removed", str(folder), str(folder / "cat")

    def snapshot(source: str | dict[str, str]) -> tuple[str | None, dict[str, str]]:
        taken = params.model_copy(update={"snapshot": SnapshotParams(source=source)})
        told = refresh_locks(taken, bare_settings).source
        lost = read_lock(record) if record.exists() else lock_of()
        return told, {one.name: object_uri(lost.uri(one.role) or "", one.name) for one in lost.objects}

    snapshot(pets)
    (folder / "dog" / "3.jpg").unlink()
    dog = f"{folder}/dog/3.jpg"
    assert snapshot(pets)[1] == {"dog/3.jpg": dog}
    told, lost = snapshot({"pets": pets, "cats": cats})
    assert str(told).endswith("(3 new, 0 changed, 0 removed)")
    assert lost == {"pets/dog/3.jpg": dog}
    told, lost = snapshot({"animals": pets, "pets": cats})
    assert str(told).endswith("(0 new, 0 changed, 0 removed)")
    assert lost == {"animals/dog/3.jpg": dog}
    assert snapshot({"animals": cats})[1] == {"animals-2/dog/3.jpg": dog}
    assert snapshot(cats)[1] == {"animals-2/dog/3.jpg": dog}
    (folder / "cat" / "1.jpg").unlink()
    cat = f"{folder}/cat/1.jpg"
    assert snapshot(cats)[1] == {"animals-2/dog/3.jpg": dog, "animals/1.jpg": cat}
    assert snapshot({"animals": pets, "cats": cats})[1] == {"animals/dog/3.jpg": dog, "cats/1.jpg": cat}
    (folder / "dog" / "3.jpg").write_bytes((folder / "dog" / "4.jpg").read_bytes())
    assert snapshot(pets)[1] == {"cats/1.jpg": cat}
    assert snapshot(cats)[1] == {"1.jpg": cat}


def test_a_lost_evaluation_object_stays_on_record_where_there_is_no_evaluation_source_any_more(tmp_path: Path) -> None:
    (one,) = lock_of("a").objects
    before = replace(lock_of("b"), eval_uri="val", objects=(*lock_of("b").objects, replace(one, role="eval")))
    lost = removed_since(replace(before, objects=lock_of("b").objects), before)
    write_lock(removed_since(lock_of("b"), None, lost), tmp_path / "source.removed")
    found = read_lock(tmp_path / "source.removed")
    assert [(found.eval_uri, one.role, one.name) for one in found.objects] == [("val", "eval", "a")]


def test_several_sources_are_told_by_name_and_each_is_looked_at(folder: Path, bare_settings: Settings) -> None:
    chosen = SnapshotParams(source={"pets": str(folder), "cats": str(folder / "cat")}, eval={"dogs": f"{folder}/dog"})
    params = load_params(ROOT / "params.yaml").model_copy(
        update={"snapshot": chosen, "embed": EmbedParams(embedder="builtin")}
    )
    assert refresh_locks(params, bare_settings).source == (
        f"cats={folder}/cat, pets={folder}: 9 objects, 3 for evaluation"
    )
    assert probe_sources(params, bare_settings) == [
        f"{folder}/cat (0.jpg)",
        f"{folder} (cat/0.jpg)",
        f"{folder}/dog (3.jpg)",
    ]
    assert read_lock(bare_settings.root / "data" / "source.lock") == take_snapshot(chosen, bare_settings)


def test_a_record_of_what_went_that_cannot_be_read_is_left_as_it_is(folder: Path, bare_settings: Settings) -> None:
    params = load_params(ROOT / "params.yaml").model_copy(update={"snapshot": SnapshotParams(source=str(folder))})
    refresh_locks(params, bare_settings)
    (folder / "cat" / "0.jpg").unlink()
    record = bare_settings.root / "data" / "source.removed"
    record.write_text("<<<<<<< HEAD\n")
    with pytest.raises(UserError, match=r"source\.removed: line 1 is damaged: restore it with git"):
        refresh_locks(params, bare_settings)
    assert record.read_text() == "<<<<<<< HEAD\n"
