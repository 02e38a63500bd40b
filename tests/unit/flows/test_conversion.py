"""The command `selfsight convert`."""

import sys
from pathlib import Path

import pytest
import torch
from artifacts import make_artifact
from originals import Shape, official_state

from components.models.backbone import load_backbone
from flows import cli


def selfsight(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit code of the command, run in this process."""
    monkeypatch.setattr(sys, "argv", ["selfsight", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("to", "name"),
    [("official", "out.pth"), ("huggingface", "out"), ("timm", "out.safetensors"), ("onnx", "out"), ("artifact", "o")],
)
def test_an_artifact_becomes_every_format(
    tmp_path: Path, to: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_artifact(tmp_path / "source")
    assert selfsight(monkeypatch, "convert", str(source), str(tmp_path / name), "--to", to) == 0
    assert (tmp_path / name).exists()
    assert f"wrote {tmp_path / name}" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["source", name])


def test_what_gets_lost_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(official_state(Shape()), tmp_path / "in.pth")
    arguments = ["convert", str(tmp_path / "in.pth"), str(tmp_path / "out"), "--to", "huggingface", "--heads", "4"]
    assert selfsight(monkeypatch, *arguments) == 0
    assert "rule 'size', and this model by 'dinov2'" in capsys.readouterr().out


def test_official_weights_become_an_artifact_that_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(official_state(Shape()), tmp_path / "in.pth")
    arguments = ["convert", str(tmp_path / "in.pth"), str(tmp_path / "out"), "--to", "artifact", "--heads", "4"]
    assert selfsight(monkeypatch, *arguments, "--interpolation", "size") == 0
    made = load_backbone(tmp_path / "out")
    assert (made.config.heads, made.config.interpolation) == (4, "size")
    assert len(made.lineage["converted_from_sha256"]) == 64


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["source", "out.pth", "--to", "onxx"], "format 'onxx' is unknown"),
        (["source", "out.bin", "--to", "official"], "name it out.pth"),
        (["source", "source", "--to", "onnx"], "exists"),
        (["nowhere", "out", "--to", "onnx"], "no such backbone"),
        (["in.pth", "out", "--to", "onnx", "--interpolation", "cubic"], "'interpolation' is 'cubic'"),
        (["in.pth", "out", "--to", "onnx", "--heads", "5"], "heads 5 must divide width 64"),
        (["in.pth", "out", "--to", "onnx", "--heads", "0"], "'heads' is 0"),
        (["source", "out", "--to", "onnx", "--heads", "4"], "has 2 attention heads, not 4"),
        (["source", "out", "--to", "onnx", "--interpolation", "size"], "by the rule 'antialias', not 'size'"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_artifact(tmp_path / "source")
    torch.save(official_state(Shape(depth=1)), tmp_path / "in.pth")
    monkeypatch.chdir(tmp_path)
    assert selfsight(monkeypatch, "convert", *arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert says in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pth", "source"]
