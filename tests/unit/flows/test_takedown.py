"""An image is found by whatever people call it, forgotten once, and remembered only when asked to be."""

import hashlib
import json
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pytest
from artifacts import evaluation, make_artifact

from components.data.forgotten import read_forgotten
from components.data.manifest import IMAGES, SOURCES, Manifest
from components.data.shards import LOCATIONS
from components.data.tables import write_table
from components.errors import UserError
from components.registry.images import ImageSources
from components.registry.promotion import promote
from components.registry.registration import register
from components.settings import Settings
from components.stages.params import load_params
from flows.cli import app
from flows.explanation import explain_lines, image_lines, who_saw_lines
from flows.naming import ImageNames
from flows.promotion import promote_version, roll_back
from flows.takedown import forget, forgotten_lines, standing_lines


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


CAT, COPY, THUMBNAIL, DOG = sha("cat"), sha("copy"), sha("thumbnail"), sha("dog")
LOG = Path("data/forgotten.log")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def there(settings: Settings) -> Settings:
    """A project with four images: a cat, a copy of it, a thumbnail of that, and a dog, of which all but the copy were
    trained on."""
    root = settings.root
    for folder in (".dvc", "data/manifest", "data/dedup", "data/curated", "photos"):
        (root / folder).mkdir(parents=True)
    (root / "data" / "forgotten.lock").touch()
    named = {CAT: "cat/1.jpg", COPY: "cat/2.jpg", THUMBNAIL: "small/1.jpg", DOG: "dog/1.jpg"}
    places = [{"id": one, "uri": f"photos/{name}", "name": name, "split": "train"} for one, name in named.items()]
    places.append({"id": CAT, "uri": "s3://b/same.jpg", "name": "same.jpg", "split": "eval"})
    Manifest(
        images=pa.Table.from_pylist([{"id": one, "status": "ok"} for one in named], schema=IMAGES),
        sources=pa.Table.from_pylist(places, schema=SOURCES),
        locations=LOCATIONS.empty_table(),
    ).save(root / "data" / "manifest")
    pairs = {"first": [CAT, COPY], "second": [COPY, THUMBNAIL]}
    write_table(pa.table(pairs), root / "data" / "dedup" / "pairs.parquet")
    trained = root / "data" / "curated" / "ids.parquet"
    write_table(pa.table({"id": sorted({CAT, THUMBNAIL, DOG})}), trained)
    artifact = make_artifact(
        root / "release",
        1,
        role="teacher",
        evaluation=evaluation(0.4),
        curated={"sha256": hashlib.sha256(trained.read_bytes()).hexdigest(), "count": 3},
        parameters={"pretrain": {"epochs": 3}},
        parameters_sha256="p" * 64,
        embedder={"uri": "builtin", "version": "builtin:v1"},
    )
    sources = ImageSources(root, Path("data/manifest"), Path("data/dedup"), Path("data/curated"))
    register(artifact, settings, images=sources, runs={"pretrain": "r1"})
    promote("1", settings, expected=None, reason="test")
    return settings


def listed(settings: Settings) -> frozenset[str]:
    return read_forgotten(settings.root / "data" / "forgotten.lock")


def forget_some(settings: Settings, *images: str, copies: bool = False, undo: bool = False) -> list[str]:
    return forget(images, settings, reason="asked", copies=copies, undo=undo)


def test_an_image_is_found_by_file_name_uri_id_and_prefix(there: Settings) -> None:
    names, file = ImageNames(there), there.root / "elsewhere.jpg"
    file.write_bytes(b"cat")
    for called in (str(file), "cat/1.jpg", "photos/cat/1.jpg", "s3://b/same.jpg", CAT, CAT.upper(), CAT[:6]):
        assert names.identify(called) == {CAT}, called
    assert names.identify("f" * 64) == {"f" * 64}, "an image may be forbidden before it comes"
    assert names.name(CAT) == "cat/1.jpg"
    assert names.name("f" * 64) == ""


def test_what_is_unknown_or_ambiguous_is_refused_and_nothing_is_changed(there: Settings) -> None:
    alike = pa.Table.from_pylist(
        [{"id": "abcdef" + "0" * 58, "name": "twice.jpg"}, {"id": "abcdef" + "1" * 58, "name": "twice.jpg"}],
        schema=SOURCES,
    )
    write_table(alike, there.root / "data" / "manifest" / "sources.parquet")
    for called in ("twice.jpg", "abcdef"):
        with pytest.raises(UserError, match="2 images are called so"):
            forget_some(there, "f" * 64, called)
    for called in ("abcde", "0123456", "nothing.jpg"):
        with pytest.raises(UserError, match="no such image: give a file"):
            forget_some(there, "f" * 64, called)
    assert listed(there) == frozenset()
    assert not (there.root / LOG).exists()


