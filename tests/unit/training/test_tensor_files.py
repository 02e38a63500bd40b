"""Tensors on their way to the disk."""

import hashlib
import os
from pathlib import Path

import pytest
import safetensors
import torch

from components.training import tensor_files
from components.training.tensor_files import write_tensors

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
