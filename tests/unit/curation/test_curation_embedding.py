import json
from pathlib import Path

import numpy as np
import pytest

from components.curation.embedder import BUILTIN, EmbedderLock, read_embedder_lock, write_embedder_lock
from components.curation.embedding import EmbedParams, Resources, embed, resolve_embedder
from components.errors import UserError
from components.features.descriptor import describe, descriptor_name
from tests.textures import Files, jpeg, texture

LOCK = EmbedderLock(BUILTIN, descriptor_name(), "")
CHAMPION = EmbedderLock("models:/backbone/3", "3", "ab" * 32)


def digest_of(uri: str) -> str:
    return f"digest of {uri}"


def test_the_lock_reads_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "data" / "embedder.lock"
    write_embedder_lock(CHAMPION, path)
    assert read_embedder_lock(path) == CHAMPION
    assert [one.name for one in path.parent.iterdir()] == ["embedder.lock"]


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"uri": "builtin"}', '{"uri": "a", "version": 1, "more": 2}'])
def test_a_lock_that_is_absent_or_damaged_names_the_remedy(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "embedder.lock"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match="selfsight snapshot"):
        read_embedder_lock(path)


def test_the_champion_is_named_by_version_and_hash() -> None:
    assert resolve_embedder(EmbedParams(embedder="champion"), lambda: CHAMPION, digest_of) == CHAMPION


def test_without_a_champion_the_builtin_descriptor_serves() -> None:
    assert resolve_embedder(EmbedParams(embedder="champion"), lambda: None, digest_of) == LOCK
    assert resolve_embedder(EmbedParams(embedder="builtin"), lambda: CHAMPION, digest_of) == LOCK


def test_a_backbone_by_uri_is_locked_with_its_hash() -> None:
    found = resolve_embedder(EmbedParams(embedder="models/teacher"), lambda: None, digest_of)
    assert found == EmbedderLock("models/teacher", "", "digest of models/teacher")


def test_embeddings_are_those_of_the_descriptor_in_the_order_of_the_ids() -> None:
    reader = Files({name: jpeg(texture(number)) for number, name in enumerate("dacb")})
    vectors = embed(LOCK, reader, ["a", "b", "c", "d"], EmbedParams(), resources=Resources())
    assert (vectors @ describe([texture(number) for number in (1, 3, 2, 0)]).T).argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_another_version_of_the_descriptor_is_refused() -> None:
    with pytest.raises(UserError, match="builtin:v0"):
        embed(EmbedderLock(BUILTIN, "builtin:v0", ""), Files({}), [], EmbedParams(), resources=Resources())


def test_a_backbone_embeds_if_its_hash_is_the_locked_one(tmp_path: Path) -> None:
    from components.models.backbone import load_backbone
    from tests.artifacts import make_artifact

    folder = make_artifact(tmp_path)
    reader = Files({name: jpeg(texture(number)) for number, name in enumerate("ab")})
    lock = EmbedderLock(str(folder), "", load_backbone(folder).digest)
    vectors = embed(lock, reader, ["a", "b"], EmbedParams(embedder=str(folder)), resources=Resources())
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(UserError, match="hash"):
        embed(
            EmbedderLock(str(folder), "", "0" * 64),
            reader,
            ["a"],
            EmbedParams(embedder=str(folder)),
            resources=Resources(),
        )


def test_the_lock_is_plain_json(tmp_path: Path) -> None:
    write_embedder_lock(LOCK, tmp_path / "lock")
    assert json.loads((tmp_path / "lock").read_text()) == {"uri": "builtin", "version": "builtin:v1", "digest": ""}