def test_a_file_that_the_snapshot_does_not_hold_is_refused_and_its_hash_is_not(there: Settings) -> None:
    """Else a copy that was saved anew, or an archive, would be "forgotten", and nothing left out."""
    file = there.root / "saved-anew.jpg"
    file.write_bytes(b"another cat")
    with pytest.raises(
        UserError, match=f"not in the snapshot: give its name there, or its SHA-256.*{sha('another cat')}"
    ):
        forget_some(there, str(file))
    assert listed(there) == frozenset()
    lines = forget_some(there, sha("another cat"))
    assert lines[0] == f"forgotten  {sha('another cat')} (not in the snapshot: left out if it ever comes)"
    assert forget_some(there, str(file))[0].startswith("already")
    assert forget_some(there, str(file), undo=True)[0] == f"usable     {sha('another cat')} (not in the snapshot)"


@pytest.mark.parametrize("column", ["name", "uri"])
def test_a_file_that_holds_images_is_refused_and_names_them(there: Settings, column: str) -> None:
    inside = "run/a b.mp4/000003.500.jpg" if column == "name" else "photos/a b.mp4#000003.500.jpg"
    other = {"name": "cat.jpg", "uri": "photos/cat.jpg"}
    rows = [{"id": CAT, **other, column: inside}, {"id": DOG, **other, column: inside.replace("a b", "ca b")}]
    write_table(pa.Table.from_pylist(rows, schema=SOURCES), there.root / "data" / "manifest" / "sources.parquet")
    file = there.root / "a b.mp4"
    file.write_bytes(b"film")
    with pytest.raises(UserError, match=f"no image, but a file with 1 of them: give .* by name, such as {inside}"):
        forget_some(there, str(file))
    assert listed(there) == frozenset()


@pytest.mark.parametrize("called", ["~nobody-of-that-name/x.jpg", "x" * 5000])
def test_what_is_no_path_is_looked_up_by_name(there: Settings, called: str) -> None:
    with pytest.raises(UserError, match="no such image"):
        ImageNames(there).identify(called)
    named = pa.Table.from_pylist([{"id": CAT, "name": called, "uri": "u"}], schema=SOURCES)
    write_table(named, there.root / "data" / "manifest" / "sources.parquet")
    assert ImageNames(there).identify(called) == {CAT}


