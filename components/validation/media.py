"""Checks untrusted images and folders of frames: their paths, whether they decode, and their digests.

- A path must stay inside the preferences folder after following links, and name a regular file (a pipe would block for ever).
- The check decodes every image whole, since a truncated one fails later. It supports only formats that need no outside program.
- `MediaFolder` examines each medium once, for all of its queries.
"""

from __future__ import annotations

import re
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from PIL import Image

from components.files import digest_file, digest_folder
from components.preferences.faults import RowError, shorten

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 64_000_000  # an image of 8000 x 8000; more counts as a decompression bomb
MAX_IMAGE_BYTES = 256 * 2**20
MAX_ASPECT = 200  # beyond it, tiling leaves one side without a patch

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[/\\]|(?:file|data):", re.IGNORECASE)


@dataclass(frozen=True)
class Medium:
    """A valid medium: sha256 of its bytes, size of its (first) image in pixels, and its number of frames."""

    digest: str
    width: int
    height: int
    frames: int


class MediaFolder:
    """The preferences folder; media paths are relative to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._resolved = root.resolve()
        self._examined: dict[tuple[str, str], Medium | RowError] = {}

    def examine(self, path: str, kind: Literal["image", "video"]) -> Medium:
        """Check a medium and digest it. Raises RowError."""
        key = (path, kind)
        if key not in self._examined:
            try:
                self._examined[key] = self._image(path) if kind == "image" else self._video(path)
            except RowError as fault:
                self._examined[key] = fault
        examined = self._examined[key]
        if isinstance(examined, RowError):
            raise examined
        return examined

    def _image(self, path: str) -> Medium:
        file = self._inside(path, "image")
        if file.is_dir():
            raise RowError("media_missing", "image", f"{shorten(path)} is a folder, not an image file")
        width, height = open_image(file, "image", path)
        return Medium(digest_file(file), width, height, 1)

    def _video(self, path: str) -> Medium:
        folder = self._inside(path, "video")
        if not folder.is_dir():
            raise RowError("media_missing", "video", f"{shorten(path)} is a file, not a folder of frames")
        names = sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))
        if not names:
            raise RowError("media_missing", "video", f"the folder {shorten(path)} holds no frames")
        sizes = [open_image(self._inside(f"{path}/{name}", "video"), "video", f"{path}/{name}") for name in names]
        return Medium(digest_folder(folder, names), *sizes[0], len(names))

    def _inside(self, path: str, field: str) -> Path:
        """The resolved path. Raises RowError if it does not exist or leads out of the folder."""
        if "\0" in path:
            raise RowError("media_path", field, f"{shorten(path)} holds a NUL character")
        if _SCHEME.match(path):
            raise RowError("media_path", field, f"{shorten(path)} is an address: give a path inside {self.root.name}/")
        if path.startswith(("/", "\\")):
            raise RowError("media_path", field, f"{shorten(path)} is not a relative path")
        if ".." in PurePosixPath(path.replace("\\", "/")).parts:
            raise RowError("media_path", field, f"{shorten(path)} leads out by '..'")
        try:
            resolved = (self.root / path).resolve(strict=True)
        except FileNotFoundError as error:
            raise RowError("media_missing", field, f"{shorten(path, 200)} does not exist") from error
        except (OSError, RuntimeError, ValueError) as error:  # a name too long, a file taken for a folder, links in a circle
            raise RowError("media_missing", field, f"{shorten(path)} cannot be opened") from error
        if not resolved.is_relative_to(self._resolved) or resolved == self._resolved:
            raise RowError("media_path", field, f"{shorten(path)} leads out of {self.root.name}/ by a link")
        return resolved


def open_image(file: Path, field: str, path: str) -> tuple[int, int]:
    """Decode an image whole; return its width and height. Raises RowError, which names `path`, for an unusable image."""
    name = shorten(path, 200)
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise RowError("media_missing", field, f"{name} is not a regular file")
    if status.st_size > MAX_IMAGE_BYTES:
        raise RowError("media_too_large", field, f"{name} has {status.st_size} bytes, more than {MAX_IMAGE_BYTES}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                if width * height <= MAX_PIXELS:
                    image.convert("RGB")
    except Image.DecompressionBombError as error:
        raise RowError("media_too_large", field, f"{name} has more than {MAX_PIXELS} pixels") from error
    except PermissionError as error:
        raise RowError("media_missing", field, f"{name} may not be read") from error
    except Exception as error:  # decoders raise errors of any kind for broken files
        raise RowError("media_undecodable", field, f"{name} cannot be decoded as an image") from error
    if width * height > MAX_PIXELS:
        raise RowError("media_too_large", field, f"{name} has {width} x {height} pixels, more than {MAX_PIXELS}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise RowError("media_too_large", field, f"{name} is {width} x {height} pixels: one side is more than {MAX_ASPECT} times the other")
    return width, height
