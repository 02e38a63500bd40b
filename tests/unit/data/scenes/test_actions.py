from itertools import combinations

import pytest

from components.data.scenes.actions import ACTIONS, MIN_MOTION, clip_layouts, draw_action, motion
from components.data.scenes.layout import TRAIN, Pose, draw_layout
from components.data.scenes.spec import ScenesSpec

SPEC = ScenesSpec()


def clip(number, frames=4):
    return clip_layouts(draw_layout(SPEC, number, TRAIN, "fish", 1), SPEC, number, frames)


def test_motion_of_a_shift_is_its_length_in_sides():
    before = Pose(0.0, 0.0, 0.5, 0.3, False)
    assert motion(before, Pose(0.6, 0.8, 0.5, 0.3, False)) == pytest.approx(0.5)
    assert motion(before, before) == 0.0


def test_motion_of_growth_and_turning_grows_with_the_radius():
    small, large = Pose(0.0, 0.0, 0.2, 0.0, False), Pose(0.0, 0.0, 0.8, 0.0, False)
    assert motion(small, large) == pytest.approx(0.3 * 2 / 3, rel=0.03)  # mean radius of a disc
    turned = [motion(pose, Pose(0.0, 0.0, pose.scale, 0.5, True)) for pose in (small, large)]
    assert turned[1] == pytest.approx(4 * turned[0])


def test_any_two_frames_of_a_clip_are_the_stated_motion_apart():
    for number in range(60):
        poses = [layout.main.pose for layout in clip(number)]
        assert min(motion(one, other) for one, other in combinations(poses, 2)) > MIN_MOTION


def test_frames_of_a_clip_differ_only_in_the_pose_of_the_main_object_and_in_noise():
    layouts = clip(3)
    assert len({id(layout.background) for layout in layouts}) == 1
    assert len({layout.noise for layout in layouts}) == 4


def test_a_longer_clip_shows_the_same_action_more_smoothly():
    four, seven = clip(5, 4), clip(5, 7)
    for k in range(4):
        assert abs(four[k].main.pose.x - seven[2 * k].main.pose.x) < 1e-12


def test_all_actions_are_drawn():
    assert {draw_action(SPEC, number)[0] for number in range(100)} == set(ACTIONS)
