import hashlib
import json
import pickle

import pytest

from components.data.scenes.source import ScenesSource
from components.data.scenes.spec import ScenesSpec, parse_uri
from components.errors import UserError

SPEC = ScenesSpec(images=200, eval=40)
TRAIN = ScenesSource(SPEC, "train")
EVAL = ScenesSource(SPEC, "eval")


def test_objects_are_listed_by_name_with_unique_digests():
    for source, count, role in ((TRAIN, 200, "train"), (EVAL, 40, "eval")):
        objects = list(source.list())
        assert [one.name for one in objects] == sorted(one.name for one in objects)
        assert len({one.digest for one in objects}) == len(objects) == count
        assert {one.role for one in objects} == {role}
        assert all(one.digest.startswith("scenes:") for one in objects)


def test_uri_opens_the_same_set_again():
    again = ScenesSource(parse_uri(TRAIN.uri), "train")
    name = next(again.list()).name
    assert list(again.list()) == list(TRAIN.list())
    assert again.read(name) == TRAIN.read(name)


def test_train_and_eval_share_no_picture():
    contents = [{source.read(one.name) for one in list(source.list())[:40]} for source in (TRAIN, EVAL)]
    assert not contents[0] & contents[1]


def test_a_growing_set_keeps_names_digests_and_bytes():
    larger = ScenesSource(ScenesSpec(images=300, eval=40), "train")
    grown = {one.name: one for one in larger.list()}
    for one in TRAIN.list():
        assert grown[one.name] == one
    name = next(TRAIN.list()).name
    assert larger.read(name) == TRAIN.read(name)


@pytest.mark.parametrize("change", [{"seed": 1}, {"size": 32}, {"classes": 9}, {"copies": 0.1}])
def test_whatever_changes_the_pictures_changes_the_digests(change):
    other = ScenesSource(ScenesSpec(images=200, eval=40, **change), "train")
    assert not {one.digest for one in TRAIN.list()} & {one.digest for one in other.list()}


def test_read_checks_the_locked_digest():
    one = next(TRAIN.list())
    assert TRAIN.read(one.name, one.digest) == TRAIN.read(one.name)
    with pytest.raises(UserError, match="no longer what was locked"):
        TRAIN.read(one.name, "scenes:0")


def test_unknown_name_is_a_user_error_that_names_it():
    with pytest.raises(UserError, match=r"train/fish/1\.jpg"):
        TRAIN.read("train/fish/1.jpg")


def test_annotation_is_the_folder_and_never_tells_plants_apart():
    kinds = {row["name"]: row for row in TRAIN.truth().to_pylist()}
    for one in TRAIN.list():
        annotation = TRAIN.annotation(one.name)
        assert annotation.label == one.name.split("/")[1]
        assert annotation.group
        assert (annotation.frame is not None) == (kinds[one.name]["clip"] is not None)


def test_truth_has_one_row_for_every_file():
    for source in (TRAIN, EVAL):
        assert source.truth()["name"].to_pylist() == [one.name for one in source.list()]


def test_truth_of_every_kind_says_what_it_must():
    evaluation = {one.name for one in EVAL.list()}
    rows = {row["name"]: row for row in TRAIN.truth().to_pylist()}
    assert {row["kind"] for row in rows.values()} == {"image", "copy", "leak", "off_topic", "broken", "negative"}
    for row in rows.values():
        kind = row["kind"]
        assert (row["original"] is not None) == (kind in ("copy", "leak", "negative"))
        assert (row["transform"] is not None) == (kind in ("copy", "leak"))
        assert (row["negative_kind"] is not None) == (kind == "negative")
        assert (row["class"] is None) == (kind in ("off_topic", "broken"))
        assert (row["detail"] is not None) == (kind not in ("image", "negative"))
        assert (row["motion"] is not None) == (row["negative_kind"] in ("frame", "pose"))
        if kind == "leak":
            assert row["original"] in evaluation
        elif row["original"]:
            assert row["original"] in rows
        if kind == "copy":
            original = rows[row["original"]]
            assert (row["class"], row["instance"]) == (original["class"], original["instance"])


def test_scene_gives_masks_of_rendered_files_only():
    rows = TRAIN.truth().to_pylist()
    for kind in ("image", "negative"):
        name = next(row["name"] for row in rows if row["kind"] == kind)
        assert TRAIN.scene(name).mask.any()
    assert TRAIN.scene(next(row["name"] for row in rows if row["kind"] == "copy")) is None


def test_source_can_be_sent_to_a_worker_process():
    again = pickle.loads(pickle.dumps(TRAIN))
    name = next(TRAIN.list()).name
    assert again.read(name) == TRAIN.read(name)


def test_golden_truth():
    """A change here is a new VERSION: names, plants and their parameters are the yardstick of curation."""
    columns = ["name", "kind", "original", "transform", "detail", "negative_kind", "class", "instance", "action"]
    rows = [source.truth().select(columns).to_pylist() for source in (TRAIN, EVAL)]
    assert (
        hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        == "0b6d948a6de2da535e8eeb0a8c58f76ea1ee0da5947fe551457a553760da585c"
    )


def test_golden_digest_of_a_recipe():
    assert next(TRAIN.list()).digest == "scenes:8d96ef784cef50528995251f20295edb6809540a229c0e92183c6f75656d4495"
