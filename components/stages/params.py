"""`params.yaml` as one model: every section is written next to the code that uses it."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from components.curation.audit import AuditParams
from components.curation.checks import ValidateParams
from components.curation.deduplication import DedupParams
from components.curation.drift import DriftParams
from components.curation.embedding import EmbedParams
from components.curation.retrieval import RetrieveParams
from components.data.ingest import IngestParams
from components.data.snapshot import SnapshotParams
from components.errors import UserError
from components.evaluation.report import EvaluateParams
from components.parameters import Params, validate
from components.registry.gates import RetrainParams
from components.registry.release import ReleaseParams
from components.training.distill import DistillParams, require_fit
from components.training.pretrain import PretrainParams


class PipelineParams(Params):
    """Every knob of the pipeline."""

    snapshot: SnapshotParams = Field(description="which images, read by `selfsight snapshot`")
    ingest: IngestParams = Field(description="images to manifest and shards")
    validate_: ValidateParams = Field(alias="validate", description="checks of the manifest")
    embed: EmbedParams = Field(description="one vector an image")
    dedup: DedupParams = Field(description="near-duplicates and leaks")
    retrieve: RetrieveParams = Field(description="images like those one cares about")
    audit: AuditParams = Field(description="checks of the curation, and its page")
    pretrain: PretrainParams = Field(description="self-supervised pretraining")
    distill: DistillParams = Field(description="a smaller student")
    evaluate: EvaluateParams = Field(description="frozen features on downstream tasks")
    release: ReleaseParams = Field(description="the artifact to register")
    drift: DriftParams = Field(DriftParams(), description="new images against those of the champion")
    retrain: RetrainParams = Field(description="schedule and gates")

    @model_validator(mode="after")
    def _check_fit(self) -> Self:
        require_fit(self.distill, self.pretrain)
        return self

    def section(self, name: str) -> Params:
        """The section of that name in params.yaml."""
        found = getattr(self, "validate_" if name == "validate" else name)
        assert isinstance(found, Params)
        return found


def load_params(path: Path) -> PipelineParams:
    """Reads and checks a whole `params.yaml`.

    Raises:
        UserError: if the file is absent, is no YAML mapping, or does not fit, naming key, value and remedy.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", remedy="run in the root of the project") from None
    return parse_params(text, where=str(path))


def parse_params(text: str, *, where: str) -> PipelineParams:
    """Checks the text of a `params.yaml`; as `load_params`."""
    return validate(PipelineParams, _mapping(text, where), where=where)


def yaml_problem(error: Exception) -> str:
    """What is wrong with a YAML text, and in which line, on one line."""
    mark = getattr(error, "problem_mark", None)
    what = str(error) if mark is None else f"{getattr(error, 'problem', error)}, line {mark.line + 1}"
    return " ".join(what.split())


def _mapping(text: str, where: str) -> dict[str, Any]:
    from ruamel.yaml import YAML, YAMLError

    try:
        values = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise UserError(f"{where}: not valid YAML ({yaml_problem(error)})", remedy="mend that line") from None
    if not isinstance(values, dict):
        raise UserError(f"{where}: holds no sections", remedy="restore it with `git checkout params.yaml`")
    return values
