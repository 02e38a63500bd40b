import re
from collections import Counter

import pytest

from components.data.scenes.layout import EVAL, TRAIN
from components.data.scenes.plan import NEGATIVE_KINDS, entries, entry
from components.data.scenes.planting import TRANSFORMS
from components.data.scenes.spec import ScenesSpec

SPEC = ScenesSpec()


def test_kinds_come_at_their_stated_shares():
    kinds = Counter(one.kind for one in entries(SPEC, TRAIN))
    assert kinds["leak"] == 60
    assert kinds["off_topic"] == 120
    assert kinds["broken"] == 30
    assert abs(kinds["copy"] - 240) <= 8  # a copy without an original before it in its block stays an image
    assert abs(kinds["negative"] - (180 + 180)) <= 8  # 6 % and three of four frames of the clips


def test_all_transformations_and_all_kinds_of_negatives_occur():
    planned = entries(SPEC, TRAIN)
    assert {one.transform for one in planned} == {None, *TRANSFORMS}
    assert {one.negative_kind for one in planned} == {None, "frame", *NEGATIVE_KINDS}


def test_classes_are_balanced_and_seen_with_all_their_instances():
    images = [one for one in entries(SPEC, TRAIN) if one.kind == "image"]
    counts = Counter(one.category for one in images)
    assert set(counts) == set(SPEC.categories)
    assert max(counts.values()) < 1.3 * min(counts.values())
    assert len({(one.category, one.instance) for one in images}) == SPEC.classes * SPEC.instances


def test_eval_holds_no_plants_and_some_instances_that_train_never_shows():
    planned = entries(SPEC, EVAL)
    assert {one.kind for one in planned} == {"image"}
    unseen = sum(one.instance >= SPEC.instances for one in planned)
    assert 0.12 < unseen / len(planned) < 0.28
    assert all(one.instance < SPEC.instances for one in entries(SPEC, TRAIN) if one.kind == "image")


def test_a_longer_set_begins_with_the_shorter_one():
    long = entries(SPEC, TRAIN)
    for images in (1, 57, 100, 250):
        assert entries(ScenesSpec(images=images), TRAIN) == long[:images]


def test_an_entry_does_not_depend_on_what_was_asked_before():
    last_first = [entry(SPEC, TRAIN, index) for index in reversed(range(300))]
    assert last_first[::-1] == entries(ScenesSpec(images=300), TRAIN)


def test_copies_and_negatives_refer_to_an_earlier_plain_image():
    planned = entries(SPEC, TRAIN)
    for one in planned:
        if one.kind in ("copy", "negative"):
            original = planned[one.original]
            assert one.original < one.index
            assert original.kind == "image" or one.negative_kind == "frame"
            assert (original.category == one.category) == (one.negative_kind != "background")


def test_names_are_unique_and_tell_only_the_class():
    planned = entries(SPEC, TRAIN) + entries(SPEC, EVAL)
    assert len({one.name for one in planned}) == len(planned)
    for one in planned:
        part = "train" if one.part == TRAIN else "eval"
        assert re.fullmatch(rf"{part}/{one.category}/\d{{10}}\.(jpg|png)", one.name)


@pytest.mark.parametrize("kind", ["copy", "leak", "off_topic", "broken", "negative"])
def test_plants_are_spread_evenly_over_the_order_of_names(kind):
    planned = sorted(entries(SPEC, TRAIN), key=lambda one: one.name.split("/")[-1])
    positions = [i / len(planned) for i, one in enumerate(planned) if one.kind == kind]
    assert 0.35 < sum(positions) / len(positions) < 0.65


def test_frames_of_a_clip_share_class_instance_and_clip():
    planned = entries(SPEC, TRAIN)
    frames = [one for one in planned if one.clip is not None]
    assert len(frames) == 240
    for one in frames:
        first = planned[one.clip]
        assert (first.category, first.instance, first.frame) == (one.category, one.instance, 0)
        if one.frame:
            assert planned[one.original].frame == one.frame - 1


def test_a_part_without_plants_is_all_images():
    bare = ScenesSpec(copies=0, leaks=0, off_topic=0, broken=0, negatives=0, clips=0)
    assert {one.kind for one in entries(bare, TRAIN)} == {"image"}
