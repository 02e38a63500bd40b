"""Scenes as a source of the pipeline."""

import hashlib
from collections.abc import Iterator
from functools import cached_property

import pyarrow as pa

from components.data.lock import Annotation, Role, SourceObject
from components.data.scenes import truth
from components.data.scenes.content import content, scene
from components.data.scenes.layout import EVAL, TRAIN
from components.data.scenes.plan import Entry, entries
from components.data.scenes.render import Scene
from components.data.scenes.spec import VERSION, ScenesSpec
from components.data.sources.protocol import CHANGED
from components.errors import UserError


class ScenesSource:
    """One part of a set of scenes; every file is made when it is read.

    Args:
        spec: the set.
        role: `train` or `eval`.
    """

    def __init__(self, spec: ScenesSpec, role: Role) -> None:
        self.spec = spec
        self.role = role
        self._part = TRAIN if role == "train" else EVAL

    @property
    def uri(self) -> str:
        """The URI that opens this set again."""
        return self.spec.uri

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        return {one.name: one for one in sorted(entries(self.spec, self._part), key=lambda one: one.name)}

    def list(self) -> Iterator[SourceObject]:
        """Yield all files in the order of their names; nothing is rendered."""
        for name, one in self._entries.items():
            yield SourceObject(role=self.role, name=name, size=None, digest=recipe_digest(self.spec, one))

    def read(self, name: str, digest: str | None = None) -> bytes:
        """Return the bytes of a file.

        Raises:
            UserError: no file of that name, or one of another digest.
        """
        one = self._entry(name)
        if digest is not None and digest != recipe_digest(self.spec, one):
            raise UserError(f"{self.uri}: '{name}' is no longer what was locked", remedy=CHANGED)
        return content(self.spec, one)

    def annotation(self, name: str) -> Annotation:
        """Return the class folder, the clip or instance, and the frame, as the owner of the pictures filed them.

        Off-topic pictures and broken files are filed under a class and an instance like any other.
        """
        one = self._entry(name)
        group = truth.clip_name(one) or truth.instance_name(one)
        return Annotation(label=one.category, group=group, frame=one.frame)

    def truth(self) -> pa.Table:
        """Return the truth of every file, see `components.data.scenes.truth`; nothing is encoded."""
        return truth.table(self.spec, list(self._entries.values()))

    def scene(self, name: str) -> Scene | None:
        """Return the picture of a rendered file with its masks, depth and boxes; None for other kinds."""
        return scene(self.spec, self._entry(name))

    def _entry(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise UserError(f"{self.uri} has no {self.role} file '{name}'", remedy=CHANGED) from None


def recipe_digest(spec: ScenesSpec, one: Entry) -> str:
    """Return what identifies the content of a file: a hash of version, parameters and index.

    It is no hash of the bytes, because JPEG encoders differ between versions of Pillow. The number of pictures does
    not enter, so that a set that grows keeps the digests it has.
    """
    values = {key: value for key, value in spec.model_dump().items() if key not in ("images", "eval")}
    original = one.original if one.kind == "leak" else None
    key = f"{VERSION} {sorted(values.items())} {one.part} {one.index} {original}"
    return f"scenes:{hashlib.sha256(key.encode()).hexdigest()}"