def test_a_file_that_may_not_be_read_is_looked_up_by_name(there: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(there.root)
    (there.root / "cat").mkdir()
    (there.root / "cat" / "1.jpg").write_bytes(b"secret")

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, who may read everything
    assert ImageNames(there).identify("cat/1.jpg") == {CAT}


def test_a_list_is_shown_only_if_nothing_else_is_asked_for() -> None:
    for more in (["cat/1.jpg"], ["--undo"], ["--copies"]):
        with (
            patch("flows.cli._settings", side_effect=AssertionError),
            pytest.raises(UserError, match="--list takes nothing else"),
        ):
            app(["forget", "--list", *more], standalone_mode=False)


def test_a_file_that_changed_since_it_was_ingested_stands_for_both_images(
    there: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(there.root)
    (there.root / "photos" / "dog").mkdir()
    (there.root / "photos" / "dog" / "1.jpg").write_bytes(b"another dog")
    assert ImageNames(there).identify("photos/dog/1.jpg") == {DOG, sha("another dog")}


def test_without_a_manifest_a_name_cannot_be_looked_up_and_an_id_need_not(settings: Settings) -> None:
    assert ImageNames(settings).identify(CAT) == {CAT}
    with pytest.raises(UserError, match="there is no manifest to look in"):
        ImageNames(settings).identify("cat/1.jpg")


def test_forgetting_lists_the_image_its_copies_and_who_has_seen_it(there: Settings) -> None:
    lines = forget_some(there, "cat/1.jpg")
    assert listed(there) == {CAT}
    assert lines[0] == f"forgotten  {CAT} cat/1.jpg"
    assert {line.split()[1] for line in lines if line.startswith("near-copy")} == {COPY, THUMBNAIL}
    assert "seen by    version 1 (candidate, champion): trained on 1 of 1" not in lines
    assert "seen by    version 1 (candidate, champion): trained on it" in lines
    again = forget_some(there, CAT[:8])
    assert again[0] == f"already    {CAT} cat/1.jpg"
    assert len((there.root / LOG).read_text().splitlines()) == 1


def test_copies_of_copies_are_taken_too_if_asked_for(there: Settings) -> None:
    lines = forget_some(there, "cat/1.jpg", copies=True)
    assert listed(there) == {CAT, COPY, THUMBNAIL}
    assert not [line for line in lines if line.startswith("near-copy")]
    assert "seen by    version 1 (candidate, champion): trained on 2 of 3" in lines


def test_near_copies_are_told_and_taken_also_after_the_run_that_left_the_image_out(there: Settings) -> None:
    first = forget_some(there, "cat/1.jpg")
    gone = pa.table({"first": pa.array([COPY]), "second": pa.array([THUMBNAIL])})
    write_table(gone, there.root / "data" / "dedup" / "pairs.parquet")  # deduplication compares no forgotten image
    again = forget_some(there, "cat/1.jpg")
    assert again[1:] == first[1:]
    assert f"near-copy  {COPY} cat/2.jpg: not forgotten" in again
    assert again[-2].startswith("seen by")
    assert "next       the same with --copies, or the near-copies will be trained on" in again
    lines = forget_some(there, "cat/1.jpg", copies=True)
    assert listed(there) == {CAT, COPY, THUMBNAIL}
    assert not [line for line in lines if "near-cop" in line]
    write_table(gone.slice(0, 0), there.root / "data" / "dedup" / "pairs.parquet")
    forget_some(there, "cat/1.jpg", copies=True, undo=True)
    assert listed(there) == frozenset()


def test_undoing_gives_back_the_very_bytes_and_the_log_keeps_both(there: Settings) -> None:
    lock = there.root / "data" / "forgotten.lock"
    forget_some(there, "dog/1.jpg")
    before = lock.read_bytes()
    forget_some(there, "cat/1.jpg")
    assert forget_some(there, CAT[:10], undo=True)[0] == f"usable     {CAT} cat/1.jpg"
    assert lock.read_bytes() == before
    history = [json.loads(line) for line in (there.root / LOG).read_text().splitlines()]
    assert [(entry["id"], entry["action"]) for entry in history] == [(DOG, "forget"), (CAT, "forget"), (CAT, "undo")]
    assert {entry["reason"] for entry in history} == {"asked"}
    with pytest.raises(UserError, match="not forgotten: `selfsight forget --list`"):
        forget_some(there, CAT, undo=True)


def test_the_list_says_when_and_why_and_survives_a_log_cut_short(there: Settings) -> None:
    assert forgotten_lines(there) == ["no image is forgotten"]
    forget_some(there, "dog/1.jpg")
    with (there.root / LOG).open("a") as log:
        log.write('<<<<<<< HEAD\n{"id": "')
    (line,) = forgotten_lines(there)
    date = json.loads((there.root / LOG).read_text().splitlines()[0])["date"]
    assert line == f"{date} {DOG} dog/1.jpg asked"


def test_F15_a_signed_address_is_not_kept_in_the_log(there: Settings) -> None:
    write_table(
        pa.Table.from_pylist([{"id": DOG, "name": "https://h/d.jpg?sig=geheim"}], schema=SOURCES),
        there.root / "data" / "manifest" / "sources.parquet",
    )
    forget_some(there, "https://h/d.jpg?sig=geheim")
    assert listed(there) == {DOG}
    assert "geheim" not in (there.root / LOG).read_text()


def test_a_run_says_what_is_forgotten_only_if_something_is(there: Settings) -> None:
    assert standing_lines(there) == []
    forget_some(there, "dog/1.jpg", "cat/2.jpg")
    assert standing_lines(there) == [
        "forgotten     2 images, left out",
        "  seen by    version 1 (candidate, champion): trained on 1 of 2",
    ]


def test_promotion_and_rollback_warn_where_the_new_champion_has_seen_forgotten_images(there: Settings) -> None:
    params = load_params(ROOT / "params.yaml")
    clean = make_artifact(there.root / "clean", 2, role="teacher", evaluation=evaluation(0.5))
    register(clean, there)
    assert "warning" not in promote_version(params, there, "2", force=True)
    forget_some(there, "dog/1.jpg", "cat/2.jpg")
    _, warning = roll_back(there).splitlines()
    assert warning == "warning: forgotten images: version 1 (champion): trained on 1 of 2"
    _, warning = promote_version(params, there, "2", force=True).splitlines()
    assert warning.endswith(": version 2: unknown, nothing tells any more what it was trained on")
    (there.root / "data" / "forgotten.lock").unlink()
    done, warning = roll_back(there).splitlines()
    assert "2 → 1" in done
    assert "is unknown: " in warning


def test_one_walks_from_an_image_to_versions_and_from_a_version_to_images(there: Settings) -> None:
    assert who_saw_lines("dog/1.jpg", there) == [
        f"{DOG} dog/1.jpg",
        "version 1 (candidate, champion): trained on it",
    ]
    assert who_saw_lines("cat/2.jpg", there)[1:] == ["no registered version"]
    assert image_lines("models:/backbone@champion", there) == sorted(
        [f"{CAT} cat/1.jpg", f"{THUMBNAIL} small/1.jpg", f"{DOG} dog/1.jpg"]
    )
    forget_some(there, "dog/1.jpg")
    said = "\n".join(explain_lines("models:/backbone/1", there))
    for part in (
        "version       backbone 1 (candidate, champion)",
        "images        3 trained on",
        "forgotten     1 of them by now",
        "curated with  builtin builtin:v1",
        "began with    weights from the seed",
        "runs          pretrain r1",
        "  pretrain:\n    epochs: 3",
    ):
        assert part in said, said


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("backbone", "names no registered version"),
        ("models:/backbone@nobody", "no version carries it"),
        ("models:/backbone/7", "version 7: not registered"),
        ("models:/other@champion", "no version carries it"),
    ],
)
def test_what_is_not_registered_is_named(there: Settings, uri: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        explain_lines(uri, there)
