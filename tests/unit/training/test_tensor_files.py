"""Tensors on their way to the disk."""

import hashlib
import os
from pathlib import Path

import pytest
import safetensors
import torch

from components.training import tensor_files
from components.training.tensor_files import TensorFile, write_tensors

TENSORS = {
    "state": torch.arange(13, dtype=torch.uint8),
    "weights": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),
    "turned": torch.arange(6.0).view(2, 3).t(),
    "nothing": torch.empty(0),
}


def test_what_is_written_is_what_safetensors_reads_and_what_the_hash_says(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    digest = write_tensors(path, TENSORS, metadata={"pieces": "{}"})
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    with safetensors.safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(TENSORS)
        assert file.metadata() == {"pieces": "{}"}
        for name, tensor in TENSORS.items():
            found = file.get_tensor(name)
            assert found.dtype == tensor.dtype
            assert torch.equal(found, tensor), name


def test_a_large_file_is_flushed_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushes: list[int] = []
    real = os.fdatasync

    def counted(descriptor: int) -> None:
        flushes.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(tensor_files, "FLUSHED_BYTES", 4000)
    monkeypatch.setattr(os, "fdatasync", counted)
    tensors = {str(number): torch.randn(1000) for number in range(6)}
    digest = write_tensors(tmp_path / "x", tensors, metadata={})
    assert digest == hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest()
    assert flushes
    assert flushes[0] < (tmp_path / "x").stat().st_size


def test_F7_a_disk_that_is_full_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_files, "FLUSHED_BYTES", 4000)
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_tensors(tmp_path / "full", {"x": torch.randn(100_000)}, metadata={})


def test_a_part_of_a_tensor_is_read_into_one_that_exists(tmp_path: Path) -> None:
    tensors = {"weights": torch.arange(100.0).view(4, 25), "state": torch.arange(5, dtype=torch.uint8)}
    write_tensors(tmp_path / "x", tensors, metadata={"pieces": "{}"})
    file = TensorFile(tmp_path / "x")
    assert (file.metadata, file.numel("weights")) == ({"pieces": "{}"}, 100)
    target = torch.zeros(30)
    file.read("weights", 40, target[10:20])
    assert torch.equal(target, torch.cat([torch.zeros(10), torch.arange(40.0, 50), torch.zeros(10)]))
    spread = torch.zeros(10, 2)
    file.read("weights", 90, spread[:, 1])
    assert torch.equal(spread[:, 1], torch.arange(90.0, 100))
    assert not spread[:, 0].any()
    with pytest.raises(ValueError, match=r"state is stored as U8, not as torch\.float32"):
        file.read("state", 0, torch.zeros(5))
    with pytest.raises(OSError, match="the file ends too early"):
        file.read("state", 0, torch.zeros(4000, dtype=torch.uint8))
    file.close()
