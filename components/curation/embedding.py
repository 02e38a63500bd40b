"""One vector an image, from the built-in descriptor or a registered backbone."""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from pydantic import Field

from components.curation.embedder import BUILTIN, EmbedderLock
from components.curation.parts import Part, PartStore, Vectors, describe_here, plan_parts
from components.data.reading import Reader
from components.errors import UserError
from components.features.descriptor import describe_thumbnails, descriptor_name
from components.features.thumbnails import load_thumbnails
from components.parameters import Params

if TYPE_CHECKING:
    from components.models.backbone import Backbone

CHAMPION = "champion"
REGISTERED = "models:/"
PARTS_ON_A_GPU = 2
"""Parts that are worked on at a time: the images of one are decoded while the GPU is at the other."""


class EmbedParams(Params):
    """Who describes the images for curation."""

    embedder: str = Field(
        CHAMPION, description="champion (the built-in descriptor while there is none), builtin, or a backbone's URI"
    )
    batch_size: int = Field(256, ge=1, description="images of one forward pass of a backbone")
    engine: Literal["local", "ray"] = Field(
        "local",
        description="who does the work: this process, or Ray Data (extra `ray`; SELFSIGHT_RAY_ADDRESS names a cluster, "
        "without it Ray is started for the stage); the vectors are the same",
    )


@dataclass(frozen=True)
class Resources:
    """What an embedding may use."""

    device: str = "cpu"
    """Where a backbone runs: `cpu` or `cuda`."""
    threads: int = 1
    """Parts that are worked on at a time on a CPU."""
    ray_address: str | None = None
    """Of a Ray cluster."""
    cache: Path | None = None
    """Folder for the vectors of finished parts; None keeps none."""


def resolve_embedder(
    params: EmbedParams, champion: Callable[[], EmbedderLock | None], digest_of: Callable[[str], str]
) -> EmbedderLock:
    """Names exactly what `embed` will use.

    Args:
        params: who is asked for.
        champion: looks the champion up; None when the registry has none.
        digest_of: artifact hash of a backbone by URI.
    """
    builtin = EmbedderLock(BUILTIN, descriptor_name(), "")
    if params.embedder == BUILTIN:
        return builtin
    if params.embedder == CHAMPION:
        return champion() or builtin
    return EmbedderLock(params.embedder, "", digest_of(params.embedder))


def is_asked_for(lock: EmbedderLock, wanted: str) -> bool:
    """Whether a lock is what resolving `embed.embedder` may give; `champion` may be any registered version."""
    if lock.uri == BUILTIN:
        return wanted in (BUILTIN, CHAMPION) and lock.version == descriptor_name()
    return wanted == lock.uri or (wanted == CHAMPION and lock.uri.startswith(REGISTERED))


class Describe:
    """Describes images by id; may be pickled, and loads its backbone where it is first called.

    Args:
        lock: the resolved embedder.
        reader: gives the bytes of an image.
        batch_size: images of one forward pass.
        device: where a backbone runs.
    """

    def __init__(self, lock: EmbedderLock, reader: Reader, batch_size: int, device: str) -> None:
        self.lock = lock
        self.reader = reader
        self.batch_size = batch_size
        self.device = device

    def __call__(self, ids: Sequence[str]) -> Vectors:
        """Float32, rows of unit length, in the order of the ids.

        Raises:
            UserError: if the embedder gives no numbers.
        """
        if self.lock.uri == BUILTIN:
            return describe_thumbnails(torch.from_numpy(load_thumbnails(self.reader, ids, description=None))).numpy()
        vectors = self._features(ids)
        if not np.isfinite(vectors).all():
            raise UserError(
                f"the embedder {self.lock.uri} gives features that are no numbers",
                remedy="set embed.embedder to builtin",
            )
        return vectors

    def of(self, reader: Reader) -> "Describe":
        """The same for images from elsewhere."""
        return Describe(self.lock, reader, self.batch_size, self.device)

    def load(self) -> None:
        """Loads the backbone now, where it runs, before several threads want it.

        Raises:
            UserError: if it is not the one that was locked.
        """
        if self.lock.uri != BUILTIN:
            self._backbone.model.to(self.device)

    def _features(self, ids: Sequence[str]) -> Vectors:
        from components.features.extraction import extract

        features = extract(
            self._backbone.model,
            self.reader,
            ids,
            self._backbone.preprocess,
            batch_size=self.batch_size,
            device=self.device,
            description=None,
        )
        vectors: Vectors = torch.nn.functional.normalize(features.last, dim=-1).numpy()
        return vectors

    @cached_property
    def _backbone(self) -> "Backbone":
        from components.models.backbone import load_backbone

        return load_backbone(self.lock.uri, expected_hash=self.lock.digest or None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_backbone"}

    @property
    def name(self) -> str:
        """Names everything that a vector depends on beside the image and the code."""
        return json.dumps([asdict(self.lock), self.batch_size, self.device])


def embed(
    lock: EmbedderLock,
    reader: Reader,
    ids: Sequence[str],
    params: EmbedParams,
    *,
    resources: Resources,
    locations: pa.Table | None = None,
) -> Float[np.ndarray, "images dim"]:
    """Describe images, part by part.

    Args:
        lock: the resolved embedder.
        reader: gives the bytes of an image.
        ids: which images, in which order.
        params: batch size and engine.
        resources: what may be used.
        locations: where the images lie, so that they are read in that order; see `parts`.

    Returns:
        Float32, rows of unit length, in the order of the ids; the same bits whatever the engine and the threads.

    Raises:
        UserError: if the embedder is not the one that was locked, or gives no numbers, or Ray is asked for and is away.
    """
    if not is_asked_for(lock, params.embedder):
        raise UserError(
            f"embed.embedder is {params.embedder}, the snapshot names {lock.uri} {lock.version}",
            remedy="take a new snapshot with `selfsight snapshot`",
        )
    describe = Describe(lock, reader, params.batch_size, resources.device)
    if not ids:
        return describe(ids)
    parts = plan_parts(ids, locations, describe.name, params.batch_size)
    store = None if resources.cache is None else PartStore(resources.cache)
    with nullcontext() if store is None else store.in_use():
        found = _described(describe, parts, store, params, resources)
    if store is not None:
        store.keep_only(parts)
    whole = np.empty((len(ids), found[0][1].shape[1]), np.float32)
    for part, vectors in found:
        whole[part.rows] = vectors
    return whole


def _described(
    describe: Describe, parts: Sequence[Part], store: PartStore | None, params: EmbedParams, resources: Resources
) -> list[tuple[Part, Vectors]]:
    """Vectors of every part, in any order: those that are kept, and the others made now."""
    found: list[tuple[Part, Vectors]] = []
    missing: list[Part] = []
    for part in parts:
        vectors = None if store is None else store.load(part)
        if vectors is None:
            missing.append(part)
        else:
            found.append((part, vectors))

    def done(part: Part, vectors: Vectors) -> None:
        if store is not None:
            store.save(part, vectors)
        found.append((part, vectors))

    _run(describe, missing, done, params, resources)
    return found


def _run(
    describe: Describe,
    parts: Sequence[Part],
    done: Callable[[Part, Vectors], None],
    params: EmbedParams,
    resources: Resources,
) -> None:
    gpu = resources.device != "cpu"
    if params.engine == "ray":
        from components.curation.on_ray import describe_on_ray

        describe_on_ray(
            describe, parts, done, address=resources.ray_address, workers=1 if gpu else resources.threads, gpu=gpu
        )
    else:
        if parts:
            describe.load()
        describe_here(describe, parts, done, threads=PARTS_ON_A_GPU if gpu else resources.threads)
