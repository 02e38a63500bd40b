"""F9, F10, F12 at once: `selfsight run curate` over a bucket half full of hostile files, on a bad line, and killed."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pyarrow.compute as pc
import pytest
from failing_line import Line, failing_line
from hostile import corpus
from real_project import SELFSIGHT, call, copy_project, environment
from s3_server import s3_server
from textures import jpeg, texture

from components.data.manifest import Manifest
from components.data.tables import read_table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
GOOD = 60
HOSTILE = corpus()[::4]
SPOILT = "5.jpg"
"""The first answer to every request for such a name is cut in its middle."""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
CURATE = (
    *SELFSIGHT,
    "run",
    "curate",
    "--set",
    "validate.max_quarantined=0.9",
    "--set",
    "retrieve.min_images=16",
    "--data",
)


@pytest.fixture
def line() -> Iterator[Line]:
    with s3_server() as url, failing_line(Line(url, "short", 1, only=SPOILT)) as line:
        yield line


def fill(line: Line, files: dict[str, bytes], prefix: str) -> None:
    s3: Any = boto3.client(
        "s3",
        endpoint_url=line.upstream,
        region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )
    if prefix == "raw":
        s3.create_bucket(Bucket="camera")
    for name, data in files.items():
        s3.put_object(Bucket="camera", Key=f"{prefix}/{name}", Body=data)


def read(line: Line) -> int:
    """Images that were asked for."""
    return sum(count for (method, path), count in line.seen.items() if method == "GET" and "/camera/raw/" in path)


def killed_amid_ingest(project: Path, line: Line, variables: dict[str, str]) -> None:
    """Runs curation and kills all of it when a part of the images was read."""
    process = subprocess.Popen(
        (*CURATE, "s3://camera/raw"),
        cwd=project,
        env=environment(project, **variables),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while read(line) < GOOD // 2:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, "a stage outlived the kill"
    assert not (project / "data" / "manifest").exists()


def test_F10_an_interrupted_half_hostile_bucket_gives_the_manifest_of_a_clean_one_and_the_quarantine(
    tmp_path: Path, line: Line
) -> None:
    files = {f"good/{seed:03d}.jpg": jpeg(texture(seed)) for seed in range(GOOD)}
    files |= {f"bad/{one.name}": one.data for one in HOSTILE}
    fill(line, files, "raw")
    variables = {"SELFSIGHT_S3_ENDPOINT": line.url, **CREDENTIALS}

    hostile = copy_project(tmp_path / "hostile")
    killed_amid_ingest(hostile, line, variables)
    call(hostile, *CURATE, "s3://camera/raw", **variables)
    assert max(count for (_, path), count in line.seen.items() if path.endswith(SPOILT)) >= 2
    found = Manifest.load(hostile / "data" / "manifest")
    status = {row["name"]: row["status"] for row in found.sources.join(found.images, "id").to_pylist()}
    kept = {name for name, one in status.items() if one == "ok"}
    assert {name for name in files if name.startswith("good/")} <= kept
    assert len(status) - len(kept) > GOOD // 4, "a good part was quarantined"

    clean = copy_project(tmp_path / "clean")
    fill(line, {name: files[name] for name in kept}, "clean")
    call(clean, *CURATE, "s3://camera/clean", **variables)
    expected = Manifest.load(clean / "data" / "manifest")
    assert found.images.filter(pc.equal(found.images["status"], "ok")).equals(expected.images)
    assert found.locations.equals(expected.locations)
    for out in ("curated/ids.parquet", "dedup/groups.parquet"):
        assert read_table(hostile / "data" / out).equals(read_table(clean / "data" / out)), out
