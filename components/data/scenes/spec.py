"""What a set of scenes consists of, and its URI."""

from urllib.parse import parse_qsl

from pydantic import Field, model_validator

from components.errors import UserError
from components.parameters import Params, validate

VERSION = 1
"""Version of the generated pictures; every change of a pixel or of the truth needs a new one."""

CATEGORIES = ("fish", "house", "starfish", "leaf", "moon", "gear", "flower", "bow", "crate", "target")
"""Names of the classes, in the order in which `classes` takes them."""


class ScenesSpec(Params):
    """Size and make-up of a set of scenes; the fields are the keys of its URI."""

    images: int = Field(3000, ge=1, le=10_000_000, description="pictures in the train part, plants included")
    eval: int = Field(600, ge=0, le=10_000_000, description="pictures in the eval part, which holds no plants")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of everything drawn")
    size: int = Field(64, ge=16, le=1024, description="side of a picture, pixels")
    classes: int = Field(10, ge=2, le=len(CATEGORIES), description="number of classes")
    instances: int = Field(12, ge=1, le=1000, description="instances of a class that the train part shows")
    copies: float = Field(0.08, ge=0, le=1, description="share of near-duplicates of other train pictures")
    leaks: float = Field(0.02, ge=0, le=1, description="share of transformed copies of eval pictures")
    off_topic: float = Field(0.04, ge=0, le=1, description="share of pictures that show no object")
    broken: float = Field(0.01, ge=0, le=1, description="share of files that no decoder can read")
    negatives: float = Field(0.06, ge=0, le=1, description="share of hard negatives that are no clip frames")
    clips: float = Field(0.08, ge=0, le=1, description="share of frames of clips of an action")
    version: int = Field(VERSION, ge=VERSION, le=VERSION, description="version of the generator")

    @model_validator(mode="after")
    def _check_shares(self) -> "ScenesSpec":
        total = self.copies + self.leaks + self.off_topic + self.broken + self.negatives + self.clips
        if total > 1.0 + 1e-9:
            message = f"copies, leaks, off_topic, broken, negatives and clips add up to {total:g}; lower them to 1"
            raise ValueError(message)
        if self.leaks and not self.eval:
            raise ValueError("leaks are copies of eval pictures; set leaks=0 or eval above 0")
        return self

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the classes in use."""
        return CATEGORIES[: self.classes]

    @property
    def uri(self) -> str:
        """The shortest URI of this set: `scenes`, or `scenes?images=300` with what differs from the default."""
        values = self.model_dump(exclude_defaults=True)
        return "scenes" + "".join(f"{'&' if i else '?'}{k}={v}" for i, (k, v) in enumerate(values.items()))


def parse_uri(uri: str) -> ScenesSpec:
    """Read `scenes` or `scenes?images=3000&seed=1`.

    Raises:
        UserError: another scheme, a key that is unknown, repeated or without a value, or a value out of range.
    """
    scheme, _, query = uri.partition("?")
    if scheme != "scenes":
        raise UserError(f"'{uri}' is no set of scenes", remedy="write 'scenes' or 'scenes?images=3000&seed=0'")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise UserError(f"'{uri}' has a part that is not KEY=VALUE", remedy="separate KEY=VALUE by '&'") from None
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"'{uri}' gives '{key}' {keys.count(key)} times", remedy="give it once")
    return validate(ScenesSpec, dict(pairs), where=uri)
