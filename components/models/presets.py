"""Named sizes of the vision transformer."""

from collections.abc import Mapping
from typing import Any

from components.errors import UserError
from components.models.vit import ViTConfig
from components.parameters import validate

PRESETS: dict[str, dict[str, Any]] = {
    "nano": {"width": 128, "depth": 6, "heads": 2},
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
    "g": {"width": 1536, "depth": 40, "heads": 24, "ffn": "swiglu"},
}


def vit_config(name: str, **overrides: Any) -> ViTConfig:
    """Architecture of a preset.

    Args:
        name: one of `PRESETS`.
        overrides: fields of `ViTConfig` that replace the preset's; `image_size` and `patch_size` default to 224 and 14.

    Raises:
        UserError: on an unknown name or field, or an impossible combination.
    """
    if name not in PRESETS:
        raise UserError(f"backbone '{name}' is unknown", remedy=f"choose one of {', '.join(PRESETS)}")
    values: Mapping[str, Any] = {"name": name, "image_size": 224, "patch_size": 14, **PRESETS[name], **overrides}
    return validate(ViTConfig, values, where=f"backbone {name}")
