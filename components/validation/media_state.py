"""Media as a block's rows name them: each is examined and hashed once, and its state on disk tells later whether it is still the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from components.files import digest_bytes
from components.preferences.media import locate
from components.validation.examination import Kind, Medium
from components.validation.media import MediaFolder


class WatchedMedia:
    """A folder of media that remembers what it was asked for since `begin`."""

    def __init__(self, media: MediaFolder) -> None:
        self._media = media
        self._named: dict[tuple[str, Kind], None] = {}
        self._states: dict[tuple[str, Kind], str] = {}

    def begin(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Forget who asked so far, and begin to examine the media of `rows`."""
        self._named = {}
        self._media.request(rows)

    def examine(self, path: str, kind: Kind) -> Medium:
        """As `MediaFolder.examine`. The state is taken before the medium is read, so that a change while it is read counts."""
        self._named[path, kind] = None
        if (path, kind) not in self._states:
            self._states[path, kind] = media_state(self._media.root, path)
        return self._media.examine(path, kind)

    def fingerprint(self, path: str, kind: Kind) -> bytes:
        """The fingerprint of a medium that was examined; of a video its first frame's."""
        return bytes.fromhex(self._media.examine(path, kind).fingerprint)

    def remember(self) -> None:
        """As `MediaFolder.remember`."""
        self._media.remember()

    def close(self) -> None:
        """As `MediaFolder.close`."""
        self._media.close()

    def states(self) -> list[tuple[str, str, str]]:
        """Path, kind and state of each medium that was asked for since `begin`."""
        return [(path, kind, self._states[path, kind]) for path, kind in self._named]


def media_state(root: Path, path: str) -> str:
    """A text that changes when a file, or a file of a folder, is replaced or written: from sizes and times, without reading it."""
    try:
        target = locate(root, path)
        if not target.is_dir():
            return _state(target)
        files = sorted(target.iterdir())
        return digest_bytes(*(part for file in files for part in (file.name.encode("utf-8", "surrogateescape"), _state(file))))
    except (OSError, ValueError):
        return "none"


def _state(file: Path) -> str:
    status = file.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
