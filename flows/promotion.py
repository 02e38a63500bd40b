"""Candidate against champion: the gate, the promotion, the way back."""

from collections.abc import Mapping
from dataclasses import dataclass

from components.errors import UserError
from components.registry.gates import GateResult, compare
from components.registry.promotion import promote, rollback
from components.registry.versions import CANDIDATE, RegisteredVersion, by_alias, by_number, champion
from components.settings import Settings
from components.stages import paths
from components.stages.params import PipelineParams

IMAGES = ("queries", "bank")
"""What of a version's evaluation says on which images it was measured."""


@dataclass(frozen=True)
class Decision:
    """What the gate says about a version, and against whom."""

    version: RegisteredVersion
    champion: RegisteredVersion | None
    result: GateResult


def decide(params: PipelineParams, settings: Settings, version: str | None = None) -> Decision:
    """Compares a version with the champion.

    A champion that was measured on other images is measured again on those of the present pipeline.

    Args:
        params: protocols and gate.
        settings: where things are.
        version: number of a version; default: the candidate.

    Raises:
        UserError: if there is no such version, or the registry does not answer.
    """
    asking = by_number(version, settings) if version is not None else by_alias(CANDIDATE, settings)
    if asking is None:
        raise UserError("there is no candidate", remedy="`selfsight run` registers one")
    current = champion(settings)
    again = None
    if current is not None and current.version != asking.version and not _same_images(asking, current):
        again = measure_again(current, params, settings)
    return Decision(asking, current, compare(asking, current, params.retrain.gate, champion_score=again))


def apply(decision: Decision, settings: Settings, *, reason: str) -> str:
    """Makes the version the champion, if the champion is still the one that it was compared with.

    Returns:
        What was done, in words.

    Raises:
        UserError: if the champion is another one by now.
    """
    expected = decision.champion.version if decision.champion else None
    return str(promote(decision.version.version, settings, expected=expected, reason=reason))


def promote_version(params: PipelineParams, settings: Settings, version: str | None, *, force: bool) -> str:
    """Promotes a version by hand.

    Args:
        params: protocols and gate.
        settings: where things are.
        version: number of a version; default: the candidate.
        force: also against the gate; the history keeps that.

    Returns:
        What was done, in words.

    Raises:
        UserError: if the gate refuses, or there is nothing to promote.
    """
    decision = decide(params, settings, version)
    named = f"version {decision.version.version}"
    is_champion = decision.champion is not None and decision.champion.version == decision.version.version
    if not decision.result.passed and (not force or is_champion):
        remedy = "nothing is left to do" if is_champion else "train a better one, or overrule the gate with --force"
        raise UserError(f"{named} is not promoted: {'; '.join(decision.result.reasons)}", remedy=remedy)
    reason = f"by hand, gate {decision.result}"
    return apply(decision, settings, reason=reason if decision.result.passed else f"forced, {reason}")


def roll_back(settings: Settings) -> str:
    """Makes the champion before the present one the champion again.

    Returns:
        What was done, in words.

    Raises:
        UserError: if there was none before.
    """
    return str(rollback(settings, reason="by hand"))


def measure_again(version: RegisteredVersion, params: PipelineParams, settings: Settings) -> Mapping[str, float] | None:
    """Scores a registered version on the images of the present pipeline.

    Returns:
        Scores as in the metrics of stage `evaluate`, without the model's name; None if nothing is labelled.
    """
    from components.data.manifest import Manifest
    from components.data.shards import ShardReader
    from components.data.tables import read_table
    from components.evaluation.scores import knn_scores, linear_scores
    from components.evaluation.split import labelled_split
    from components.features.extraction import Features, extract
    from components.models.backbone import load_backbone

    manifest = Manifest.load(settings.root / paths.MANIFEST)
    kept = set(read_table(settings.root / paths.DEDUP / "kept.parquet")["id"].to_pylist())
    split = labelled_split(manifest, kept, seed=params.evaluate.seed)
    if split is None:
        return None
    backbone = load_backbone(version.uri, expected_hash=version.digest or None)
    with ShardReader(settings.root / paths.SHARDS, manifest.locations) as reader:

        def features(ids: tuple[str, ...]) -> Features:
            return extract(
                backbone.model,
                reader,
                ids,
                backbone.preprocess,
                batch_size=params.evaluate.batch_size,
                device=settings.torch_device(),
                description=f"champion, version {version.version}",
            )

        bank, queries = features(split.bank), features(split.queries)
    scores = knn_scores(bank.last, queries.last, split)
    if params.retrain.gate.score.startswith("linear"):
        scores |= linear_scores(bank, queries, split, params.evaluate.linear, seed=params.evaluate.seed)
    return scores


def _same_images(a: RegisteredVersion, b: RegisteredVersion) -> bool:
    ours, theirs = a.evaluation, b.evaluation
    return all(ours.get(name) and ours.get(name) == theirs.get(name) for name in IMAGES)
