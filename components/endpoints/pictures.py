"""Pictures as data URLs under a cap on their bytes.

- `exact_picture` sends the pixels that the local model reads: the file as it is where every reader decodes it alike (one JPEG, PNG or WebP in
  RGB, unrotated, without a profile of other colors), else a PNG of them. Above the cap there is no such form, and nothing is sent.
- `fitting_picture` halves the sides until the picture fits, and then sends a JPEG. It serves readers that need not see every pixel.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from components.endpoints.request import Picture, UnsendablePicture
from components.files import digest_bytes, digest_file
from components.preferences.colors import WHITE, is_plain
from components.preferences.media import READER, open_picture, orientation, pages, read_picture

TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
JPEG_QUALITY = 90
SMALLEST_SIDE = 32  # pixels; a picture that does not fit at this size has an absurd cap


def exact_picture(digest: str, read: Callable[[], Image.Image], path: Path | None, max_bytes: int) -> Picture:
    """A picture whose pixels in RGB `read` gives, known by `digest`; `path` is its file, where the pixels are those of one."""

    def url() -> str:
        whole = _file(path) if path is not None else None
        content, kind = whole or (_encoded(read(), "PNG"), "image/png")
        if len(content) > max_bytes:
            raise UnsendablePicture(f"a picture takes {len(content) / 1e6:.1f} MB, more than endpoint.max_image_mb")
        return _url(content, kind)

    return Picture(digest, url)


def fitting_picture(path: Path, max_bytes: int, background: str = WHITE) -> Picture:
    """The picture in `path`, scaled down where its file exceeds the cap; `background` shows through what is transparent."""

    def url() -> str:
        whole = _file(path)
        if whole is not None and len(whole[0]) <= max_bytes:
            return _url(*whole)
        image = read_picture(path, background)
        while len(content := _encoded(image, "JPEG")) > max_bytes:
            size = image.width // 2, image.height // 2
            if min(size) < SMALLEST_SIDE:
                raise UnsendablePicture(f"{path.name} does not fit endpoint.max_image_mb at {image.width} by {image.height} pixels")
            image = image.resize(size, Image.Resampling.LANCZOS)
        return _url(content, "image/jpeg")

    with open_picture(path) as image:
        reading = () if _is_alike(image) else (background, READER)
    return Picture(digest_bytes("fitting", digest_file(path), str(max_bytes), *reading), url)


def _file(path: Path) -> tuple[bytes, str] | None:
    """Bytes and type of a file that every reader decodes to the same pixels."""
    with open_picture(path) as image:
        return (path.read_bytes(), TYPES[str(image.format)]) if _is_alike(image) else None


def _is_alike(image: Image.Image) -> bool:
    return image.format in TYPES and is_plain(image) and orientation(image) == 1 and not pages(image)


def _encoded(image: Image.Image, form: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **({"quality": JPEG_QUALITY} if form == "JPEG" else {}))
    return stream.getvalue()


def _url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
