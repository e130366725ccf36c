"""Examines one untrusted medium: its path, what it is, its size, whether every picture of it decodes, and its digest.

- A path must stay inside the preferences folder after following links, and name a regular file (a pipe would block for ever).
- Bounds are checked on headers, before anything is decoded. Then every picture is decoded whole, since a truncated one fails later.
- Results are remembered by the digest of the content, and digests by a file's size, times and inode, so that a medium is decoded once. Faults
  are remembered like sizes. The keys hold a digest of the reader's code and the bounds.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

from components.files import digest_bytes, digest_file
from components.preferences.bounds import MAX_IMAGE_BYTES, MediaBounds, MediaError
from components.preferences.faults import shorten
from components.preferences.frames import frame_names
from components.preferences.media import decoded_gray, locate, open_picture, pages, similar, upright_size
from components.preferences.media_kinds import HEAD, describe, with_path
from components.validation.perceptual import SIDE, fingerprint

IN_MEMORY = 16 * 2**20  # bytes of a file that is read once, for its digest and its pixels
RECENT_SECONDS = 2.0  # since a file's last change, in which another change could leave its times as they are
SHOWN = 200  # characters of a path in a reason

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[/\\]|(?:file|data):", re.IGNORECASE)

Kind = Literal["image", "video"]


class Cache(Protocol):
    """What was examined before, by key."""

    def find(self, keys: Sequence[str]) -> Mapping[str, Any]:
        """The values among `keys`."""
        ...


@dataclass(frozen=True)
class Medium:
    """A valid medium: sha256 of its bytes, size of its (first) picture in pixels once upright, and its number of frames.

    `pages` is set where a file holds more pictures than the one that is read. `fingerprint` says in hexadecimal how the (first) picture looks.
    """

    digest: str
    width: int
    height: int
    frames: int
    pages: bool = False
    fingerprint: str = ""


@dataclass(frozen=True)
class Fault:
    """Why a medium can't be used: the kind for counts, and the whole reason."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Examined:
    """A medium or its fault, and what a cache has to remember, by key."""

    result: Medium | Fault
    fresh: dict[str, Any] = field(default_factory=dict)


