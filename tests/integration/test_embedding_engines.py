"""Embedding that is killed and goes on, and embedding on a real Ray: the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.tiny_training import make_data

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from components.curation import parts
from components.curation.embedder import EmbedderLock
from components.curation.embedding import EmbedParams, Resources, embed
from components.data.manifest import Manifest
from components.data.shards import ShardReader
from components.errors import UserError
from components.features.descriptor import descriptor_name

if __name__ == "__main__":
    chosen = json.loads(sys.argv[1])
    parts.PART = 2
    folder = Path(chosen["folder"])
    manifest = Manifest.load(folder / "manifest")
    lock = EmbedderLock(**chosen.get("lock", {"uri": "builtin", "version": descriptor_name(), "digest": ""}))
    params = EmbedParams(embedder=lock.uri, engine=chosen.get("engine", "local"), batch_size=2)
    resources = Resources(threads=chosen["threads"], cache=Path(chosen["cache"]) if "cache" in chosen else None)
    if chosen.get("slow"):
        import time
        save = parts.PartStore.save
        def slow(self, part, vectors):
            save(self, part, vectors)
            time.sleep(0.5)
        parts.PartStore.save = slow
    with ShardReader(folder / "shards", manifest.locations) as reader:
        try:
            vectors = embed(lock, reader, manifest.ids(), params, resources=resources, locations=manifest.locations)
        except UserError as error:
            sys.exit(f"UserError: {error}")
        if chosen.get("again"):
            anew = embed(lock, reader, manifest.ids(), params, resources=Resources(threads=chosen["threads"]))
            assert np.array_equal(anew, vectors), "a second time in one process"
    np.save(chosen["out"], vectors)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards and a manifest."""
    made = tmp_path_factory.mktemp("images")
    make_data(made)
    return made


def start(program: Path, **chosen: object) -> "subprocess.Popen[bytes]":
    """Its stderr goes to a file beside it."""
    program.write_text(PROGRAM)
    values = {name: str(value) if isinstance(value, Path) else value for name, value in chosen.items()}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with program.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, str(program), json.dumps(values)], cwd=program.parent, env=environment, stderr=log,
            stdout=log,
        )  # fmt: skip


def said(program: Path) -> str:
    return program.with_suffix(".log").read_text(errors="replace")[-3000:]


def run(program: Path, **chosen: object) -> np.ndarray:
    process = start(program, **chosen)
    assert process.wait(timeout=280) == 0, said(program)
    return np.load(str(chosen["out"]))


def test_f10_a_killed_embedding_goes_on_and_ends_with_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    program, cache, out = tmp_path / "program.py", tmp_path / "cache", tmp_path / "vectors.npy"
    whole = run(program, folder=folder, threads=1, out=tmp_path / "whole.npy")
    process = start(program, folder=folder, threads=1, cache=cache, out=out, slow=True)
    deadline = time.monotonic() + 120
    while len(list(cache.glob("*.npy"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in cache.glob("*.npy")}
    assert 2 <= len(kept) < len(whole) / 2
    assert not out.exists()
    assert np.array_equal(run(program, folder=folder, threads=1, cache=cache, out=out), whole)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "finished parts were not described again"
    assert len(list(cache.glob("*.npy"))) == -(-len(whole) // 2)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The lock of a tiny backbone."""
    from components.models.backbone import load_backbone
    from tests.artifacts import make_artifact

    folder = make_artifact(tmp_path_factory.mktemp("backbone"))
    return {"uri": str(folder), "version": "", "digest": load_backbone(folder).digest}


@pytest.mark.slow
def test_ray_gives_the_same_bits_as_this_process_and_leaves_nothing_behind(
    folder: Path, tmp_path: Path, backbone: dict[str, str]
) -> None:
    program = tmp_path / "program.py"
    here = run(program, folder=folder, threads=2, lock=backbone, out=tmp_path / "here.npy")
    before = ray_processes()
    process = start(
        program, folder=folder, threads=2, lock=backbone, engine="ray", cache=tmp_path / "cache",
        out=tmp_path / "there.npy", again=True,
    )  # fmt: skip
    addresses: set[str] = set()
    while process.poll() is None:
        addresses |= addresses_of(process.pid)
        time.sleep(0.2)
    assert process.returncode == 0, said(program)
    assert addresses, "Ray listens while it runs"
    assert {one for one in addresses if one != "::1" and not one.endswith("127.0.0.1")} == set()
    assert np.array_equal(np.load(tmp_path / "there.npy"), here)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == -(-len(here) // 2)
    wait_for(lambda: ray_processes() <= before)


@pytest.mark.slow
def test_what_is_wrong_in_a_worker_of_ray_is_one_line(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "manifest", tmp_path / "manifest")
    process = start(tmp_path / "program.py", folder=tmp_path, threads=1, engine="ray", out=tmp_path / "vectors.npy")
    assert process.wait(timeout=280) == 1
    assert "UserError: " in said(tmp_path / "program.py")
    assert "no such shard" in said(tmp_path / "program.py").splitlines()[-1]


@pytest.mark.slow
def test_f10_ray_ends_with_the_process_that_started_it(folder: Path, tmp_path: Path) -> None:
    before = ray_processes()
    process = start(
        tmp_path / "program.py", folder=folder, threads=1, engine="ray", cache=tmp_path / "cache", slow=True,
        out=tmp_path / "vectors.npy",
    )  # fmt: skip
    wait_for(lambda: len(list((tmp_path / "cache").glob("*.npy"))) > 0 or process.poll() is not None, seconds=200)
    assert process.poll() is None, said(tmp_path / "program.py")
    process.kill()
    process.wait()
    wait_for(lambda: ray_processes() <= before, seconds=100)


def ray_processes() -> set[int]:
    """Daemons and workers of any Ray on this machine."""
    found = set()
    for process in psutil.process_iter(["name", "cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if "ray::" in line or "/ray/core/src/" in line or "/ray/_private/" in line:
            found.add(process.pid)
    return found


def addresses_of(pid: int) -> set[str]:
    """Addresses that a process and its descendants listen on, or are connected to."""
    found: set[str] = set()
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return found
    for process in family:
        try:
            for one in process.net_connections("inet"):
                found |= {one.laddr.ip} if one.status == psutil.CONN_LISTEN else {one.raddr.ip} if one.raddr else set()
        except psutil.Error:
            continue
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come true; Ray: {ray_processes()}"
        time.sleep(0.1)
