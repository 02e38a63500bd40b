"""Sharing through a real S3 protocol server on loopback."""

import socket
from collections.abc import Iterator
from pathlib import Path

import boto3
import httpx
import miniature
import pytest
from s3_server import s3_server

from components.errors import UserError
from components.settings import Settings, get_settings
from components.tracking import start_run
from flows.output import Output
from flows.sharing import configure_remote, require_bucket, transfer

pytestmark = pytest.mark.timeout(120)
BUCKET = "shared"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-the-test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def bucket(endpoint: str, credentials: None) -> str:
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
    return BUCKET


def settings_for(root: Path, endpoint: str, bucket: str = BUCKET) -> Settings:
    return Settings(root=root, home=root, s3_endpoint=endpoint, s3_bucket=bucket, _env_file=None)


def ignore(_: Output) -> None:
    return


def test_a_second_clone_at_another_path_pulls_everything_and_finds_nothing_to_do(
    project: Path, endpoint: str, bucket: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    miniature.chain(project)
    (project / "third.py").write_text(
        "import pathlib\nfolder = pathlib.Path('third.txt'); folder.mkdir()\n"
        "[(folder / f'{i}').write_text(str(i)) for i in range(3)]\n"
    )
    miniature.run(project, "dvc", "repro")
    miniature.commit(project)
    transfer("push", settings_for(project, endpoint), ignore)

    clone = tmp_path_factory.mktemp("elsewhere") / "clone"
    miniature.run(project, "git", "clone", "--quiet", str(project), str(clone))
    assert not (clone / "third.txt").exists()
    transfer("pull", settings_for(clone, endpoint), ignore)
    assert sorted(file.name for file in (clone / "third.txt").iterdir()) == ["0", "1", "2"]
    assert (clone / "second.txt").read_bytes() == (project / "second.txt").read_bytes()
    said = miniature.run(clone, "dvc", "repro").stdout
    assert "Running stage" not in said
    assert miniature.run(clone, "git", "status", "--porcelain").stdout == ""


def test_f15_the_remote_is_the_trees_own_business_and_holds_no_credentials(
    project: Path, endpoint: str, bucket: str
) -> None:
    miniature.chain(project)
    miniature.commit(project)
    settings = settings_for(project, endpoint)
    assert configure_remote(settings) == "s3://shared/selfsight/dvc"
    configure_remote(settings)
    local = (project / ".dvc" / "config.local").read_text()
    assert "secret-of-the-test" not in local
    assert "key-of-the-test" not in local
    assert miniature.run(project, "git", "status", "--porcelain").stdout == ""
    assert miniature.run(project, "dvc", "remote", "list").stdout.split()[:2] == ["share", "s3://shared/selfsight/dvc"]


def test_pulling_what_was_never_pushed_is_one_line_with_a_remedy(project: Path, endpoint: str, bucket: str) -> None:
    miniature.chain(project)
    miniature.run(project, "dvc", "repro")
    miniature.run(project, "rm", "-rf", ".dvc/cache", "second.txt")
    settings = settings_for(project, endpoint).model_copy(update={"s3_prefix": "empty"})
    with pytest.raises(UserError, match="pull is not complete") as caught:
        transfer("pull", settings, ignore)
    assert "\n" not in str(caught.value)


def test_without_a_bucket_nothing_can_be_shared(project: Path) -> None:
    with pytest.raises(UserError, match="set SELFSIGHT_S3_BUCKET"):
        transfer("push", Settings(root=project, home=project, _env_file=None), ignore)


def test_a_missing_bucket_is_named(project: Path, endpoint: str) -> None:
    with pytest.raises(UserError, match="s3://nowhere: no such bucket"):
        require_bucket(settings_for(project, endpoint, "nowhere"))


def test_missing_credentials_are_named(project: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UserError, match="no usable AWS credentials"):
        require_bucket(settings_for(project, endpoint))


def test_refused_credentials_are_named_and_not_repeated(project: Path, endpoint: str, bucket: str) -> None:
    httpx.post(f"{endpoint}/moto-api/reset-auth", content="0")
    try:
        with pytest.raises(UserError, match="the credentials are refused") as caught:
            require_bucket(settings_for(project, endpoint))
    finally:
        httpx.post(f"{endpoint}/moto-api/reset-auth", content="inf")
    assert "of-the-test" not in str(caught.value)


def test_mlflow_keeps_artifacts_in_the_bucket(
    project: Path, endpoint: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "")  # so that it is as before afterwards
    monkeypatch.delenv("MLFLOW_S3_ENDPOINT_URL")
    monkeypatch.setenv("SELFSIGHT_S3_ENDPOINT", endpoint)
    monkeypatch.setenv("SELFSIGHT_ARTIFACT_ROOT", f"s3://{bucket}/mlflow")
    with start_run("pictures", params={}, settings=get_settings()) as run:
        run.log_text("seen", "notes/text.txt")
    listed = boto3.client("s3", endpoint_url=endpoint).list_objects_v2(Bucket=bucket, Prefix="mlflow/")
    assert [item["Key"].split("/")[-3:] for item in listed["Contents"]] == [["artifacts", "notes", "text.txt"]]


def test_a_server_that_is_not_there_is_named(project: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match="cannot be reached"):
            require_bucket(settings_for(project, url))


def test_f15_an_endpoint_with_a_password_is_refused_without_repeating_it(project: Path) -> None:
    miniature.chain(project)
    with pytest.raises(UserError) as caught:
        configure_remote(settings_for(project, "http://user:geheim@host:9000"))
    assert "geheim" not in str(caught.value)
    assert not (project / ".dvc" / "config.local").exists()
