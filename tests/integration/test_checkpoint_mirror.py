"""Copies of checkpoints through a real S3 protocol server on loopback."""

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from failing_line import Line, failing_line
from s3_server import s3_server

from components.errors import UserError
from components.training.bucket_copies import BucketCopies
from components.training.checkpoint import MANIFEST, STATE, CheckpointStore, verify, write_durably
from components.training.mirror import Mirror

pytestmark = pytest.mark.timeout(120)
BUCKET = "copies"
RUN = "pretrain-0123"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-the-test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=BUCKET)
    yield client
    for key in keys(client):
        client.delete_object(Bucket=BUCKET, Key=key)


def keys(client: Any) -> list[str]:
    return [item["Key"] for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def save(store: CheckpointStore, step: int) -> Path:
    partial = store.begin(step)
    digests = {
        "shard.bin": write_durably(partial / "shard.bin", bytes([step]) * 1000),
        STATE: write_durably(partial / STATE, json.dumps({"step": step}).encode()),
    }
    return store.commit(step, digests)


def copies(endpoint: str, address: str = f"s3://{BUCKET}/team/") -> BucketCopies:
    return BucketCopies(address, RUN, endpoint=endpoint, keep=2)


def accept(_state: dict[str, Any]) -> bool:
    return True


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / RUN, keep=1)


def test_an_empty_machine_takes_the_newest_whole_copy(
    s3: Any, endpoint: str, store: CheckpointStore, tmp_path: Path
) -> None:
    mirror = Mirror(copies(endpoint), store)
    mirror.start_at(0)
    for step in (10, 20, 30):
        mirror.put(save(store, step))
    assert mirror.close(30)
    s3.delete_object(Bucket=BUCKET, Key=f"team/{RUN}/step-00000040/{MANIFEST}")
    s3.put_object(Bucket=BUCKET, Key=f"team/{RUN}/step-00000040/shard.bin", Body=b"half an upload")
    empty = CheckpointStore(tmp_path / "elsewhere" / RUN)
    fetched = copies(endpoint).fetch(empty, accept)
    assert fetched is not None
    assert fetched == empty.newest()
    assert fetched.name == "step-00000030"
    verify(fetched)
    assert (fetched / "shard.bin").read_bytes() == bytes([30]) * 1000


def test_copies_are_bounded_and_the_store_may_drop_what_is_being_copied(
    s3: Any, endpoint: str, store: CheckpointStore
) -> None:
    made = copies(endpoint)
    for step in (10, 20, 30):
        made.upload(save(store, step), f"step-{step:08d}")
    assert {key.split("/")[2] for key in keys(s3)} == {"step-00000020", "step-00000030"}
    mirror = Mirror(made, store)
    mirror.put(save(store, 40))
    save(store, 50)
    assert mirror.close(30)
    assert f"team/{RUN}/step-00000040/{MANIFEST}" in keys(s3)
    assert not list(store.folder.glob(".copying-*"))


