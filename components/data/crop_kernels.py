"""Crops and colours on a CPU: one pass over a crop where PyTorch would make a dozen, compiled by Numba.

What is computed is told in `resampling` and `colour`, whose tensor operators do the same on a GPU. Arithmetic is in
single precision; the compiled code is kept on disk, so that a machine compiles it once. A crop is made by one thread:
its bits depend on nothing but itself.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

ZERO, HALF, ONE, SIX, TOP = (np.float32(value) for value in (0, 0.5, 1, 6, 255))
# values of `colour`, again: kept code is made anew when this file changes, not when another one does
RED, GREEN, BLUE = (np.float32(value) for value in (0.2989, 0.587, 0.114))
LEAST_CHROMA = np.float32(1e-12)
SOLARISE_THRESHOLD = np.float32(128 / 255)
SUPPORT = 2.0
BRIGHTNESS, CONTRAST, SATURATION = 0, 1, 2
BLOCK = 16
_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


def compiled(function: _Kernel) -> _Kernel:
    """Machine code, kept on disk, that lets other threads run.

    Sums may be taken in any order, which is what lets the compiler use vectors; they are the same on every run.
    """
    options = {"nogil": True, "fastmath": {"reassoc", "contract", "nnan", "nsz"}, "error_model": "numpy"}
    try:
        return cast(_Kernel, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # no folder for the code can be written: each process compiles
        return cast(_Kernel, numba.njit(**options)(function))


@compiled
def crop_image(image: np.ndarray, boxes: np.ndarray, crops: np.ndarray, first: int, every: int) -> None:
    """Random resized crops of one image, as Pillow makes them: the width first, rounded to bytes, then the height.

    Args:
        image: UInt8[height, width, 3].
        boxes: Float64[crops, 4], left, top, width, height, of all images' crops.
        crops: Float32[crops, 3, size, size], of all images; values in 0..1.
        first: of the rows of `boxes` and `crops` that are this image's.
        every: from each such row to the next.
    """
    height, width, _ = image.shape
    size = crops.shape[-1]
    turned = np.empty((width, 3 * height), np.float32)
    turn_image(image, turned)
    for number in range(first, len(boxes), every):
        left, across = filter_weights(boxes[number, 0], boxes[number, 2], size, width)
        above, down = filter_weights(boxes[number, 1], boxes[number, 3], size, height)
        top = above[0]
        rows = above[-1] + down.shape[1] - top
        narrow = np.empty((size, 3 * rows), np.float32)
        for x in range(size):
            for channel in range(3):
                weighted_sum(turned, left[x], channel * height + top, across[x], narrow[x], channel * rows, rows)
            to_bytes(narrow[x])
        upright = np.empty((3 * rows, size), np.float32)
        transpose(narrow, upright)
        for channel in range(3):
            for y in range(size):
                line = crops[number, channel, y]
                weighted_sum(upright, channel * rows + above[y] - top, 0, down[y], line, 0, size)
                to_bytes(line)
                for x in range(size):
                    line[x] /= TOP


@compiled
def turn_image(image: np.ndarray, turned: np.ndarray) -> None:
    """Columns become lines, of the red, the green and the blue of each pixel, from the top."""
    height, width, _ = image.shape
    for top in range(0, height, BLOCK):
        for left in range(0, width, BLOCK):
            for x in range(left, min(left + BLOCK, width)):
                for channel in range(3):
                    for y in range(top, min(top + BLOCK, height)):
                        turned[x, channel * height + y] = np.float32(image[y, x, channel])


@compiled
def weighted_sum(
    lines: np.ndarray, row: int, column: int, weights: np.ndarray, out: np.ndarray, place: int, length: int
) -> None:
    """Sum of lines, each with its weight, four at a time.

    Args:
        lines: Float32[rows, columns].
        row: the first line.
        column: where the lines begin.
        weights: Float32[lines].
        out: Float32[any], written to.
        place: where it is written to.
        length: of the sum.
    """
    out = out[place : place + length]
    stop = column + length
    scale(lines[row, column:stop], weights[0], out)
    done = 1
    while done + 4 <= len(weights):
        at = row + done
        add_four(
            lines[at, column:stop],
            lines[at + 1, column:stop],
            lines[at + 2, column:stop],
            lines[at + 3, column:stop],
            weights[done : done + 4],
            out,
        )
        done += 4
    while done < len(weights):
        add(lines[row + done, column:stop], weights[done], out)
        done += 1


@compiled
def scale(line: np.ndarray, weight: np.float32, out: np.ndarray) -> None:
    """Writes a line times its weight."""
    for x in range(len(out)):
        out[x] = weight * line[x]


@compiled
def add(line: np.ndarray, weight: np.float32, out: np.ndarray) -> None:
    """Adds a line times its weight."""
    for x in range(len(out)):
        out[x] += weight * line[x]


@compiled
def add_four(
    first: np.ndarray, second: np.ndarray, third: np.ndarray, fourth: np.ndarray, weights: np.ndarray, out: np.ndarray
) -> None:
    """Adds four lines, each times its weight."""
    a, b, c, d = weights[0], weights[1], weights[2], weights[3]
    for x in range(len(out)):
        out[x] += a * first[x] + b * second[x] + c * third[x] + d * fourth[x]


@compiled
def to_bytes(values: np.ndarray) -> None:
    """Rounds to whole numbers in 0..255, as storing them in bytes would."""
    for place in range(len(values)):
        value = values[place]
        value = value if value > ZERO else ZERO
        value = value if value < TOP else TOP
        values[place] = np.float32(np.int32(value + HALF))


@compiled
def transpose(given: np.ndarray, out: np.ndarray) -> None:
    """Block by block, so that both sides stay in the cache."""
    rows, columns = given.shape
    for top in range(0, rows, BLOCK):
        for left in range(0, columns, BLOCK):
            for y in range(top, min(top + BLOCK, rows)):
                for x in range(left, min(left + BLOCK, columns)):
                    out[x, y] = given[y, x]


@compiled
def filter_weights(start: float, length: float, size: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys' cubic kernel with a = -0.5, widened by the shrinking factor, over the pixels of a side.

    Args:
        start: first pixel of the box.
        length: pixels of the box.
        size: pixels of the crop.
        side: pixels of the image.

    Returns:
        Int64[size], the first pixel that each pixel of the crop is made of, and Float32[size, pixels], the weight of
        it and of those that follow; each row sums to one.
    """
    step = length / size
    spread = max(step, 1.0)
    reach = SUPPORT * spread
    most = min(2 * math.ceil(reach) + 1, side)
    first = np.empty(size, np.int64)
    weights = np.zeros((size, most), np.float32)
    row = np.empty(most, np.float64)
    for place in range(size):
        centre = start + (place + 0.5) * step
        low = max(int(centre - reach + 0.5), 0)
        low = max(min(low, side - most), 0)
        first[place] = low
        total = 0.0
        for tap in range(most):
            distance = abs(low + tap + 0.5 - centre) / spread
            if distance < 1.0:
                row[tap] = (1.5 * distance - 2.5) * distance * distance + 1.0
            elif distance < SUPPORT:
                row[tap] = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
            else:
                row[tap] = 0.0
            total += row[tap]
        for tap in range(most):
            weights[place, tap] = np.float32(row[tap] / total)
    return first, weights


