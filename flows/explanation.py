"""`selfsight explain` and `selfsight who-saw`: from weights to images, and back."""

from collections.abc import Mapping
from io import StringIO
from typing import Any

from components.data.forgotten import read_forgotten
from components.errors import UserError
from components.redaction import redact
from components.registry.images import ImageRecords, among
from components.registry.registration import read_lineage
from components.registry.sightings import ancestors, who_saw
from components.registry.versions import RegisteredVersion, aliases, all_versions, by_uri
from components.settings import Settings
from components.stages import paths
from flows.naming import ImageNames
from flows.takedown import sighting_lines


def who_saw_lines(image: str, settings: Settings) -> list[str]:
    """The image, and each registered version that has seen it, in lines.

    Raises:
        UserError: if the image is unknown or ambiguous, or the registry does not answer.
    """
    forgotten = read_forgotten(settings.root / paths.FORGOTTEN_LOCK)
    names = ImageNames(settings, forgotten)
    ids = sorted(names.identify(image))
    notes = {one: " (forgotten)" if one in forgotten else "" for one in ids}
    images = [f"{one} {names.name(one)}".rstrip() + notes[one] for one in ids]
    return images + sighting_lines(who_saw(ids, settings), len(ids))


def explain_lines(uri: str, settings: Settings) -> list[str]:
    """What a registered version was made from: parameters, commit, data and counts, in lines.

    Args:
        uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        settings: where MLflow is.

    Raises:
        UserError: if there is no such version, or the registry does not answer.
    """
    version = by_uri(uri, settings)
    settings = settings.model_copy(update={"model_name": version.name})
    lineage = read_lineage(version, settings)
    carried = ", ".join(aliases(settings).get(version.version, []))
    rows = {
        "version": f"{version.name} {version}" + (f" ({carried})" if carried else ""),
        "artifact": version.digest,
        "role": lineage.get("role", ""),
        **_code(version),
        "manifest": lineage.get("dependencies", {}).get("data/manifest", ""),
        **_images(version, lineage, settings),
        "curated with": _embedder(lineage.get("embedder", {})),
        "began with": _beginning(version, settings),
        "scores": _scores(lineage),
        "runs": ", ".join(f"{name[4:]} {run}" for name, run in sorted(version.tags.items()) if name.startswith("run.")),
    }
    lines = [f"{name:<13} {value}" for name, value in rows.items() if value]
    return [*lines, f"{'parameters':<13} {lineage.get('parameters_sha256', '')}", *_indented(lineage.get("parameters"))]


def image_lines(uri: str, settings: Settings) -> list[str]:
    """Each image that a version was trained on: its id and, where the present manifest has it, its name.

    Raises:
        UserError: if there is no such version, or nothing tells any more what it was trained on.
    """
    version = by_uri(uri, settings)
    packed = ImageRecords(settings).trained(version)
    if packed is None:
        remedy = "check out the commit of its run, `dvc pull data/curated`, and ask again"
        raise UserError(f"{uri}: the list of its images is neither in MLflow nor in DVC's cache", remedy=remedy)
    known = ImageNames(settings).all_names()
    ids = (bytes(row).ljust(32, b"\0").hex() for row in packed.tolist())
    return [f"{one} {known.get(one, '')}".rstrip() for one in ids]


def _code(version: RegisteredVersion) -> dict[str, str]:
    dirty = " with changes that are in no commit" if version.tags.get("git.dirty") == "true" else ""
    return {
        "commit": version.tags.get("git.sha", "") + dirty,
        "dvc.lock of": version.tags.get("git.lock_sha", "no commit yet"),
    }


def _images(version: RegisteredVersion, lineage: Mapping[str, Any], settings: Settings) -> dict[str, str]:
    curated = lineage.get("curated", {})
    packed = ImageRecords(settings).trained(version)
    found = {"images": f"{curated.get('count', '?')} trained on, list {curated.get('sha256', '')}"}
    if packed is None:
        return {**found, "forgotten": "unknown, the list is neither in MLflow nor in DVC's cache"}
    gone = among(read_forgotten(settings.root / paths.FORGOTTEN_LOCK), packed)
    return {**found, "forgotten": f"{len(gone)} of them by now" if gone else ""}


def _embedder(embedder: Mapping[str, Any]) -> str:
    return " ".join(filter(None, (redact(str(embedder.get("uri", ""))), str(embedder.get("version", "")))))


def _beginning(version: RegisteredVersion, settings: Settings) -> str:
    digest = version.tags.get("initial.sha256")
    if digest is None:
        return "weights from the seed"
    line = ancestors(version, all_versions(settings))
    return (
        ", which began with ".join(f"version {one}" for one in line) or f"a backbone that is not registered: {digest}"
    )


def _scores(lineage: Mapping[str, Any]) -> str:
    role, metrics = lineage.get("role", ""), lineage.get("evaluation", {}).get("metrics", {})
    return ", ".join(f"{name} {metrics[f'{role}.{name}']:.3f}" for name in ("knn.top1", "linear.top1")
                     if f"{role}.{name}" in metrics)  # fmt: skip


def _indented(parameters: Mapping[str, Any] | None) -> list[str]:
    from ruamel.yaml import YAML

    if not parameters:
        return []
    text = StringIO()
    YAML().dump(dict(parameters), text)
    return [f"  {line}" for line in text.getvalue().splitlines()]
