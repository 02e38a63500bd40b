"""Candidate against champion: the gate, the promotion, the way back."""

from collections.abc import Mapping
from dataclasses import dataclass

from components.errors import UserError
from components.registry.gates import GateResult, compare
from components.registry.promotion import is_judged, promote, record_judgement, rollback
from components.registry.versions import CANDIDATE, IDENTITY, RegisteredVersion, by_alias, by_number, champion
from components.settings import Settings
from components.stages import paths
from components.stages.params import PipelineParams
from flows.takedown import warning_lines


@dataclass(frozen=True)
class Decision:
    """What the gate says about a version, and against whom."""

    version: RegisteredVersion
    champion: RegisteredVersion | None
    result: GateResult


def decide(params: PipelineParams, settings: Settings, version: str | None = None) -> Decision:
    """Compares a version with the champion.

    Where the two were measured on different images, or in another way, those that were not measured on the images of
    the present pipeline are measured on them.

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
    again: dict[str, Mapping[str, float] | None] = {}
    if current is not None and current.version != asking.version and not _is_comparable(asking, current):
        images = PresentImages(params, settings)
        again = {one.version: images.scores(one) for one in (asking, current) if one.identity != images.identity}
    scores = [again.get(one.version) if one is not None else None for one in (current, asking)]
    result = compare(asking, current, params.retrain.gate, champion_score=scores[0], candidate_score=scores[1])
    return Decision(asking, current, result)


def apply(decision: Decision, settings: Settings, *, reason: str) -> str:
    """Makes the version the champion, if the champion is still the one that it was compared with.

    Returns:
        What was done, in words.

    Raises:
        UserError: if the champion is another one by now.
    """
    expected = decision.champion.version if decision.champion else None
    done = str(promote(decision.version.version, settings, expected=expected, reason=reason))
    record_judgement(decision.version, reason, settings)
    return done


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
    done = apply(decision, settings, reason=reason if decision.result.passed else f"forced, {reason}")
    return "\n".join([done, *warning_lines(decision.version.version, settings)])


def roll_back(settings: Settings) -> str:
    """Makes the champion before the present one the champion again.

    The one that is left counts as judged before it is left: a promotion that was cut off has not noted that, and the
    loop would promote it again.

    Returns:
        What was done, in words.

    Raises:
        UserError: if there was none before.
    """
    current = champion(settings)
    if current is not None and not is_judged(current):
        record_judgement(current, "by hand", settings)
    entry = rollback(settings, reason="by hand")
    assert entry.version is not None
    return "\n".join([str(entry), *warning_lines(entry.version, settings)])


class PresentImages:
    """The labelled images of the present pipeline, to measure registered versions on.

    Args:
        params: protocols.
        settings: where things are.

    Raises:
        UserError: if the data is not here.
    """

    def __init__(self, params: PipelineParams, settings: Settings) -> None:
        from components.data.forgotten import read_forgotten, usable
        from components.data.manifest import Manifest
        from components.data.tables import read_table
        from components.evaluation.split import labelled_split
        from components.registry.lineage import evaluation_identity

        self._params = params
        self._settings = settings
        # not what the last deduplication has left out: an image may have been forgotten since
        forgotten = read_forgotten(settings.root / paths.FORGOTTEN_LOCK)
        self._manifest = usable(Manifest.load(settings.root / paths.MANIFEST), forgotten)
        kept = settings.root / paths.DEDUP / "kept.parquet"
        found = evaluation_identity(self._manifest, kept, params.evaluate.protocol())
        self.identity = tuple(found[name] for name in IDENTITY)
        self._split = labelled_split(self._manifest, set(read_table(kept)["id"].to_pylist()), seed=params.evaluate.seed)

    def scores(self, version: RegisteredVersion) -> Mapping[str, float] | None:
        """Scores of a version as in the metrics of stage `evaluate`, without its role; None if nothing is labelled."""
        from components.data.shard_access import open_shards
        from components.evaluation.evaluate import DIGITS, features_of
        from components.evaluation.scores import knn_scores, linear_scores
        from components.features.extraction import Features
        from components.models.backbone import load_backbone

        split, params = self._split, self._params.evaluate
        if split is None:
            return None
        backbone = load_backbone(version.uri, expected_hash=version.digest or None)
        with open_shards(self._settings.root / paths.SHARDS, self._manifest.locations, self._settings) as reader:

            def features(ids: tuple[str, ...]) -> Features:
                device = self._settings.torch_device()
                return features_of(backbone, reader, ids, params, device, f"version {version.version}")

            bank, queries = features(split.bank), features(split.queries)
        scores = knn_scores(bank.last, queries.last, split)
        if self._params.retrain.gate.score.startswith("linear"):
            scores |= linear_scores(bank, queries, split, params.linear, seed=params.seed)
        # as those on record: else a tie would be lost by what is left after the last digit
        return {name: round(value, DIGITS) for name, value in scores.items()}


def _is_comparable(a: RegisteredVersion, b: RegisteredVersion) -> bool:
    return a.identity is not None and a.identity == b.identity
