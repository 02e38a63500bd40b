"""F14: a malicious file of weights executes nothing and is named as refused; a damaged one is called damaged."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from originals import Shape, official_state

from components.errors import UserError
from components.models.backbone import load_backbone
from components.models.conversion.imported import ImportOptions

OPTIONS = ImportOptions(heads=4)


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


class Evaluated(Bomb):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.mark)!r}, 'w')",)


def as_zip(bomb: Bomb) -> bytes:
    content = io.BytesIO()
    torch.save({**official_state(Shape()), "extra": bomb}, content)
    return content.getvalue()


def as_legacy(bomb: Bomb) -> bytes:
    content = io.BytesIO()
    torch.save({"extra": bomb}, content, _use_new_zipfile_serialization=False)
    return content.getvalue()


def as_pickle(protocol: int) -> Callable[[Bomb], bytes]:
    return lambda bomb: pickle.dumps(bomb, protocol=protocol)


@pytest.mark.parametrize("kind", [Bomb, Evaluated])
@pytest.mark.parametrize("make", [as_zip, as_legacy, *(as_pickle(number) for number in range(6))])
def test_F14_a_malicious_pickle_runs_nothing_and_is_refused_by_name(
    tmp_path: Path, make: Callable[[Bomb], bytes], kind: type[Bomb]
) -> None:
    content = make(kind(tmp_path / "mark"))
    (tmp_path / "dinov2.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"refused, because it asks for \S*(system|eval)\b"):
        load_backbone(tmp_path / "dinov2.pth", options=OPTIONS)
    assert not (tmp_path / "mark").exists()


def test_F14_the_bomb_is_real(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Evaluated(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


def test_F14_a_compiled_program_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "dinov2.pth", "w") as archive:
        archive.writestr("model/constants.pkl", b"")
        archive.writestr("model/data.pkl", b"")
    with pytest.raises(UserError, match="refused, because it asks for a compiled TorchScript program"):
        load_backbone(tmp_path / "dinov2.pth", options=OPTIONS)


def test_F14_pickled_weights_in_a_folder_of_hugging_face_are_refused_too(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
    (tmp_path / "pytorch_model.bin").write_bytes(as_zip(Bomb(tmp_path / "mark")))
    with pytest.raises(UserError, match=r"pytorch_model.bin: refused, because it asks for \S*system"):
        load_backbone(tmp_path)
    assert not (tmp_path / "mark").exists()


def test_F14_an_object_that_is_no_weight_is_named(tmp_path: Path) -> None:
    content = {**official_state(Shape()), "args": Path("/")}
    torch.save(content, tmp_path / "dinov2.pth")
    with pytest.raises(UserError, match=r"refused, because it asks for pathlib\."):
        load_backbone(tmp_path / "dinov2.pth", options=OPTIONS)


def whole() -> bytearray:
    content = io.BytesIO()
    torch.save(official_state(Shape()), content)
    return bytearray(content.getvalue())


def flipped_in(part: str) -> Callable[[], bytes]:
    def make() -> bytes:
        content = whole()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            info = next(one for one in archive.infolist() if one.filename.endswith(part))
            start = content.index(archive.read(info.filename), info.header_offset)
        content[start + info.file_size // 2] ^= 1
        return bytes(content)

    return make


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"",
        lambda: b"<!DOCTYPE html><title>404</title>",
        lambda: b"computer says\nno such file\n",
        lambda: whole()[: len(whole()) // 2],
        lambda: whole()[:-1],
        lambda: pickle.dumps({"a": [1.0]}, protocol=2)[:-3],
        flipped_in("data.pkl"),
        flipped_in("data/3"),
    ],
)
def test_a_damaged_file_is_called_damaged(tmp_path: Path, make: Callable[[], bytes]) -> None:
    (tmp_path / "dinov2.pth").write_bytes(make())
    with pytest.raises(UserError, match="damaged"):
        load_backbone(tmp_path / "dinov2.pth", options=OPTIONS)


def test_a_damaged_safetensors_file_is_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "timm.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(UserError, match="damaged"):
        load_backbone(tmp_path / "timm.safetensors")


def test_a_file_without_weights_is_said_to_hold_none(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "dinov2.pth")
    with pytest.raises(UserError, match="holds no weights"):
        load_backbone(tmp_path / "dinov2.pth")
