"""One vector an image, from the built-in descriptor or a registered backbone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field

from components.data.lock import read_resolved, write_resolved
from components.errors import UserError
from components.features.descriptor import describe_thumbnails, descriptor_name
from components.features.thumbnails import Reader, load_thumbnails
from components.parameters import Params

CHAMPION = "champion"
BUILTIN = "builtin"
REGISTERED = "models:/"


class EmbedParams(Params):
    """Who describes the images for curation."""

    embedder: str = Field(
        CHAMPION, description="champion (the built-in descriptor while there is none), builtin, or a backbone's URI"
    )
    batch_size: int = Field(256, ge=1, description="images of one forward pass of a backbone")


@dataclass(frozen=True)
class EmbedderLock:
    """The embedder that a snapshot resolved to."""

    uri: str
    """`builtin`, or where the backbone is."""
    version: str
    """Version of the descriptor, or of the registered model."""
    digest: str
    """Artifact hash of a backbone; empty for the built-in descriptor."""


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


def write_embedder_lock(lock: EmbedderLock, path: Path) -> None:
    """Writes the lock, replacing the file whole."""
    write_resolved(lock, path)


def read_embedder_lock(path: Path) -> EmbedderLock:
    """Reads the lock.

    Raises:
        UserError: if it is absent or damaged.
    """
    return read_resolved(EmbedderLock, path)


def embed(
    lock: EmbedderLock, reader: Reader, ids: Sequence[str], params: EmbedParams, *, device: str
) -> Float[np.ndarray, "images dim"]:
    """Describe images.

    Args:
        lock: the resolved embedder.
        reader: gives the bytes of an image.
        ids: which images, in which order.
        params: batch size.
        device: where a backbone runs.

    Returns:
        Float32, rows of unit length, in the order of the ids.

    Raises:
        UserError: if the embedder is not the one that was locked, or gives no numbers.
    """
    if not is_asked_for(lock, params.embedder):
        raise UserError(
            f"embed.embedder is {params.embedder}, the snapshot names {lock.uri} {lock.version}",
            remedy="take a new snapshot with `selfsight snapshot`",
        )
    if lock.uri == BUILTIN:
        return describe_thumbnails(torch.from_numpy(load_thumbnails(reader, ids))).numpy()
    vectors = _features(lock, reader, ids, params, device)
    if not np.isfinite(vectors).all():
        raise UserError(
            f"the embedder {lock.uri} gives features that are no numbers", remedy="set embed.embedder to builtin"
        )
    return vectors


def _features(
    lock: EmbedderLock, reader: Reader, ids: Sequence[str], params: EmbedParams, device: str
) -> Float[np.ndarray, "images dim"]:
    from components.features.extraction import extract
    from components.models.backbone import load_backbone

    backbone = load_backbone(lock.uri, expected_hash=lock.digest or None)
    features = extract(
        backbone.model,
        reader,
        ids,
        backbone.preprocess,
        batch_size=params.batch_size,
        device=device,
        description="embed",
    )
    vectors: Float[np.ndarray, "images dim"] = torch.nn.functional.normalize(features.last, dim=-1).numpy()
    return vectors
