"""The same photos from a folder, a tar and a bucket give the same images; a second run has nothing to do."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import pyarrow as pa
import pytest
from real_project import DVC, SELFSIGHT, call, copy_project, stages_run
from s3_server import s3_server

from components.data.tables import read_table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PHOTOS = 40
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def photos(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos as a camera made them."""
    folder = tmp_path_factory.mktemp("photos")
    with tarfile.open(real_data / "photos" / "photos.tar") as archive:
        for member in [one for one in archive.getmembers() if one.isfile()][:PHOTOS]:
            file = archive.extractfile(member)
            assert file is not None
            path = folder / Path(member.name).parent.name / Path(member.name).name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(file.read())
    return folder


@pytest.fixture
def endpoint() -> Iterator[str]:
    with s3_server() as url:
        yield url


def tables(project: Path) -> dict[str, pa.Table]:
    """Images and locations of the manifest."""
    return {name: read_table(project / "data" / "manifest" / f"{name}.parquet") for name in ("images", "locations")}


def curated_twice(project: Path, source: str) -> dict[str, pa.Table]:
    """Curates a source, and checks that a second run does nothing."""
    call(project, *SELFSIGHT, "run", "curate", "--data", source, "--set", "retrieve.min_images=16")
    assert "Nothing to do" in call(project, *SELFSIGHT, "run", "curate")
    assert read_table(project / "data" / "curated" / "ids.parquet").num_rows >= PHOTOS // 2
    return tables(project)


def ingested_twice(project: Path, source: str, **variables: str) -> dict[str, pa.Table]:
    """Ingests a source, and checks that a second run does nothing: what follows ingest has the same data before it."""
    call(project, *SELFSIGHT, "snapshot", "--data", source, **variables)
    assert stages_run(call(project, *DVC, "repro", "ingest", **variables)) == ["ingest"]
    call(project, *SELFSIGHT, "snapshot", **variables)
    assert stages_run(call(project, *DVC, "repro", "ingest", **variables)) == []
    return tables(project)


def test_a_folder_a_tar_and_a_bucket_of_the_same_photos_are_the_same_data(
    photos: Path, tmp_path: Path, endpoint: str
) -> None:
    project = copy_project(tmp_path / "project")
    from_folder = curated_twice(project, str(photos))
    assert set(from_folder["images"]["status"].to_pylist()) == {"ok"}
    assert from_folder["images"].num_rows == PHOTOS

    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(photos, arcname=".")
    assert ingested_twice(project, str(tmp_path / "photos.tar")) == from_folder

    s3 = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )
    s3.create_bucket(Bucket="camera")
    for path in photos.rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), "camera", f"raw/{path.relative_to(photos)}")
    from_bucket = ingested_twice(project, "s3://camera/raw", SELFSIGHT_S3_ENDPOINT=endpoint, **CREDENTIALS)
    assert from_bucket == from_folder
