import numpy as np

from components.data.scenes import draws


def test_stream_is_fixed_for_ever():
    values = draws.stream(3, "scene", 12345, 1).random(3)
    assert [f"{value:.15f}" for value in values] == ["0.692498880332845", "0.997271204607413", "0.252162779226543"]


def test_streams_of_other_seed_purpose_number_and_part_differ():
    firsts = {
        draws.stream(seed, purpose, number, part).random()
        for seed in (0, 1)
        for purpose in draws.PURPOSES
        for number in (0, 1, 2**39)
        for part in (0, 1, 10_000)
    }
    assert len(firsts) == 2 * len(draws.PURPOSES) * 3 * 3


def test_colour_has_the_asked_luminance_inside_the_cube():
    for number in range(50):
        colour = draws.colour(draws.stream(0, "scene", number), 0.5, 0.2)
        assert abs(float(colour @ [0.299, 0.587, 0.114]) - 0.5) < 1e-9


def test_permutation_holds_every_number_once():
    assert sorted(draws.permutation(draws.stream(0, "plan", 1), 100)) == list(np.arange(100))
