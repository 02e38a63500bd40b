import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.errors import UserError
from components.models.backbone import Preprocess, artifact_hash, load_backbone, save_backbone
from components.models.presets import vit_config
from components.models.vit import VisionTransformer

PREPROCESS = Preprocess(image_size=16, resize=20)
LINEAGE = {"manifest": "abc", "teacher": None}


def model(seed: int = 0, **overrides: object) -> VisionTransformer:
    torch.manual_seed(seed)
    values = {"image_size": 16, "patch_size": 4, "width": 16, "depth": 2, "heads": 2, "registers": 1, **overrides}
    return VisionTransformer(vit_config("nano", **values))


def save(folder: Path, seed: int = 0) -> Path:
    save_backbone(model(seed), PREPROCESS, folder, lineage=LINEAGE, card="# A backbone\n")
    return folder


def test_backbone_comes_back_bit_for_bit(tmp_path: Path) -> None:
    loaded = load_backbone(save(tmp_path / "a"))
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded.model(images).patches, model()(images).patches)
    assert (loaded.config, loaded.preprocess, loaded.lineage) == (model().config, PREPROCESS, LINEAGE)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_same_content_gives_the_same_bytes_and_hash(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a"), save(tmp_path / "b")
    for path in sorted(first.iterdir()):
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name
    assert artifact_hash(first) == artifact_hash(second) == load_backbone(first).digest


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocess.json", "lineage.json", "README.md"])
def test_hash_depends_on_every_file(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "a")
    before = artifact_hash(folder)
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    assert artifact_hash(folder) != before


def test_F7_a_full_disk_is_an_error_of_the_system_and_not_of_the_format(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        save(tmp_path)
    assert caught.value.errno == errno.ENOSPC


def test_hash_ignores_files_that_others_put_there(tmp_path: Path) -> None:
    folder = save(tmp_path / "a")
    before = artifact_hash(folder)
    (folder / ".gitignore").write_text("*")
    assert artifact_hash(folder) == before


def test_weights_of_another_model_give_another_hash(tmp_path: Path) -> None:
    assert artifact_hash(save(tmp_path / "a")) != artifact_hash(save(tmp_path / "b", seed=1))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocess.json", "lineage.json", "README.md"])
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "a")
    (folder / name).unlink()
    with pytest.raises(UserError, match=name):
        load_backbone(folder)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        load_backbone(tmp_path / "nowhere")


def test_unexpected_hash_is_refused_and_the_expected_one_taken(tmp_path: Path) -> None:
    folder = save(tmp_path / "a")
    load_backbone(folder, expected_hash=artifact_hash(folder))
    with pytest.raises(UserError, match="not the expected 000000000000"):
        load_backbone(folder, expected_hash="0" * 64)


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def truncate_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def edit_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["architecture"].update(values)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (flip_a_bit, "does not match its hash"),
        (truncate_weights, "does not match its hash"),
        (lambda folder: edit_config(folder, width=32), "does not fit"),
        (lambda folder: edit_config(folder, depth=3), "does not fit"),
        (lambda folder: edit_config(folder, registers=0), "does not fit"),
        (lambda folder: edit_config(folder, wdith=32), "unknown key 'architecture.wdith'"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is no JSON"),
        (lambda folder: (folder / "lineage.json").write_text("[]"), "lineage.json holds no JSON object"),
    ],
)
def test_damaged_artifact_is_refused_with_its_reason(tmp_path: Path, harm: Callable[[Path], object], says: str) -> None:
    folder = save(tmp_path / "a")
    harm(folder)
    with pytest.raises(UserError, match=says):
        load_backbone(folder)


def test_artifact_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "a")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(UserError, match="format 99"):
        load_backbone(folder)


def test_loading_runs_no_pickle(tmp_path: Path) -> None:
    folder = save(tmp_path / "a")
    torch.save({"weights": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(UserError):
        load_backbone(folder)
