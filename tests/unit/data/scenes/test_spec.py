import pytest

from components.data.scenes.spec import ScenesSpec, parse_uri
from components.errors import UserError


def test_plain_uri_gives_the_defaults():
    assert parse_uri("scenes") == ScenesSpec()


def test_uri_survives_a_round_trip():
    spec = parse_uri("scenes?images=300&eval=60&seed=7&size=32&classes=8&copies=0.25&leaks=0")
    assert (spec.images, spec.eval, spec.seed, spec.size, spec.classes) == (300, 60, 7, 32, 8)
    assert (spec.copies, spec.leaks) == (0.25, 0.0)
    assert parse_uri(spec.uri) == spec


def test_uri_names_only_what_differs_from_the_default():
    assert ScenesSpec(seed=5, size=64).uri == "scenes?seed=5"


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("scenes?image=300", ("image", "images")),
        ("scenes?images=0", ("images", "0", "greater")),
        ("scenes?images=many", ("images", "many", "integer")),
        ("scenes?classes=11", ("classes", "11", "10")),
        ("scenes?copies=1.5", ("copies", "1.5", "less")),
        ("scenes?seed=1&seed=2", ("seed", "2 times")),
        ("scenes?seed", ("KEY=VALUE",)),
        ("scenes?seed=", ("seed", "integer")),
        ("scenes?version=2", ("version", "2")),
        ("scenes?eval=0", ("leaks", "eval")),
        ("scenes?copies=0.6&off_topic=0.6", ("copies", "off_topic", "1.37")),
        ("scenery", ("scenery", "scenes?")),
    ],
)
def test_bad_uri_is_refused_naming_key_value_and_remedy(uri, named):
    with pytest.raises(UserError) as caught:
        parse_uri(uri)
    for word in named:
        assert word in str(caught.value)
