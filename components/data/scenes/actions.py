"""Actions of an object in a clip, as movements of its pose over time in [0, 1]."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from components.data.scenes.draws import pick, sign, stream, uniform
from components.data.scenes.layout import Layout, Pose, changed
from components.data.scenes.spec import ScenesSpec

MIN_MOTION = 0.10
"""Any two frames of one clip in a source differ by at least this mean displacement, in sides of the picture."""

FRAMES = 4
"""Frames of a clip in a source; `clip_poses` gives any number of others."""

# Keyframes at equal times: (right, down, turn in half-turns, scale), lengths in half-sides.
ACTIONS: Mapping[str, Sequence[tuple[float, float, float, float]]] = {
    "translate": ((-0.42, -0.1, 0.0, 0.6), (-0.14, -0.03, 0.0, 0.6), (0.14, 0.03, 0.0, 0.6), (0.42, 0.1, 0.0, 0.6)),
    "swing": ((-0.42, -0.12, 0.3, 0.6), (-0.16, 0.12, 0.1, 0.6), (0.16, 0.12, -0.1, 0.6), (0.42, -0.12, -0.3, 0.6)),
    "grow": ((0.0, 0.0, 0.0, 0.16), (0.0, 0.0, 0.0, 0.47), (0.0, 0.0, 0.0, 0.78), (0.0, 0.0, 0.0, 1.09)),
    "shrink": ((0.0, 0.0, 0.0, 1.09), (0.0, 0.0, 0.0, 0.78), (0.0, 0.0, 0.0, 0.47), (0.0, 0.0, 0.0, 0.16)),
    "shake": ((0.42, 0.0, 0.08, 0.6), (-0.42, 0.0, -0.08, 0.6), (0.16, 0.0, 0.04, 0.6), (-0.14, 0.0, -0.04, 0.6)),
    "hop": ((-0.42, 0.35, 0.0, 0.6), (-0.15, -0.35, 0.0, 0.6), (0.15, 0.3, 0.0, 0.6), (0.42, -0.3, 0.0, 0.6)),
}
"""Key poses of every action."""


def draw_action(spec: ScenesSpec, clip: int) -> tuple[str, float]:
    """Draw the action of a clip and its direction: 1 as in `ACTIONS`, -1 mirrored left to right."""
    rng = stream(spec.seed, "clip", clip)
    return pick(rng, tuple(ACTIONS)), sign(rng)


def clip_layouts(layout: Layout, spec: ScenesSpec, clip: int, frames: int = FRAMES) -> list[Layout]:
    """Return the layouts of a clip's frames, at equal times from first to last key pose.

    Args:
        layout: the scene whose main object acts.
        spec: the set.
        clip: number of the clip.
        frames: number of frames, at least 2.
    """
    action, direction = draw_action(spec, clip)
    rng = stream(spec.seed, "clip", clip, 1)
    x, y, turn = uniform(rng, -0.1, 0.1), uniform(rng, -0.1, 0.1), uniform(rng, -0.3, 0.3)
    keys = np.array(ACTIONS[action])
    layouts = []
    for frame in range(frames):
        time = frame * (len(keys) - 1) / (frames - 1)
        k = min(int(time), len(keys) - 2)
        right, down, half_turns, scale = keys[k] + (time - k) * (keys[k + 1] - keys[k])
        layouts.append(
            changed(
                layout,
                x=x + direction * float(right),
                y=y + float(down),
                rotation=turn + direction * float(half_turns) * float(np.pi),
                scale=float(scale),
            )
        )
    return [replace(one, noise=(clip, 16 + frame)) for frame, one in enumerate(layouts)]


def motion(before: Pose, after: Pose) -> float:
    """Return the mean displacement of the points of an object, in sides of the picture."""
    t = (np.arange(12) + 0.5) / 6.0 - 1.0
    x, y = (grid[np.add.outer(t * t, t * t) < 1.0] for grid in np.meshgrid(t, t))
    ends = []
    for pose in (before, after):
        cosine, sine = float(np.cos(pose.rotation)), float(np.sin(pose.rotation))
        u = -x if pose.mirrored else x
        ends.append((pose.x + pose.scale * (cosine * u - sine * y), pose.y + pose.scale * (sine * u + cosine * y)))
    dx, dy = ends[1][0] - ends[0][0], ends[1][1] - ends[0][1]
    return float(np.sqrt(dx * dx + dy * dy).mean()) / 2.0
