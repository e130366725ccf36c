"""The media of an import: copied below a folder under names by content, so that equal pictures are one file and no name can do harm.

Rows that already name media as data.jsonl does (the release's) keep the names, where they are safe and nothing else has them.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from components.files import digest_bytes, digest_file, write_atomic
from components.preferences.faults import RowError, shorten
from components.preferences.formats.pieces import Medium

FOLDER = "media"  # below data/preferences
MAX_BYTES = 256 * 2**20  # of one picture
MAX_FRAMES = 10_000
_STRAY = frozenset({"Thumbs.db", "desktop.ini"})
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[/\\]|data:", re.IGNORECASE)
_SAFE = re.compile(r"[^\x00-\x1f\x7f\\:*?\"<>|]+")
_FILMS = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"})
_CACHED = 100_000


@dataclass
class Library:
    """Copies media of `root` below `target`; `present` is the folder that they will be moved to. `own_names` keeps safe names.

    Paths are relative to `beside`, a folder in `root`, or else to `root`.
    """

    root: Path
    target: Path
    present: Path
    own_names: bool = False
    beside: Path | None = None

    def __post_init__(self) -> None:
        self._resolved = self.root.resolve()
        self._names: dict[tuple[str, str], str | RowError] = {}

    def store(self, medium: Medium, field: str) -> str:
        """The name of a medium, relative to data/preferences, after it has been copied. Raises RowError."""
        if medium.data is not None:
            return self._store_bytes(medium.data, field)
        assert medium.path is not None
        key = (medium.kind, medium.path)
        if key not in self._names:
            if len(self._names) >= _CACHED:
                self._names.clear()
            try:
                self._names[key] = self._store_path(medium, field)
            except RowError as fault:
                self._names[key] = fault
        name = self._names[key]
        if isinstance(name, RowError):
            raise RowError(name.kind, field, name.reason)
        return name

    def _store_bytes(self, data: bytes, field: str) -> str:
        if len(data) > MAX_BYTES:
            raise RowError("media_too_large", field, f"has {len(data)} bytes, more than {MAX_BYTES}")
        name = _name(digest_bytes(data), ending_of(data[:16], None))
        if not (self.target / name).exists():
            write_atomic(self.target / name, data)
        return name

    def _store_path(self, medium: Medium, field: str) -> str:
        assert medium.path is not None
        path = self._inside(medium.path, field)
        if medium.kind == "video":
            return self._store_frames(path, medium.path, field)
        self._check_file(path, medium.path, field)
        with path.open("rb") as stream:
            beginning = stream.read(16)
        digest = digest_file(path)
        name = self._own_name(medium.path, path) or _name(digest, ending_of(beginning, path.suffix))
        self._copy(path, self.target / name)
        return name

    def _store_frames(self, folder: Path, named: str, field: str) -> str:
        if not folder.is_dir():
            cure = f"make frames with: ffmpeg -i {shorten(named)} -vf fps=1 FOLDER/%05d.jpg, and name the folder"
            words = f"is a film: {cure}" if folder.suffix.lower() in _FILMS else "is a file, not a folder of frames"
            raise RowError("media_missing", field, f"{shorten(named, 200)} {words}")
        frames = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in _STRAY)
        if not frames or len(frames) > MAX_FRAMES:
            raise RowError("media_missing", field, f"the folder {shorten(named, 200)} holds {len(frames)} frames")
        for frame in frames:
            self._check_file(self._inside(str(frame), field), frame.name, field)
        names = {frame: _frame_name(frame, number) for number, frame in enumerate(frames, start=1)}
        digest = digest_bytes(*(part for frame in frames for part in (names[frame], digest_file(frame))))
        name = self._own_name(named, folder) or _name(digest, "")
        if not (self.target / name).exists():
            partial = self.target / f"{name}.{os.getpid()}.tmp"
            shutil.rmtree(partial, ignore_errors=True)
            for frame in frames:
                self._copy(frame, partial / names[frame])
            try:
                partial.rename(self.target / name)
            except OSError:  # another process has just copied it
                shutil.rmtree(partial)
        return name

    def _check_file(self, path: Path, named: str, field: str) -> None:
        if not path.is_file():
            raise RowError("media_missing", field, f"{shorten(named, 200)} is not a regular file")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise RowError("media_too_large", field, f"{shorten(named, 200)} has {size} bytes, more than {MAX_BYTES}")

    def _copy(self, source: Path, target: Path) -> None:
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.copyfile(source, partial)
        partial.replace(target)

    def _inside(self, named: str, field: str) -> Path:
        """The path of a medium. Raises RowError where it does not exist, or leads out of the source's folder."""
        if _ADDRESS.match(named):
            raise RowError("media_path", field, f"{shorten(named)} is an address: download it, and name the file")
        if "\0" in named:
            raise RowError("media_path", field, f"{shorten(named)} holds a NUL character")
        forms = dict.fromkeys((named, unicodedata.normalize("NFC", named), unicodedata.normalize("NFD", named)))
        bases = list(dict.fromkeys((self.beside or self.root, self.root)))
        for base, form in itertools.product(bases, list(forms)):
            try:
                path = (base / form).resolve(strict=True)
            except FileNotFoundError:
                continue
            except (OSError, RuntimeError, ValueError) as error:
                raise RowError("media_missing", field, f"{shorten(named)} cannot be opened") from error
            if not path.is_relative_to(self._resolved) or path == self._resolved:
                raise RowError("media_path", field, f"{shorten(named)} leads out of the media's folder: name that folder with --media")
            return path
        raise RowError("media_missing", field, f"{shorten(named, 200)} does not exist: name the media's folder with --media")

    def _own_name(self, named: str, path: Path) -> str | None:
        """The name that the row gives a medium, where it may stay; None where a name by content is needed."""
        name = unicodedata.normalize("NFC", named)
        parts = PurePosixPath(name).parts
        if not self.own_names or name != named or "/".join(parts) != name or parts[0] == "/":
            return None
        if any(part.startswith(".") or not part.isprintable() or not _SAFE.fullmatch(part) for part in parts):
            return None
        present = self.present / name
        if not present.exists():
            return name
        same = present.is_file() and path.is_file() and digest_file(present) == digest_file(path)
        return name if same or present.resolve() == path else None


def ending_of(beginning: bytes, suffix: str | None) -> str:
    """The ending of a picture's name, by its first bytes; else the one that it has, where that is plain."""
    for magic, ending in (
        (b"\x89PNG", ".png"),
        (b"\xff\xd8\xff", ".jpg"),
        (b"GIF8", ".gif"),
        (b"BM", ".bmp"),
        (b"II*\0", ".tif"),
        (b"MM\0*", ".tif"),
        (b"P6", ".ppm"),
    ):
        if beginning.startswith(magic):
            return ending
    if beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP":
        return ".webp"
    plain = suffix is not None and suffix[1:].isascii() and suffix[1:].isalnum() and len(suffix) <= 6
    return suffix.lower() if plain and suffix else ".bin"


def _name(digest: str, ending: str) -> str:
    return f"{FOLDER}/{digest[:2]}/{digest[2:26]}{ending}"


def _frame_name(frame: Path, number: int) -> str:
    """A frame's own name where it is plain, since its order may lie in it; else its place among the frames."""
    name = unicodedata.normalize("NFC", os.fsencode(frame.name).decode("utf-8", "replace"))
    return name if name.isprintable() and _SAFE.fullmatch(name) and "\ufffd" not in name else f"{number:05d}{frame.suffix.lower()}"
