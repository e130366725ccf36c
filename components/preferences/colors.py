"""From a decoded image to 8-bit RGB, by the rules of docs/data-format.md ("Media").

- Alpha, palettes and single transparent colors are composited on a background color.
- Of 16 bits the upper 8 count, as PIL itself reads 16-bit colors. Floats run from 0 (black) to 1 (white). Other depths are refused.
- An embedded ICC profile is applied (to sRGB) where it says something else than sRGB; one that is damaged or of another color space is not.
- An image that is 8-bit RGB already is returned as it is.
"""

from __future__ import annotations

import io
from functools import cache, lru_cache
from typing import Any

from PIL import Image, ImageChops, ImageCms

from components.preferences.bounds import MediaError

WHITE = "#ffffff"
PROFILES = 32  # transforms that stay in memory
SAME = 2  # levels of 255 by which a profile's colors may differ from sRGB's and still count as sRGB
STRIP = 1 << 20  # pixels of a deep image that are converted at once
BITS_PER_SAMPLE = 258  # tag of TIFF
SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab "}  # PIL's mode to the color space in a profile


def to_rgb(image: Image.Image, background: str) -> Image.Image:
    """`image` in RGB; `background` ("#rrggbb") shows through what is transparent. Raises MediaError for a depth without a rule."""
    if image.mode == "RGB" and not image.info.keys() & {"icc_profile", "transparency"}:
        return image
    color, alpha = _parts(image)
    transform = _transform(image.info.get("icc_profile"), color.mode)
    if transform is not None:
        color = ImageCms.applyTransform(color, transform) or color
    if color.mode != "RGB":
        color = color.convert("RGB")
    if alpha is not None:
        color.paste(background, (0, 0, *color.size), ImageChops.invert(alpha))
    return color


def is_plain(image: Image.Image) -> bool:
    """Whether `to_rgb` leaves every pixel as a decoder without any rules gives it."""
    return image.mode == "RGB" and "transparency" not in image.info and _transform(image.info.get("icc_profile"), "RGB") is None


def _parts(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colors in a mode that a profile may speak of, and the alpha channel in mode L, where anything is transparent."""
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image)
    gray = image.mode in {"1", "L", "LA", "La"}
    if image.has_transparency_data:
        whole = _with_alpha(image)
        alpha = whole.getchannel("A")
        return whole.getchannel("R") if gray else whole.convert("RGB"), None if alpha.getextrema() == (255, 255) else alpha
    if gray:
        return image.convert("L"), None
    return image if image.mode in SPACES else image.convert("RGB"), None


def _with_alpha(image: Image.Image) -> Image.Image:
    if image.mode == "RGBA":
        return image
    clear = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(clear, tuple) and max(clear) > 255:  # of a 16-bit PNG, whose upper 8 bits PIL decodes
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _eight_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """A gray image of more than 8 bits in mode L, strip by strip, and its alpha channel."""
    import numpy as np

    shift = _shift(image)
    clear = image.info.get("transparency")
    gray = Image.new("L", image.size)
    alpha = Image.new("L", image.size, 255) if isinstance(clear, int) else None
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        values: Any = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        if shift is None:
            if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
                raise MediaError("media_undecodable", "holds floats outside 0 (black) to 1 (white): scale it, or save it in 8 or 16 bits")
            eight = np.rint(values * 255).astype(np.uint8)
        else:
            eight = np.clip(values >> shift, 0, 255).astype(np.uint8)
        gray.paste(Image.fromarray(eight), (0, top))
        if alpha is not None:
            alpha.paste(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)), (0, top))
    return gray, alpha


def _shift(image: Image.Image) -> int | None:
    """Bits to drop of each value; None for floats."""
    if image.mode == "F":
        return None
    bits: Any = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))
    if image.mode.startswith("I;16"):
        return int(bits[0]) - 8
    if image.format == "PPM":  # which PIL scales to 16 bits
        return 8
    raise MediaError("media_undecodable", "holds whole numbers whose black and white no rule gives: save it in 8 or 16 bits without a sign")


def _transform(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from a profile's colors to sRGB; None where pixels of `mode` are to stay as they are."""
    if mode == "LAB":
        return _from_lab()
    return _from_profile(profile, mode) if profile else None


@cache
def _from_lab() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), _srgb(), "LAB", "RGB")


@lru_cache(maxsize=PROFILES)
def _from_profile(content: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        if profile.profile.xcolor_space != SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(profile, _srgb(), mode, "RGB")
        probe = _probe(mode)
        changed = ImageCms.applyTransform(probe, transform)
    except (ImageCms.PyCMSError, OSError, ValueError):  # many files hold a damaged profile, and every viewer shows them without it
        return None
    assert changed is not None
    off = ImageChops.difference(probe.convert("RGB"), changed).getextrema()
    return transform if max(int(high) for _, high in off) > SAME else None  # type: ignore[misc]


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _probe(mode: str) -> Image.Image:
    """Colors from all of the space: 17 levels a channel, of gray all."""
    levels = range(0, 256, 51)
    if mode == "L":
        return Image.frombytes("L", (256, 1), bytes(range(256)))
    colors = [bytes((a, b, c)) for a in levels for b in levels for c in levels]
    if mode == "CMYK":
        colors = [color + bytes([black]) for color in colors for black in levels]
    return Image.frombytes(mode, (len(colors), 1), b"".join(colors))