@compiled
def colour_crops(
    crops: np.ndarray,
    flip: np.ndarray,
    jitter: np.ndarray,
    factors: np.ndarray,
    order: np.ndarray,
    grey: np.ndarray,
    sigma: np.ndarray,
    solarise: np.ndarray,
    blur_kernel: int,
    mean: np.ndarray,
    std: np.ndarray,
) -> None:
    """Flip, jitter, grey, blur, solarise and normalise, in place.

    Args:
        crops: Float32[crops, 3, side, side], values in 0..1; written to.
        flip: as all up to `solarise` a field of `Draws`.
        jitter: see `flip`.
        factors: see `flip`.
        order: see `flip`.
        grey: see `flip`.
        sigma: see `flip`.
        solarise: see `flip`.
        blur_kernel: width of the Gaussian kernel, pixels.
        mean: Float32[3], subtracted.
        std: Float32[3], divided by.
    """
    side = crops.shape[-1]
    for row in range(len(crops)):
        crop = crops[row]
        if flip[row]:
            mirror(crop)
        red, green, blue = crop[0].reshape(-1), crop[1].reshape(-1), crop[2].reshape(-1)
        if jitter[row]:
            for turn in range(4):
                number = order[row, turn]
                factor = factors[row, number]
                if number == BRIGHTNESS:
                    blend(red, green, blue, factor, ZERO)
                elif number == CONTRAST:
                    blend(red, green, blue, factor, mean_grey(red, green, blue) * (ONE - factor))
                elif number == SATURATION:
                    saturate(red, green, blue, factor)
                else:
                    turn_hue(red, green, blue, SIX * factor)
        if grey[row]:
            saturate(red, green, blue, ZERO)
        if sigma[row] > ZERO:
            radius = min(blur_kernel // 2, side - 1)
            weights = gaussian(sigma[row], radius)
            for channel in range(3):
                blur_plane(crop[channel], weights, radius)
        for channel in range(3):
            plane = crop[channel].reshape(-1)
            less, scale = mean[channel], ONE / std[channel]
            if solarise[row]:
                for place in range(len(plane)):
                    value = plane[place]
                    plane[place] = ((ONE - value if value >= SOLARISE_THRESHOLD else value) - less) * scale
            else:
                for place in range(len(plane)):
                    plane[place] = (plane[place] - less) * scale


@compiled
def mirror(crop: np.ndarray) -> None:
    """Left becomes right."""
    side = crop.shape[-1]
    for channel in range(3):
        for y in range(side):
            for x in range(side // 2):
                other = side - 1 - x
                crop[channel, y, x], crop[channel, y, other] = crop[channel, y, other], crop[channel, y, x]


@compiled
def clipped(value: np.float32) -> np.float32:
    """Into 0..1."""
    value = value if value > ZERO else ZERO
    return value if value < ONE else ONE


@compiled
def mean_grey(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> np.float32:
    """Mean of the luminance."""
    total = ZERO
    for place in range(len(red)):
        total += RED * red[place] + GREEN * green[place] + BLUE * blue[place]
    return total / np.float32(len(red))


@compiled
def blend(red: np.ndarray, green: np.ndarray, blue: np.ndarray, factor: np.float32, added: np.float32) -> None:
    """Brightness, or contrast."""
    for place in range(len(red)):
        red[place] = clipped(red[place] * factor + added)
        green[place] = clipped(green[place] * factor + added)
        blue[place] = clipped(blue[place] * factor + added)


@compiled
def saturate(red: np.ndarray, green: np.ndarray, blue: np.ndarray, factor: np.float32) -> None:
    """Blend with the pixel's own grey; with a factor of 0 nothing else is left."""
    rest = ONE - factor
    for place in range(len(red)):
        r, g, b = red[place], green[place], blue[place]
        grey = rest * (RED * r + GREEN * g + BLUE * b)
        red[place] = clipped(r * factor + grey)
        green[place] = clipped(g * factor + grey)
        blue[place] = clipped(b * factor + grey)


@compiled
def turn_hue(red: np.ndarray, green: np.ndarray, blue: np.ndarray, turn: np.float32) -> None:
    """Turns the hue in HSV by so many sixths of the circle, at most three."""
    for place in range(len(red)):
        r, g, b = red[place], green[place], blue[place]
        value, least = r if r > g else g, r if r < g else g
        value, least = value if value > b else b, least if least < b else b
        chroma = value - least
        per = ONE / (chroma if chroma > LEAST_CHROMA else LEAST_CHROMA)
        other = (b - r) * per + np.float32(2) if value == g else (r - g) * per + np.float32(4)
        sector = ((g - b) * per if value == r else other) + turn
        red[place] = value - chroma * share(sector + np.float32(5))
        green[place] = value - chroma * share(sector + np.float32(3))
        blue[place] = value - chroma * share(sector + np.float32(1))


@compiled
def share(sector: np.float32) -> np.float32:
    """max(0, min(k, 4 - k, 1)) of k = sector mod 6, for a sector in -6..18."""
    k = sector + SIX if sector < ZERO else sector
    k = k - SIX if k >= SIX else k
    k = k - SIX if k >= SIX else k
    falling = np.float32(4) - k
    return clipped(k if k < falling else falling)


@compiled
def gaussian(sigma: np.float32, radius: int) -> np.ndarray:
    """Float32[2 * radius + 1], sums to one."""
    weights = np.empty(2 * radius + 1, np.float32)
    for offset in range(-radius, radius + 1):
        weights[offset + radius] = np.float32(math.exp(-0.5 * (offset / sigma) ** 2))
    weights /= weights.sum()
    return weights


@compiled
def blur_plane(plane: np.ndarray, weights: np.ndarray, radius: int) -> None:
    """Gaussian blur of one channel with reflected edges, in place: along the rows, then along the columns."""
    side = len(plane)
    line = np.empty(side + 2 * radius, np.float32)
    across = np.empty((side + 2 * radius, side), np.float32)
    for y in range(side):
        line[radius : radius + side] = plane[y]
        for edge in range(1, radius + 1):
            line[radius - edge] = plane[y, edge]
            line[radius + side - 1 + edge] = plane[y, side - 1 - edge]
        for x in range(side):
            across[radius + y, x] = weights[0] * line[x]
        for tap in range(1, len(weights)):
            weight = weights[tap]
            for x in range(side):
                across[radius + y, x] += weight * line[x + tap]
    for edge in range(1, radius + 1):
        across[radius - edge] = across[radius + edge]
        across[radius + side - 1 + edge] = across[radius + side - 1 - edge]
    for y in range(side):
        weighted_sum(across, y, 0, weights, plane[y], 0, side)
