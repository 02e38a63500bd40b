from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from components.data.scenes.actions import motion
from components.data.scenes.broken import KINDS as BROKEN_KINDS
from components.data.scenes.broken import break_file
from components.data.scenes.content import POSE_MOTION, content, detail, encode, layout
from components.data.scenes.draws import stream
from components.data.scenes.layout import EVAL, TRAIN
from components.data.scenes.off_topic import KINDS as OFF_TOPIC_KINDS
from components.data.scenes.off_topic import draw_off_topic
from components.data.scenes.plan import entries
from components.data.scenes.spec import ScenesSpec

SPEC = ScenesSpec(images=600, eval=100)
PLAN = entries(SPEC, TRAIN)


def of_kind(kind, count=1000):
    return [one for one in PLAN if one.kind == kind][:count]


def decoded(one):
    image = Image.open(BytesIO(content(SPEC, one)))
    image.load()
    return image.convert("RGB")


@pytest.mark.parametrize("kind", BROKEN_KINDS)
def test_no_decoder_reads_a_broken_file(kind, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000_000)
    whole = encode(Image.fromarray(np.full((64, 64, 3), 99, np.uint8)), png=False)
    seen = 0
    for number in range(60):
        data, drawn = break_file(whole, stream(0, "plant", number))
        if drawn != kind:
            continue
        seen += 1
        with pytest.raises((OSError, SyntaxError, Image.DecompressionBombError)):
            Image.open(BytesIO(data)).load()
    assert seen


def test_all_broken_entries_fail_and_all_others_decode(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000_000)
    for one in of_kind("broken"):
        with pytest.raises((OSError, SyntaxError, Image.DecompressionBombError)):
            decoded(one)
    for one in PLAN[:200]:
        if one.kind != "broken":
            assert min(decoded(one).size) >= 26


def test_off_topic_pictures_are_of_all_kinds_and_all_different():
    pictures = [draw_off_topic(stream(0, "plant", number), 64) for number in range(60)]
    assert {kind for _, kind in pictures} == set(OFF_TOPIC_KINDS)
    assert len({picture.tobytes() for picture, _ in pictures}) == 60


def test_detail_says_without_rendering_what_the_content_was_made_by():
    details = {one.kind: detail(SPEC, one) for one in PLAN}
    assert details["off_topic"] in OFF_TOPIC_KINDS
    assert details["broken"] in BROKEN_KINDS
    assert details["image"] is None
    for one in of_kind("broken"):
        assert (detail(SPEC, one) == "empty") == (content(SPEC, one) == b"")
    combined = [one for one in PLAN if one.transform == "combined"]
    assert all(len(detail(SPEC, one).split("+")) == 2 for one in combined)


def test_hard_negatives_are_what_their_kind_says():
    for one in of_kind("negative"):
        shown, original = layout(SPEC, one), layout(SPEC, PLAN[one.original])
        thing, other = shown.main.instance, original.main.instance
        same_background = shown.background.name == original.background.name
        apart = motion(original.main.pose, shown.main.pose)
        if one.negative_kind == "scene":
            assert thing.name == other.name
            assert 0.05 < apart < 0.25
            assert not same_background
        elif one.negative_kind in ("pose", "frame"):
            assert thing.name == other.name
            assert same_background
            assert apart > (0.1 if one.negative_kind == "frame" else POSE_MOTION)
        elif one.negative_kind == "colours":
            assert thing.category == other.category
            assert thing.name != other.name
            assert (thing.colours == other.colours).all()
            assert not same_background
        else:
            assert one.negative_kind == "background"
            assert thing.category != other.category
            assert same_background


def signature(image):
    """16 × 16 colours, each picture of mean 0 and norm 1; and those of its mirror image."""
    small = np.asarray(image.resize((16, 16), Image.Resampling.BOX), dtype=float)
    pair = [view - view.mean(axis=(0, 1)) for view in (small, small[:, ::-1])]
    return [view.ravel() / np.linalg.norm(view) for view in pair]


def test_pictures_that_are_no_copies_are_never_near_identical():
    """Copies by JPEG correlate at about 0.99 here; two independent scenes must stay clear of that."""
    kept = [one for one in PLAN if one.kind in ("image", "negative", "off_topic")] + entries(SPEC, EVAL)
    views = [signature(decoded(one)) for one in kept]
    straight, mirrored = (np.stack([pair[k] for pair in views]) for k in (0, 1))
    similarity = np.maximum(straight @ straight.T, straight @ mirrored.T)
    np.fill_diagonal(similarity, 0.0)
    assert similarity.max() < 0.95


def test_copies_resemble_their_original():
    originals = {one.index: signature(decoded(PLAN[one.original])) for one in of_kind("copy")}
    for one in of_kind("copy"):
        if one.transform in ("jpeg30", "jpeg90", "resize50", "flip", "brightness", "saturation"):
            view = signature(decoded(one))[0]
            assert max(float(view @ other) for other in originals[one.index]) > 0.9


def test_a_file_is_the_same_in_any_order():
    forward = [content(SPEC, one) for one in PLAN[:60]]
    assert [content(SPEC, one) for one in PLAN[59::-1]][::-1] == forward


def test_encoding_follows_the_name():
    for one in PLAN[:150]:
        if one.kind != "broken":
            assert content(SPEC, one).startswith(b"\x89PNG" if one.name.endswith(".png") else b"\xff\xd8")
