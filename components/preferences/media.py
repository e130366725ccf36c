"""The one reader of pictures and frames: validation, lengths, training, serving and thumbnails see the same pixels.

- A picture is turned upright by its EXIF orientation, then brought to 8-bit RGB (components.preferences.colors).
- Of an animation or a file of several pages, the first picture counts.
- Formats are those that need no outside program.
"""

from __future__ import annotations

import io
import mmap
import os
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from components.preferences.bounds import MediaBounds, MediaError
from components.preferences.colors import WHITE, to_rgb
from components.preferences.frames import letterbox
from components.preferences.media_kinds import HEAD, describe_fault, webp_pixels

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
READER = "2"  # in keys of what is computed from pixels: another number where the same file gives other pixels
JPEGS = {"JPEG", "MPO"}
ORIENTATION = 0x0112  # tag of EXIF
DECODING_BYTES = 12  # a pixel, that decoders ask for at most: coefficients of a progressive JPEG, or planes of a WebP, beside the pixels
LISTINGS = 64  # folders whose names stay in memory, while they do not change
UPRIGHT = {  # its values to what makes a picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TURNED = {5, 6, 7, 8}  # its values for pictures that are stored on their side


@contextmanager
def open_picture(source: Path | bytes) -> Iterator[Image.Image]:
    """A picture with its header read. What decoding it raises inside becomes a MediaError too, which names what the file is."""
    name = source.name if isinstance(source, Path) else ""
    pixels = 0
    try:
        # A stream, never a path: PIL maps the files of some turned TIFFs into memory with width and height exchanged.
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of pixels, which bounds limit
            with Image.open(stream, formats=FORMATS) as image:
                pixels = image.width * image.height
                yield image
    except MediaError:
        raise
    except FileNotFoundError as error:
        raise MediaError("media_missing", "does not exist", name) from error
    except IsADirectoryError as error:
        raise MediaError("media_missing", "is a folder, not an image file", name) from error
    except PermissionError as error:
        raise MediaError("media_missing", "may not be read", name) from error
    except Exception as error:  # decoders raise errors of any kind for broken files, and for want of memory too
        # The decoder of WebP takes its memory when it is opened.
        if isinstance(error, Image.DecompressionBombError | MemoryError) or _lacks_memory(pixels or webp_pixels(_head(source))):
            raise MediaError("media_too_large", "takes more memory than validate.max_media_gb allows", name) from error
        raise MediaError("media_undecodable", describe_fault(_head(source), error), name) from error


def _lacks_memory(pixels: int) -> bool:
    """Whether this process may not take what decoding so many pixels can need."""
    try:
        mmap.mmap(-1, max(pixels, 1) * DECODING_BYTES).close()
    except OSError:
        return True
    return False


def read_picture(source: Path | bytes, background: str, bounds: MediaBounds | None = None) -> Image.Image:
    """A picture in RGB, upright, decoded whole. Raises MediaError for a file that can't be read, and past `bounds`."""
    with open_picture(source) as image:
        if bounds is not None:
            bounds.check_picture(image, source if isinstance(source, bytes) else source.read_bytes())
        return decoded(image, background)


def decoded(image: Image.Image, background: str) -> Image.Image:
    """The pixels of an opened picture, upright and in RGB."""
    image.load()
    method = UPRIGHT.get(orientation(image))
    return to_rgb(image if method is None else image.transpose(method), background)


def decoded_gray(image: Image.Image, side: int) -> Image.Image:
    """An opened picture upright and in gray, its whole file decoded. A JPEG may come reduced, to sides of `side` pixels or more: its decoder
    then leaves out the work for colors and for details."""
    if image.format not in JPEGS or image.mode != "RGB":
        return decoded(image, WHITE).convert("L")
    image.draft("L", (side, side))
    image.load()
    method = UPRIGHT.get(orientation(image))
    return image if method is None else image.transpose(method)


def picture_size(source: Path | bytes) -> tuple[int, int]:
    """Width and height of a picture in pixels as `read_picture` gives them, from its header."""
    with open_picture(source) as image:
        return upright_size(image)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened picture once it is upright."""
    width, height = image.size
    # PIL turns a TIFF, and its size, by itself.
    return (height, width) if image.format != "TIFF" and orientation(image) in TURNED else (width, height)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of a picture, 1 to 8; 1 where it has none, or none that can be read."""
    try:
        value: Any = image.getexif().get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001 -- EXIF is as broken as other metadata, and the picture can be shown without it
        return 1
    return value if value in range(1, 9) else 1


def pages(image: Image.Image) -> bool:
    """Whether an opened file holds more pictures than the one that is read: an animation or several pages."""
    return image.format in {"GIF", "PNG", "WEBP", "TIFF"} and bool(getattr(image, "is_animated", False))


def read_frames(folder: Path, names: Sequence[str], background: str) -> list[Image.Image]:
    """Frames of a folder in RGB, all of the size of the folder's first frame."""
    first = read_picture(folder / names[0], background)
    return [first, *(letterbox(read_picture(folder / name, background), first.size, background) for name in names[1:])]


def locate(root: Path, path: str) -> Path:
    """The file or folder `path` below `root`, also where the names on disk are the same text in another Unicode form (NFC, NFD).

    Raises MediaError where several names on disk are that text. A path that does not exist is returned as it stands.
    """
    whole = root / path
    if os.path.lexists(whole):
        return whole
    at = root
    for part in PurePosixPath(path).parts:
        if not os.path.lexists(at / part):
            same = [name for name in _names(at) if _same(name) == _same(part)]
            if len(same) > 1:
                raise MediaError("media_path", f"fits {len(same)} names on disk, which differ in their Unicode form: remove all but one")
            if not same:
                return whole
            at = at / same[0]
        else:
            at = at / part
    return at


def similar(root: Path, path: str) -> str | None:
    """A path below `root` that differs from `path` in upper and lower case or in its slashes, to be named in messages."""
    at, parts = root, []
    for part in PurePosixPath(path.replace("\\", "/")).parts:
        near = [name for name in _names(at) if _same(name).casefold() == _same(part).casefold()]
        if not near:
            return None
        parts.append(part if part in near else min(near))
        at = at / parts[-1]
    return "/".join(parts) if parts and "/".join(parts) != path else None


def _names(folder: Path) -> tuple[str, ...]:
    return _listing(folder, folder.stat().st_mtime_ns) if folder.is_dir() else ()


@lru_cache(maxsize=LISTINGS)
def _listing(folder: Path, changed: int) -> tuple[str, ...]:  # noqa: ARG001 -- a part of the key
    with os.scandir(folder) as entries:
        return tuple(entry.name for entry in entries)


def _same(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _head(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:HEAD]
    with source.open("rb") as stream:
        return stream.read(HEAD)