@pytest.mark.parametrize("damage", ["flipped", "missing", "manifest"])
def test_F2_a_damaged_copy_is_named_and_the_one_before_is_taken(
    s3: Any, endpoint: str, store: CheckpointStore, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (10, 20):
        copies(endpoint).upload(save(store, step), f"step-{step:08d}")
    newest = f"team/{RUN}/step-00000020"
    if damage == "flipped":
        s3.put_object(Bucket=BUCKET, Key=f"{newest}/shard.bin", Body=bytes([20]) * 999 + b"\0")
    elif damage == "missing":
        s3.delete_object(Bucket=BUCKET, Key=f"{newest}/shard.bin")
    else:
        s3.put_object(Bucket=BUCKET, Key=f"{newest}/{MANIFEST}", Body=b"{")
    fetched = copies(endpoint).fetch(CheckpointStore(tmp_path / "elsewhere"), accept)
    assert fetched is not None
    assert fetched.name == "step-00000010"
    assert "step-00000020 is damaged" in caplog.text


def test_F13_a_manifest_that_names_a_file_elsewhere_is_refused(
    s3: Any, endpoint: str, store: CheckpointStore, tmp_path: Path
) -> None:
    copies(endpoint).upload(save(store, 10), "step-00000010")
    manifest = json.dumps({"step": 10, "files": {"../../evil": "00"}}).encode()
    s3.put_object(Bucket=BUCKET, Key=f"team/{RUN}/step-00000010/{MANIFEST}", Body=manifest)
    assert copies(endpoint).fetch(CheckpointStore(tmp_path / "elsewhere" / RUN), accept) is None
    assert not (tmp_path / "evil").exists()


def test_what_this_machine_has_is_not_fetched_nor_what_the_run_cannot_go_on_from(
    s3: Any, endpoint: str, store: CheckpointStore, tmp_path: Path
) -> None:
    copies(endpoint).upload(save(store, 10), "step-00000010")
    assert copies(endpoint).fetch(store, accept) is None
    empty = CheckpointStore(tmp_path / "elsewhere")
    assert copies(endpoint).fetch(empty, lambda state: state["step"] != 10) is None
    assert empty.newest() is None


def test_a_run_that_starts_anew_removes_the_copies_of_the_one_before(
    s3: Any, endpoint: str, store: CheckpointStore
) -> None:
    for step in (10, 20):
        copies(endpoint).upload(save(store, step), f"step-{step:08d}")
    cut_off = s3.create_multipart_upload(Bucket=BUCKET, Key=f"team/{RUN}/step-00000030/shard.bin")
    assert cut_off["UploadId"]
    mirror = Mirror(copies(endpoint), store)
    mirror.start_at(10)
    assert mirror.close(30)
    assert {key.split("/")[2] for key in keys(s3)} == {"step-00000010"}
    assert not s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads")


def test_a_bucket_that_is_away_is_a_warning_in_training_and_an_error_before_it(
    s3: Any, store: CheckpointStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.training import bucket_copies

    monkeypatch.setattr(bucket_copies, "ATTEMPTS", 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        away = copies(f"http://127.0.0.1:{taken.getsockname()[1]}")
        mirror = Mirror(away, store)
        mirror.put(save(store, 10))
        assert mirror.close(30)
        assert "checkpoints cannot be copied" in caplog.text
        with pytest.raises(UserError, match="EndpointConnectionError"):
            away.fetch(store, accept)


@pytest.mark.parametrize(("method", "path"), [("GET", "list-type"), ("DELETE", f"step-00000050/{MANIFEST}")])
def test_F9_what_could_not_be_removed_is_removed_before_the_next_copy(
    s3: Any, endpoint: str, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    """Else the later steps of the run before would stay, and this run's copies be dropped as the oldest."""
    from components.training import bucket_copies

    for step in (40, 50):
        copies(endpoint).upload(save(store, step), f"step-{step:08d}")
    monkeypatch.setattr(bucket_copies, "ATTEMPTS", 1)
    anew = CheckpointStore(store.folder.parent / "anew", keep=1)
    with failing_line(Line(endpoint, "503", 1, only=path, methods=(method,))) as line:
        mirror = Mirror(copies(line.url), anew)
        mirror.start_at(0)
        give_up = time.monotonic() + 30
        while not any(path in seen for _, seen in line.seen) and time.monotonic() < give_up:
            time.sleep(0.01)
        mirror.put(save(anew, 10))
        assert mirror.close(30)
    assert {key.split("/")[2] for key in keys(s3)} == {"step-00000010"}
    assert not list(anew.folder.glob(".copying-*"))


@pytest.mark.parametrize("address", ["copies/team", "s3://", "s3://user:secret@copies"])
def test_F16_an_address_that_names_no_bucket_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(UserError, match="SELFSIGHT_CHECKPOINT_MIRROR names no bucket") as caught:
        BucketCopies(address, RUN, endpoint=None, keep=1)
    assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_a_training_goes_on_from_the_bucket_on_a_machine_that_has_nothing(
    s3: Any, endpoint: str, tmp_path: Path
) -> None:
    """The first machine is stopped; the second has the same data and parameters, and no checkpoint."""
    from tests.faults.training_program import (
        STEPS,
        assert_same,
        finish,
        prepare,
        run_until_saved,
        still_training,
    )

    bucket = {"SELFSIGHT_CHECKPOINT_MIRROR": f"s3://{BUCKET}/runs", "SELFSIGHT_S3_ENDPOINT": endpoint}
    alone, first, second = (prepare(tmp_path / name) for name in ("alone", "first", "second"))
    finish(alone)
    process = run_until_saved(first, STEPS // 3, **bucket)
    os.kill(process.pid, 15)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert not still_training(first)
    assert "goes on from step" in finish(second, **bucket)
    assert_same(second, alone)


@pytest.mark.usefixtures("s3")
def test_F9_a_bucket_that_does_not_answer_is_waited_for_as_long_as_promised(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirror = Mirror(copies(f"http://127.0.0.1:{silent.getsockname()[1]}"), store)
        mirror.put(save(store, 10))
        assert not mirror.close(0.5)
    assert "the newest checkpoint has not reached s3://" in caplog.text
