"""F15: secrets in the environment or in addresses are in no log, no MLflow run, no DVC file, no error message."""

import base64
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import boto3
import httpx
import miniature
import pytest
from PIL import Image
from real_project import copy_project
from s3_server import s3_server

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).parents[2]
ACCESS_KEY, SECRET_KEY, SESSION = "AKIAPLANTEDPLANTED01", "planted/Secret+Key=of:S3", "planted-session-token"
PASSWORD, USER, SIGNATURE = "planted-password-of-mlflow", "planted-user", "planted5ignature"
SECRETS = (ACCESS_KEY, SECRET_KEY, SESSION, PASSWORD, SIGNATURE)
KEYS = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_SESSION_TOKEN": SESSION,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
NOWHERE = f"http://{USER}:{PASSWORD}@127.0.0.1:9"
SIGNED = f"https://127.0.0.1:9/photos.tar?X-Amz-Signature={SIGNATURE}"
NEUTRAL = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": "/nonexistent", "OMP_NUM_THREADS": "1"}


def forms() -> list[bytes]:
    """Each secret as it is, percent-encoded, and in base64 as an Authorization header has it."""
    found = {form for secret in SECRETS for form in (secret, quote(secret, safe=""))}
    found.add(base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
    return [form.encode() for form in sorted(found)]


def leaks(*folders: Path) -> list[str]:
    """Files in which a secret stands, with the secret."""
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.relative_to(folder).parts[0] != "tests":
                data = path.read_bytes()
                found += [f"{path}: {form.decode()}" for form in forms() if form in data]
    return found


def selfsight(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command with the code of this tree; what it shows holds no secret, however it ends."""
    done = subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", *arguments],
        cwd=folder,
        env={**NEUTRAL, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    shown = (done.stdout + done.stderr).encode()
    assert not [form for form in forms() if form in shown], done.stdout + done.stderr
    return done


@pytest.fixture
def small(tmp_path: Path, empty_database: Path) -> Path:
    """A small project of three stages with the shipped parameters."""
    project = tmp_path / "project"
    project.mkdir()
    miniature.chain(project)
    shutil.copy(empty_database, project / "mlflow.db")
    shutil.copy(ROOT / "params.yaml", project / "params.yaml")
    (project / "data").mkdir()
    shutil.copy(ROOT / "data" / "forgotten.lock", project / "data")
    return project


@pytest.mark.parametrize("command", [("promote",), ("who-saw", "0" * 64)])
def test_F15_a_server_that_is_away_is_named_without_its_password(small: Path, command: tuple[str, ...]) -> None:
    done = selfsight(small, *command, SELFSIGHT_MLFLOW_URI=NOWHERE, **KEYS)
    assert "does not answer" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert leaks(small) == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SELFSIGHT_S3_ENDPOINT", NOWHERE),
        ("SELFSIGHT_ARTIFACT_ROOT", f"s3://{ACCESS_KEY}:{quote(SECRET_KEY, safe='')}@bucket/mlflow"),
        ("SELFSIGHT_CHECKPOINT_MIRROR", SIGNED),
    ],
)
def test_F15_credentials_in_an_address_that_would_be_written_down_are_refused(
    small: Path, variable: str, value: str
) -> None:
    done = selfsight(small, "run", **{variable: value})
    assert done.returncode == 2
    assert done.stderr.startswith(f"selfsight: {variable} contains a password or key: ")
    assert leaks(small) == []


@pytest.mark.parametrize(
    ("command", "key", "value"),
    [
        ("snapshot", "snapshot:\n  source: scenes", f"snapshot:\n  source: {SIGNED}"),
        ("run", "embed: {}", f"embed:\n  embedder: s3://{USER}:{PASSWORD}@bucket/backbone"),
        ("retrain", "  method: dinov2", f"  method: dinov2\n  initial: {SIGNED}"),
    ],
)
def test_F15_a_secret_that_was_written_into_the_parameters_goes_no_further(
    small: Path, command: str, key: str, value: str
) -> None:
    params = small / "params.yaml"
    text = params.read_text()
    assert key in text
    params.write_text(text.replace(key, value))
    done = selfsight(small, command)
    assert done.returncode == 2
    assert "contains a password or key" in done.stderr
    params.unlink()
    assert leaks(small) == []


@pytest.mark.slow
def test_F15_what_a_stage_blurts_out_is_in_no_log(small: Path, tmp_path: Path) -> None:
    (small / "first.py").write_text(
        "import os, sys\n"
        "print('signed with', os.environ['AWS_SECRET_ACCESS_KEY'])\n"
        "print('GET', 'https://host/x?X-Amz-' + 'Signature=' + 'planted' + '5ignature', file=sys.stderr)\n"
        "raise RuntimeError('no answer from ' + os.environ['SELFSIGHT_MLFLOW_URI'])\n"
    )
    done = selfsight(
        small,
        "run",
        "--data",
        "scenes?images=8&eval=2&copies=0&leaks=0",
        "--retries",
        "0",
        SELFSIGHT_MLFLOW_URI=NOWHERE,
        **KEYS,
    )
    assert done.returncode == 1
    for part in ("signed with [secret]", "GET https://host/x\n", "no answer from http://127.0.0.1:9"):
        assert part in done.stderr
    assert (small / ".prefect").is_dir()
    assert leaks(small) == []


@pytest.fixture
def tracking_server(tmp_path: Path) -> Iterator[str]:
    """A real MLflow server; the password in the address is for a proxy that would stand before it."""
    home = tmp_path / "server"
    home.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stores = ("--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--artifacts-destination", str(home / "artifacts"))
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, *stores], stdout=log, stderr=log, env={**NEUTRAL, "HOME": str(home)}, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 180
        while not _answers(port):
            assert server.poll() is None, (home / "log").read_text()
            assert time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.5)
        yield f"http://{USER}:{PASSWORD}@127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.slow
def test_F15_a_curation_over_s3_under_a_tracking_server_leaves_no_secret_anywhere(
    tmp_path: Path, tracking_server: str
) -> None:
    project = copy_project(tmp_path / "project")
    with s3_server() as endpoint:
        s3 = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )
        s3.create_bucket(Bucket="camera")
        for number in range(24):
            noise = Image.effect_noise((48, 40), 40 + 5 * number)
            noise.save(tmp_path / "noise.png")
            s3.upload_file(str(tmp_path / "noise.png"), "camera", f"raw/{number:02d}.png")
        there = {
            "SELFSIGHT_S3_ENDPOINT": endpoint,
            "SELFSIGHT_S3_BUCKET": "camera",
            "SELFSIGHT_MLFLOW_URI": tracking_server,
            "SELFSIGHT_HOME": str(project),
            **KEYS,
        }
        wanted = ("--data", "s3://camera/raw", "--set", "retrieve.min_images=2")
        run = selfsight(project, "run", "curate", *wanted, **there)
        assert run.returncode == 0, run.stderr
        assert (project / "data" / "curated" / "ids.parquet").exists()
        for command in (("push",), ("status",), ("doctor",), ("run", "curate", "--data", "s3://nowhere/raw")):
            selfsight(project, *command, **there)
    assert (tmp_path / "server" / "mlflow.db").stat().st_size > 0
    assert list((project / ".dvc").rglob("config.local"))
    assert leaks(project, tmp_path / "server") == []