class Examiner:
    """Examines media below `root`. `reader` is a digest of the code that does, for the keys of `cache`."""

    def __init__(self, root: Path, bounds: MediaBounds, cache: Cache | None = None, reader: str = "") -> None:
        self.root, self._bounds = root, bounds
        self._resolved = root.resolve()
        self._folders: dict[Path, Path] = {}
        self._cache = cache
        self._context = digest_bytes(reader, str(sorted(asdict(bounds).items())))

    def examine(self, path: str, kind: Kind) -> Examined:
        """Check a medium and digest it."""
        fresh: dict[str, Any] = {}
        try:
            return Examined(self._image(path, fresh) if kind == "image" else self._video(path, fresh), fresh)
        except MediaError as error:
            return Examined(_fault(path, error), fresh)
        except MemoryError:
            return Examined(_fault(path, MediaError("media_too_large", "takes more memory than validate.max_media_gb allows")), fresh)

    def give_up(self, path: str, kind: Kind, error: MediaError) -> Examined:
        """The result of a medium whose examination came to no end, for which `error` says why."""
        fresh: dict[str, Any] = {}
        try:
            located = self._inside(path)
            names = [""] if kind == "image" else frame_names(located, self._bounds.frames)
            digests = [self._digest(located / name, fresh)[0] for name in names]
        except (MediaError, OSError):
            return Examined(_fault(path, error))  # the next validation examines it anew
        return Examined(
            _fault(path, error), fresh | {self._key(digests[0] if kind == "image" else _together(names, digests), kind): _stored(error)}
        )

    def _image(self, path: str, fresh: dict[str, Any]) -> Medium:
        file = self._inside(path)
        if file.is_dir():
            raise MediaError("media_missing", "is a folder, not an image file")
        digest, content = self._digest(file, fresh)
        return self._remembered(digest, "image", fresh, lambda: self._decode([file], [""], content, digest))

    def _video(self, path: str, fresh: dict[str, Any]) -> Medium:
        folder = self._inside(path)
        if not folder.is_dir():
            _regular(folder)
            with folder.open("rb") as stream:
                reason = describe(stream.read(HEAD))
            raise MediaError("media_missing", reason if reason.startswith("is a video") else "is a file, not a folder of frames")
        names, files, digests = frame_names(folder, self._bounds.frames), [], []
        if not names:
            raise MediaError("media_missing", "is a folder that holds no frames")
        for name in names:
            with _naming(name):
                _refuse_name(name)
                files.append(self._resolve(folder / name))
                digests.append(self._digest(files[-1], fresh)[0])
        digest = _together(names, digests)
        return self._remembered(digest, "video", fresh, lambda: self._decode(files, names, None, digest))

    def _digest(self, file: Path, fresh: dict[str, Any]) -> tuple[str, bytes | None]:
        """The digest of a regular file of bounded size, and its content where that had to be read for it."""
        status = _regular(file)
        if status.st_size > MAX_IMAGE_BYTES:
            raise MediaError("media_too_large", f"has {status.st_size} bytes, more than {MAX_IMAGE_BYTES}")
        if status.st_size == 0:
            raise MediaError("media_undecodable", describe(b""))
        key = digest_bytes("file", *map(str, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)))
        if self._cache is not None and (cached := self._cache.find([key])):
            return cached[key], None
        try:
            content = file.read_bytes() if status.st_size <= IN_MEMORY else None
            digest = digest_file(file) if content is None else hashlib.sha256(content).hexdigest()
        except OSError as error:
            raise MediaError("media_missing", "may not be read") from error
        if time.time() - max(status.st_mtime, status.st_ctime) > RECENT_SECONDS:
            fresh[key] = digest
        return digest, content

    def _key(self, digest: str, kind: Kind) -> str:
        return digest_bytes("medium", self._context, kind, digest)

    def _remembered(self, digest: str, kind: Kind, fresh: dict[str, Any], decode: Callable[[], Medium]) -> Medium:
        """The medium of a digest, as it was examined before, else by `decode`."""
        key = self._key(digest, kind)
        if self._cache is not None and (cached := self._cache.find([key])):
            if "fault" in cached[key]:
                raise MediaError(*cached[key]["fault"])
            return Medium(**cached[key])
        try:
            medium = decode()
        except MediaError as error:
            if error.kind != "media_missing":
                fresh[key] = _stored(error)
            raise
        fresh[key] = vars(medium)
        return medium

    def _decode(self, files: Sequence[Path], names: Sequence[str], content: bytes | None, digest: str) -> Medium:
        """Read all headers, check the bounds, then decode every picture."""
        if len(files) > 1:
            headers = []
            for file, name in zip(files, names, strict=True):
                with _naming(name), open_picture(file) as image:
                    self._bounds.check_size(*image.size)
                    headers.append(upright_size(image))
            self._bounds.check_frames(headers)
        sizes, several, appearance = [], False, b""
        for file, name in zip(files, names, strict=True):
            with _naming(name), _opened(file, content) as whole, open_picture(content or file) as image:
                self._bounds.check_picture(image, whole)
                several = several or pages(image)
                sizes.append(upright_size(image))
                picture = decoded_gray(image, SIDE)
                appearance = appearance or fingerprint(picture)
        return Medium(digest, *sizes[0], len(files), several, appearance.hex())

    def _inside(self, path: str) -> Path:
        """The resolved path. Raises MediaError if it does not exist or leads out of the folder."""
        if "\0" in path:
            raise MediaError("media_path", "holds a NUL character")
        if _SCHEME.match(path):
            raise MediaError("media_path", f"is an address: give a path inside {self.root.name}/")
        if path.startswith(("/", "\\")):
            raise MediaError("media_path", "is not a relative path")
        if ".." in PurePosixPath(path.replace("\\", "/")).parts:
            raise MediaError("media_path", "leads out by '..'")
        try:
            return self._resolve(locate(self.root, path))
        except MediaError:
            raise
        except FileNotFoundError as error:
            near = similar(self.root, path)
            raise MediaError(
                "media_missing", f"does not exist; on disk it is {shorten(near, SHOWN)}" if near else "does not exist"
            ) from error
        except (OSError, RuntimeError, ValueError) as error:  # a name too long, a file taken for a folder, links in a circle
            raise MediaError("media_missing", "cannot be opened") from error

    def _resolve(self, file: Path) -> Path:
        """The file without links. The folder that it lies in is resolved once."""
        if file.parent not in self._folders:
            self._folders[file.parent] = file.parent.resolve(strict=True)
        linked = stat.S_ISLNK(os.lstat(file).st_mode)
        resolved = file.resolve(strict=True) if linked else self._folders[file.parent] / file.name
        if not resolved.is_relative_to(self._resolved) or resolved == self._resolved:
            raise MediaError("media_path", f"leads out of {self.root.name}/ by a link")
        return resolved


def _regular(file: Path) -> os.stat_result:
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise MediaError("media_missing", "is not a regular file")
    return status


def _refuse_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise MediaError("media_path", "has a name that is not UTF-8, which DVC can't store: rename the file") from error


def _together(names: Sequence[str], digests: Sequence[str]) -> str:
    """The digest of a folder, as `digest_folder` gives it."""
    return digest_bytes(*(part for pair in sorted(zip(names, digests, strict=True)) for part in pair))


def _stored(error: MediaError) -> dict[str, Any]:
    return {"fault": [error.kind, error.reason, error.member]}


def _fault(path: str, error: MediaError) -> Fault:
    whole = f"{path}/{error.member}" if error.member else path
    return Fault(error.kind, f"{shorten(whole, SHOWN)} {with_path(error.reason, whole)}")


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Errors inside name the frame `name`, "" for the medium itself."""
    try:
        yield
    except MediaError as error:
        raise MediaError(error.kind, error.reason, name) from error
    except OSError as error:  # a link to nothing, say
        raise MediaError("media_missing", "cannot be opened", name) from error


@contextmanager
def _opened(file: Path, content: bytes | None) -> Iterator[bytes | mmap.mmap]:
    """A file's content, in memory or mapped."""
    if content is not None:
        yield content
        return
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped
