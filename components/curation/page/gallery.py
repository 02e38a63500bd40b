"""Images inside a page: small JPEGs in its own text."""

import base64
from io import BytesIO

from PIL import Image

from components.curation.page.markup import Html, tag
from components.data.decoding import decode_stored
from components.data.reading import Reader

SIDE = 80
"""Longer side of a shown image, pixels."""
QUALITY = 80


class Gallery:
    """Makes figures of images.

    Args:
        reader: gives the bytes of an image.
        names: of the images in their source, by id.
    """

    def __init__(self, reader: Reader, names: dict[str, str]) -> None:
        self._reader = reader
        self._names = names

    def figure(self, image_id: str, caption: str, *, gone: bool = False) -> Html:
        """Show an image with the last part of its name.

        Args:
            image_id: which.
            caption: one or two words.
            gone: whether curation threw it away: it is shown struck out.
        """
        name = self._names.get(image_id, image_id)
        picture = tag("img", src=self._data(image_id), alt=name, title=f"{name}\n{image_id}")
        label = tag("figcaption", tag("b", caption), tag("span", name.rpartition("/")[2]))
        return tag("figure", picture, label, class_="gone" if gone else None)

    def _data(self, image_id: str) -> str:
        image = decode_stored(self._reader.read, image_id, min_side=SIDE)
        image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=QUALITY)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
