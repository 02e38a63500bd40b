"""Drift is found where there is some, and as rarely as the significance says where there is none."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy.stats import kstest

from components.curation.drift import (
    ClusterGrowth,
    DriftParams,
    cluster_growth,
    describe_growth,
    draw,
    measure_drift,
    mmd_test,
)
from components.data.decoding import decode_rgb
from components.data.scenes.source import ScenesSource
from components.data.scenes.spec import parse_uri
from components.errors import UserError
from components.features.descriptor import describe
from components.parameters import validate

REPEATS = 300


def unit(count: int, seed: int, dim: int = 8, shift: float = 0.0) -> torch.Tensor:
    vectors = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + shift
    return torch.nn.functional.normalize(vectors, dim=-1)


def plain_mmd(older: np.ndarray, newer: np.ndarray) -> float:
    """The estimator as its formula is written (Gretton et al. 2012, equation 3), pair by pair."""
    everyone = np.concatenate([older, newer])
    distances = [np.linalg.norm(a - b) for i, a in enumerate(everyone) for b in everyone[i + 1 :]]
    sigma = sorted(distances)[(len(distances) - 1) // 2]

    def mean(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
        return float(np.mean([math.exp(-(np.linalg.norm(a - b) ** 2) / (2 * sigma**2)) for a, b in pairs]))

    within = [[(a, b) for i, a in enumerate(side) for j, b in enumerate(side) if i != j] for side in (older, newer)]
    return mean(within[0]) + mean(within[1]) - 2 * mean([(a, b) for a in older for b in newer])


def test_the_estimate_is_that_of_the_formula_also_on_sides_of_unequal_size() -> None:
    older, newer = unit(9, 1).double(), unit(14, 2, shift=0.3).double()
    observed, null = mmd_test(older, newer, permutations=99, seed=0)
    assert observed == pytest.approx(plain_mmd(older.numpy(), newer.numpy()), abs=1e-9)
    assert len(null) == 99
    again = mmd_test(newer, older, permutations=99, seed=0)[0]
    assert again == pytest.approx(observed, abs=1e-9)


def test_a_draw_of_the_null_is_the_estimate_of_the_images_dealt_out_anew() -> None:
    both = torch.cat([unit(7, 1), unit(5, 2)])
    _, null = mmd_test(both[:7], both[7:], permutations=99, seed=3)
    generator = torch.Generator().manual_seed(3)
    for value in null[:5].tolist():
        order = torch.randperm(12, generator=generator)
        side = torch.zeros(12, dtype=torch.bool)
        side[order[:7]] = True
        assert value == pytest.approx(plain_mmd(both[side].numpy(), both[~side].numpy()), abs=1e-6)


def test_under_the_null_p_values_are_uniform() -> None:
    """Otherwise the share of false alarms is not what the parameter says."""
    found = []
    for seed in range(REPEATS):
        both = unit(90, 1000 + seed)
        observed, null = mmd_test(both[:50], both[50:], permutations=199, seed=seed)
        found.append((1 + int((null >= observed).sum())) / 200)
    # p-values lie on a grid of 1/200: spread within its cells they are to be told from a continuous draw no more
    spread = np.array(found) - np.random.default_rng(0).random(REPEATS) / 200
    assert kstest(spread, "uniform").pvalue > 0.05
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.03)


def test_under_the_null_p_values_are_uniform_also_where_long_clips_and_single_images_are_drawn_from() -> None:
    """Clips look unlike single images; one side has more of both than are drawn, the other has not."""
    counts, clip_length, found = {"older": 150, "newer": 40}, 25, []
    for seed in range(REPEATS):
        generator, sides = torch.Generator().manual_seed(seed), []
        for side, count in counts.items():
            is_clip = torch.rand(count, generator=generator) < 0.5
            groups = [f"{side}{number}" for number in range(count)]
            everyone = [
                (f"{seed}:{group}:{frame}", group if clip else None)
                for group, clip in zip(groups, is_clip.tolist(), strict=True)
                for frame in range(clip_length if clip else 1)
            ]
            drawn = draw(*zip(*everyone, strict=True), 40, 0)
            shift = is_clip[[groups.index(one.split(":")[1]) for one in drawn]].float()[:, None]
            sides.append(torch.nn.functional.normalize(torch.randn(40, 8, generator=generator) + shift, dim=-1))
        observed, null = mmd_test(sides[0], sides[1], permutations=99, seed=seed)
        found.append((1 + int((null >= observed).sum())) / 100)
    spread = np.array(found) - np.random.default_rng(0).random(REPEATS) / 100
    assert kstest(spread, "uniform").pvalue > 0.05
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.03)


def test_images_that_are_all_the_same_are_no_drift() -> None:
    same = unit(1, 0).expand(40, -1)
    report = measure_drift(same, same[:20], DriftParams())
    assert (report.p_value, report.is_drift, report.far) == (1.0, False, 0.0)


def test_a_report_is_a_function_of_its_arguments() -> None:
    older, newer, params = unit(60, 1), unit(40, 2, shift=0.5), DriftParams(permutations=199, min_images=16)
    assert measure_drift(older, newer, params) == measure_drift(older, newer, params)


def test_a_shift_is_found_and_said_in_numbers() -> None:
    report = measure_drift(unit(200, 1), unit(120, 2, shift=1.0), DriftParams())
    assert report.is_drift
    assert report.p_value == 1 / 1000
    assert report.mmd > max(report.null)
    assert report.far_interval.low <= report.far <= report.far_interval.high
    assert report.metrics()["drift"] == 1.0
    assert str(report) == "drift, p = 0.001"


def test_images_of_a_kind_that_was_not_there_are_far() -> None:
    older, kind = unit(300, 1), torch.nn.functional.normalize(torch.eye(8)[:1] + 0.01 * unit(50, 3), dim=-1)
    usual = measure_drift(older, unit(200, 2), DriftParams())
    assert usual.far < 0.05
    flat = torch.cat([older[:, :4], torch.zeros(300, 4)], dim=1)
    odd = torch.cat([torch.zeros(50, 4), kind[:, :4]], dim=1)
    assert measure_drift(torch.nn.functional.normalize(flat, dim=-1), odd, DriftParams()).far == 1.0


def test_the_cluster_that_has_grown_comes_first() -> None:
    poles = torch.nn.functional.normalize(torch.eye(4), dim=-1)
    noise = 0.01 * unit(100, 1, dim=4)
    older, newer = poles.repeat(25, 1) + noise, poles[[2] * 70 + [0] * 10 + [1] * 10 + [3] * 10] + noise
    growth = cluster_growth(older, newer, 4, seed=0)
    assert growth[0] == ClusterGrowth(0.25, 0.7)
    assert growth[0].factor == pytest.approx(2.8)
    assert sum(one.before for one in growth) == pytest.approx(1)
    assert describe_growth(growth) == ["cluster of 25.0 % of the older images: 70.0 % of the new ones"]


def test_of_each_group_one_image_is_drawn_and_new_images_change_few_of_those_drawn() -> None:
    ids = [f"{i:03d}" for i in range(100)]
    groups = [f"clip{i // 10}" if i < 50 else None for i in range(100)]
    drawn = draw(ids, groups, 1000, 0)
    assert len(drawn) == 55
    assert len({one[1] for one in drawn if int(one) < 50}) == 5
    fewer = draw(ids, groups, 20, 0)
    assert len(fewer) == 20
    assert set(fewer) < set(drawn)
    assert len(set(draw([*ids, "100", "101"], [*groups, None, None], 20, 0)) & set(fewer)) >= 18
    assert draw(ids, groups, 20, 1) != fewer


def test_F16_a_sample_that_would_not_fit_in_memory_is_refused() -> None:
    with pytest.raises(UserError, match="'images' is 100000"):
        validate(DriftParams, {"images": 100_000}, where="params.yaml")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"significance": 0.001, "permutations": 998}, "set permutations to 999 or more, or raise significance"),
        ({"images": 31}, "images 31 is below min_images 32: raise images, or lower min_images"),
    ],
)
def test_F16_a_comparison_that_could_never_find_drift_is_refused(values: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=f"params.yaml: .*{says}"):
        validate(DriftParams, values, where="params.yaml")
    validate(DriftParams, {"significance": 0.001, "permutations": 999}, where="params.yaml")
    validate(DriftParams, {"images": 32}, where="params.yaml")


@pytest.fixture(scope="module")
def scenes() -> dict[str, list[Image.Image]]:
    """Pictures of the generator: of the usual classes twice, and of three classes only."""
    plain = "copies=0&leaks=0&off_topic=0&broken=0&negatives=0&clips=0&size=32"
    made = {}
    for name, uri in {"usual": "images=240&seed=1", "few": "images=120&seed=2&classes=3"}.items():
        source = ScenesSource(parse_uri(f"scenes?{uri}&{plain}"), "train")
        made[name] = [decode_rgb(source.read(one.name)) for one in source.list()]
    return made


def warmer(image: Image.Image) -> Image.Image:
    """Red up, blue down."""
    red, green, blue = image.split()
    return Image.merge("RGB", (red.point(lambda value: value * 1.3), green, blue.point(lambda value: value * 0.7)))


def p_value(older: list[Image.Image], newer: list[Image.Image]) -> float:
    sides = [torch.from_numpy(describe(side)) for side in (older, newer)]
    return measure_drift(sides[0], sides[1], DriftParams()).p_value


def test_another_mix_of_classes_and_another_light_are_found_and_more_of_the_same_is_not(
    scenes: dict[str, list[Image.Image]],
) -> None:
    older, more = scenes["usual"][::2], scenes["usual"][1::2]
    assert p_value(older, more) > 0.05
    assert p_value(older, scenes["few"]) <= 0.01
    assert p_value(older, [warmer(image) for image in more]) <= 0.01
    assert p_value(older, [ImageEnhance.Color(image).enhance(0.2) for image in more]) <= 0.01
