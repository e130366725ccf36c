"""Media as a block's rows name them: each is examined and hashed once, and its state on disk tells later whether it is still the same."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from components.files import digest_bytes
from components.preferences.faults import RowError
from components.validation.media import MediaFolder, Medium
from components.validation.perceptual import fingerprint_of_file

MediaKind = Literal["image", "video"]


class WatchedMedia:
    """A folder of media that remembers what it was asked for since `begin`."""

    def __init__(self, media: MediaFolder) -> None:
        self._media = media
        self._named: dict[tuple[str, MediaKind], None] = {}
        self._states: dict[tuple[str, MediaKind], str] = {}
        self._fingerprints: dict[tuple[str, MediaKind], bytes] = {}

    def begin(self) -> None:
        """Forget who asked so far."""
        self._named = {}

    def examine(self, path: str, kind: MediaKind) -> Medium:
        """As `MediaFolder.examine`. The state is taken before the medium is read, so that a change while it is read counts."""
        self._named[path, kind] = None
        if (path, kind) not in self._states:
            self._states[path, kind] = media_state(self._media.root, path)
        return self._media.examine(path, kind)

    def fingerprint(self, path: str, kind: MediaKind) -> bytes:
        """The fingerprint of a medium that was examined; of a video its first frame's. Raises RowError."""
        if (path, kind) not in self._fingerprints:
            file = self._media.root / path
            if kind == "video":
                file = min(item for item in file.iterdir() if not item.name.startswith("."))
            try:
                self._fingerprints[path, kind] = fingerprint_of_file(file)
            except OSError as error:
                raise RowError("media_undecodable", kind, "cannot be decoded as an image") from error
        return self._fingerprints[path, kind]

    def states(self) -> list[tuple[str, str, str]]:
        """Path, kind and state of each medium that was asked for since `begin`."""
        return [(path, kind, self._states[path, kind]) for path, kind in self._named]


def media_state(root: Path, path: str) -> str:
    """A text that changes when a file, or a file of a folder, is replaced or written: from sizes and times, without reading it."""
    try:
        target = root / path
        if not target.is_dir():
            return _state(target)
        files = sorted(target.iterdir())
        return digest_bytes(*(part for file in files for part in (file.name.encode("utf-8", "surrogateescape"), _state(file))))
    except (OSError, ValueError):
        return "none"


def _state(file: Path) -> str:
    status = file.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
