"""The bytes and the layout behind every entry of a plan."""

from dataclasses import replace
from io import BytesIO

from numpy.random import Generator
from PIL import Image

from components.data.scenes.actions import MIN_MOTION, clip_layouts, motion
from components.data.scenes.broken import break_file, draw_broken_kind
from components.data.scenes.draws import sign, stream, uniform
from components.data.scenes.layout import EVAL, Layout, Placed, Pose, draw_layout, draw_pose
from components.data.scenes.off_topic import draw_off_topic, draw_off_topic_kind
from components.data.scenes.plan import Entry, entry
from components.data.scenes.planting import draw_parts, plant
from components.data.scenes.render import Scene, render
from components.data.scenes.spec import ScenesSpec

JPEG_QUALITY = 92
POSE_MOTION = 2.0 * MIN_MOTION
"""A hard negative of kind `pose` moves at least this far, in sides of the picture."""


def layout(spec: ScenesSpec, one: Entry) -> Layout | None:
    """Return what a rendered entry shows; None for copies, leaks, off-topic pictures and broken files."""
    if one.kind not in ("image", "negative"):
        return None
    if one.clip is not None and one.frame is not None:
        first = entry(spec, one.part, one.clip)
        scene = draw_layout(spec, first.index, first.part, first.category, first.instance)
        return clip_layouts(replace(scene, objects=scene.objects[-1:]), spec, one.clip)[one.frame]
    scene = draw_layout(spec, one.index, one.part, one.category, one.instance)
    if one.negative_kind is None or one.original is None:
        return scene
    original = layout(spec, entry(spec, one.part, one.original))
    if original is None:
        raise ValueError(f"original {one.original} of {one.name} is not rendered")
    return _negative(scene, original, one, stream(spec.seed, "pose", one.index))


def _negative(scene: Layout, original: Layout, one: Entry, rng: Generator) -> Layout:
    if one.negative_kind == "scene":
        return replace(scene, objects=(Placed(original.main.instance, _near_pose(original.main.pose, rng)),))
    if one.negative_kind == "pose":
        moved = replace(original, objects=(Placed(original.main.instance, _far_pose(original.main.pose, rng)),))
        return replace(moved, noise=scene.noise)
    if one.negative_kind == "colours":
        return replace(scene, background=replace(scene.background, colours=original.background.colours))
    return replace(scene, background=original.background, light=original.light)


def _near_pose(pose: Pose, rng: Generator) -> Pose:
    """Draw a pose much like another, a little nearer to the middle, as of a second photo of the same thing."""
    return replace(
        pose,
        x=pose.x - (1.0 if pose.x > 0 else -1.0) * uniform(rng, 0.08, 0.2),
        y=pose.y - (1.0 if pose.y > 0 else -1.0) * uniform(rng, 0.08, 0.2),
        rotation=pose.rotation + sign(rng) * uniform(rng, 0.1, 0.3),
        scale=pose.scale * uniform(rng, 0.9, 1.1),
    )


def _far_pose(pose: Pose, rng: Generator) -> Pose:
    """Draw poses until one is far enough; the farthest of 32 at worst."""
    drawn = [draw_pose(rng) for _ in range(32)]
    distances = [motion(pose, other) for other in drawn]
    for other, distance in zip(drawn, distances, strict=True):
        if distance >= POSE_MOTION:
            return other
    return drawn[distances.index(max(distances))]


def scene(spec: ScenesSpec, one: Entry) -> Scene | None:
    """Render an entry with its truth; None where `layout` is None."""
    shown = layout(spec, one)
    return render(shown, spec) if shown else None


def content(spec: ScenesSpec, one: Entry) -> bytes:
    """Return the file of an entry."""
    if one.kind in ("copy", "leak"):
        return _copy(spec, one)
    if one.kind == "off_topic":
        return encode(draw_off_topic(_detail_stream(spec, one), spec.size)[0], one.png)
    if one.kind == "broken":
        whole = draw_layout(spec, one.index, one.part, one.category, one.instance)
        return break_file(encode(Image.fromarray(render(whole, spec).image), one.png), _detail_stream(spec, one))[0]
    rendered = scene(spec, one)
    if rendered is None:
        raise ValueError(f"{one.name} of kind {one.kind} has no layout")
    return encode(Image.fromarray(rendered.image), one.png)


def detail(spec: ScenesSpec, one: Entry) -> str | None:
    """Return how an entry was transformed or broken, or what an off-topic picture shows; nothing is rendered."""
    rng = _detail_stream(spec, one)
    if one.transform is not None:
        return "+".join(draw_parts(rng, one.transform))
    if one.kind == "off_topic":
        return draw_off_topic_kind(rng)
    if one.kind == "broken":
        return draw_broken_kind(rng)
    return None


def _detail_stream(spec: ScenesSpec, one: Entry) -> Generator:
    return stream(spec.seed, "plant", one.index)


def _copy(spec: ScenesSpec, one: Entry) -> bytes:
    if one.original is None or one.transform is None:
        raise ValueError(f"{one.name} lacks its original or transformation")
    original = entry(spec, EVAL if one.kind == "leak" else one.part, one.original)
    picture = Image.open(BytesIO(content(spec, original)))
    return encode(plant(picture, _detail_stream(spec, one), one.transform)[0], one.png)


def encode(picture: Image.Image, png: bool) -> bytes:
    """Encode as PNG or as JPEG of quality 92."""
    buffer = BytesIO()
    if png:
        picture.save(buffer, "PNG")
    else:
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
