"""A backbone from the MLflow registry and from a real server of the S3 protocol."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import torch
from s3_server import s3_server

from components.errors import UserError
from components.models.backbone import Preprocess, artifact_hash, load_backbone, save_backbone
from components.models.fetching import pinned
from components.models.presets import vit_config
from components.models.vit import VisionTransformer
from components.settings import get_settings
from components.tracking import client


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    model = VisionTransformer(vit_config("nano", image_size=16, patch_size=4, width=16, depth=1, heads=2))
    save_backbone(model, Preprocess(image_size=16, resize=16), tmp_path / "artifact", lineage={"a": 1}, card="card")
    return tmp_path / "artifact"


@pytest.fixture
def bucket(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with s3_server() as endpoint:
        monkeypatch.setenv("SELFSIGHT_S3_ENDPOINT", endpoint)
        get_settings.cache_clear()
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="models")
        yield endpoint


def test_backbone_comes_from_a_bucket(bucket: str, artifact: Path) -> None:
    s3 = boto3.client("s3", endpoint_url=bucket)
    for path in artifact.iterdir():
        s3.upload_file(str(path), "models", f"team/v1/{path.name}")
    loaded = load_backbone("s3://models/team/v1/", expected_hash=artifact_hash(artifact))
    assert torch.equal(loaded.model.norm.weight, load_backbone(artifact).model.norm.weight)


@pytest.mark.parametrize("uri", ["s3://models/nothing", "s3://no-such-bucket/v1"])
def test_nothing_in_the_bucket_is_named(bucket: str, uri: str) -> None:
    with pytest.raises(UserError, match=uri):
        load_backbone(uri)


def test_backbone_comes_from_the_registry_by_version_and_by_alias(
    project: Path, empty_database: Path, artifact: Path
) -> None:
    shutil.copy(empty_database, project / "mlflow.db")
    client.cache_clear()
    registry = client()
    run = registry.create_run(registry.create_experiment("fetching", artifact_location=str(project / "artifacts")))
    registry.log_artifacts(run.info.run_id, str(artifact), "backbone")
    registry.create_registered_model("backbone")
    version = registry.create_model_version("backbone", f"{run.info.artifact_uri}/backbone", run.info.run_id)
    registry.set_registered_model_alias("backbone", "champion", version.version)
    for uri in (f"models:/backbone/{version.version}", "models:/backbone@champion"):
        assert load_backbone(uri).digest == artifact_hash(artifact)
    assert pinned("models:/backbone@champion") == f"models:/backbone/{version.version}"
    assert pinned("models:/backbone/7") == "models:/backbone/7"
    assert pinned("s3://models/team") == "s3://models/team"
    for find in (load_backbone, pinned):
        with pytest.raises(UserError, match="models:/backbone@nobody"):
            find("models:/backbone@nobody")
    client.cache_clear()
