"""P7: processor time of an image's two global and eight local crops, against the recipe in Pillow, crop by crop.

`python -m benchmarks.P7_crops`; with `--tiny`, a few images to see that it runs. On one core; where there is a GPU,
also with crops and colours made there.
"""

import statistics
import sys
import time
from collections.abc import Callable
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from benchmarks.photos import Photos
from benchmarks.report import report
from components.data.loader import CropLoader
from components.data.masking import MaskParams
from components.data.views import Draws, ViewParams, draw_views
from components.imagenet import IMAGENET_MEAN, IMAGENET_STD

TINY = "--tiny" in sys.argv
IMAGES, BATCH, REPEATS = (8, 4, 2) if TINY else (128, 32, 5)
BOUNDS = {"cpu": 0.5, "cuda": 0.2}
VIEWS = ViewParams()


def plain_recipe(data: bytes, image_id: str) -> list[torch.Tensor]:
    """What a data loader of the usual kind does: each crop is cut, turned and coloured by itself."""
    image = Image.open(BytesIO(data)).convert("RGB")
    drawn = draw_views(VIEWS, seed=0, epoch=0, image_id=image_id, width=image.width, height=image.height)
    sizes = (VIEWS.global_size, VIEWS.local_size)
    return [
        plain_crop(image, draws, row, size)
        for draws, size in zip(drawn, sizes, strict=True)
        for row in range(len(draws.boxes))
    ]


def plain_crop(image: Image.Image, draws: Draws, row: int, size: int) -> torch.Tensor:
    """One crop."""
    x, y, w, h = draws.boxes[row]
    crop = image.resize((size, size), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
    if draws.flip[row]:
        crop = ImageOps.mirror(crop)
    if draws.jitter[row]:
        for number in draws.order[row]:
            crop = _JITTER[number](crop, float(draws.factors[row, number]))
    if draws.grey[row]:
        crop = crop.convert("L").convert("RGB")
    if draws.sigma[row] > 0:
        crop = crop.filter(ImageFilter.GaussianBlur(float(draws.sigma[row])))
    if draws.solarise[row]:
        crop = ImageOps.solarize(crop, 128)
    values = torch.from_numpy(np.asarray(crop).copy()).permute(2, 0, 1).float().div_(255)
    return (values - _MEAN) / _STD


def _turn_hue(crop: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = crop.convert("HSV").split()
    turned = Image.fromarray((np.asarray(hue, dtype=np.int16) + round(256 * turn)).astype(np.uint8))
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


_JITTER: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    lambda crop, factor: ImageEnhance.Brightness(crop).enhance(factor),
    lambda crop, factor: ImageEnhance.Contrast(crop).enhance(factor),
    lambda crop, factor: ImageEnhance.Color(crop).enhance(factor),
    _turn_hue,
)
_MEAN, _STD = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))


def loader(photos: Photos, device: str) -> CropLoader:
    """The one that training uses, without a memory of decoded images."""
    return CropLoader(
        photos, list(photos.files), views=VIEWS, masks=MaskParams(), global_batch=BATCH, seed=0, workers=0,
        patch_size=14, device=device, cache_bytes=0,
    )  # fmt: skip


def milliseconds(work: Callable[[], object], images: int) -> float:
    """Processor time of an image."""
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start) / images


def main() -> None:
    """Measures all ways in turn, and reports."""
    torch.set_num_threads(1)
    photos = Photos(IMAGES)
    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: [plain_recipe(data, one) for one, data in photos.files.items()]
    }
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        made = loader(photos, "cuda:0" if device == "cuda" else device)
        ways[device] = lambda made=made: [made.batch(step) for step in range(IMAGES // BATCH)]  # type: ignore[misc]
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(REPEATS + 1):
        for name, way in ways.items():
            spent = milliseconds(way, IMAGES)
            if turn:
                taken[name].append(spent)
    median = {name: statistics.median(values) for name, values in taken.items()}
    ratios = {name: median[name] / median["plain"] for name in ways if name != "plain"}
    report(
        "P7",
        "processor time of an image's ten crops, all on the CPU, against Pillow crop by crop",
        ratio=ratios["cpu"],
        bound=f"<= {BOUNDS['cpu']} on a CPU, <= {BOUNDS['cuda']} with crops on a GPU",
        holds=all(ratio <= BOUNDS[name] for name, ratio in ratios.items()),
        figures={
            "ratios": {name: round(value, 4) for name, value in ratios.items()},
            "milliseconds": {name: round(value, 3) for name, value in median.items()},
            "images": IMAGES,
            "batch": BATCH,
            "repeats": REPEATS,
            "real_photos": photos.real,
        },
        keep=not TINY,
    )


if __name__ == "__main__":
    main()
