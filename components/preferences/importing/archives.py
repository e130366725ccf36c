"""Archives from strangers: unpacked into a folder of their own, and WebDataset tars read without unpacking.

Refused as a whole: absolute names, `..`, links, devices, pipes, encrypted members, too many members, more bytes than the bounds.
"""

from __future__ import annotations

import errno
import itertools
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Self

from components.errors import UserError
from components.preferences.bounds import MAX_IMAGE_BYTES
from components.preferences.faults import RowError, shorten
from components.preferences.json_rows import MAX_LINE_BYTES, parse_row

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
MAX_HEADER_BYTES = 2**20  # of a long name or of PAX fields, which `tarfile` reads into memory
_BLOCK = 2**20
_HEADERS = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
# Numbers of an OSError that an archive causes: a member before the file's beginning, a name that no disk takes, a file that is a folder too.
_OF_ARCHIVE = {None, errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ, errno.EISDIR, errno.ENOTDIR, errno.EEXIST}
# What the libraries raise on an archive that was damaged on purpose: a name that is no UTF-8, a field that a number does not fit, ...
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError),
    *(RuntimeError, ValueError, ArithmeticError, LookupError),
)


@dataclass(frozen=True)
class Bounds:
    """What an archive may unpack to: members, bytes in all, and how many times its own size."""

    members: int = 2_000_000
    bytes: int = 200 * 2**30
    ratio: int = 200  # of the archive's own bytes; pictures hardly compress, text tenfold
    least: int = 64 * 2**20  # that any archive may unpack to

    def most(self, path: Path) -> int:
        """The bytes that this archive may unpack to."""
        return min(self.bytes, max(self.ratio * path.stat().st_size, self.least))


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or a tar, by its content. Raises UserError where its first member can't be read."""
    with _sound(path):
        return zipfile.is_zipfile(path) or _is_tar(path)


def unpack(path: Path, target: Path, bounds: Bounds = Bounds()) -> None:
    """Unpack a zip or tar into `target`, whole or not at all. Raises UserError for a member that is no plain file inside it."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    allowance = _Allowance(path, bounds)
    try:
        with _sound(path):
            if zipfile.is_zipfile(path):
                _unpack_zip(path, partial, allowance)
            else:
                _unpack_tar(path, partial, allowance)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(target)


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """Turns what the libraries raise on a damaged archive into a UserError. An OSError with another number is the disk's own and passes."""
    try:
        yield
    except (UserError, RowError):
        raise
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _OF_ARCHIVE:
            raise
        raise UserError(f"{path.name} can't be unpacked ({error}): it is damaged or of an unsupported kind") from error


class _Member(tarfile.TarInfo):
    """A member whose header promises what one may have: `tarfile` believes it any size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """The member of a header."""
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0 or (member.type in _HEADERS and member.size > MAX_HEADER_BYTES):
            raise tarfile.ReadError(f"a header promises {member.size:,} bytes")
        return member


def _opened(path: Path) -> tarfile.TarFile:
    """A tar as a stream, with its first header read."""
    try:
        return tarfile.open(path, "r|*", tarinfo=_Member)
    except TypeError as error:  # what tarfile makes of a gzip header that ends early
        raise tarfile.ReadError("a header of gzip is cut") from error


def _is_tar(path: Path) -> bool:
    try:
        _opened(path).close()
    except tarfile.TarError:
        return False
    return True


class _Allowance:
    """Counts members and bytes against the bounds."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self._name, self._bounds = path.name, bounds
        self.most = bounds.most(path)
        self._members = self._bytes = 0

    def member(self, name: str) -> PurePosixPath:
        """The safe relative path of a member. Raises UserError for an unsafe one, and past the bound of members."""
        self._members += 1
        if self._members > self._bounds.members:
            raise UserError(f"{self._name} holds more than {self._bounds.members} members: unpack it yourself, and import the folder")
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0] or "\0" in name:
            raise UserError(f"{self._name} holds the unsafe name {shorten(name)}, which leads out of its folder: don't trust this archive")
        return path

    def refuse(self, name: str, kind: str) -> UserError:
        """The error for a member that is no file or folder."""
        return UserError(f"{self._name} holds {shorten(name)}, which is {kind}: don't trust this archive")

    def copy(self, source: Any, target: Path) -> None:
        """Write one member. Raises UserError past the bound of bytes, whatever the archive's own list of sizes says."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as stream:
            while block := source.read(_BLOCK):
                self._bytes += len(block)
                if self._bytes > self.most:
                    raise UserError(f"{self._name} unpacks to more than {self.most:,} bytes: unpack it yourself, and import the folder")
                stream.write(block)


def _unpack_zip(path: Path, target: Path, allowance: _Allowance) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            inside = allowance.member(member.filename)
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise allowance.refuse(member.filename, "a link or a device")
            if member.flag_bits & 1:
                raise allowance.refuse(member.filename, "encrypted")
            if not member.is_dir():
                with archive.open(member) as source:
                    allowance.copy(source, target / inside)
    target.mkdir(parents=True, exist_ok=True)


def _unpack_tar(path: Path, target: Path, allowance: _Allowance) -> None:
    with _opened(path) as archive:
        for member in _members(archive, allowance.most):
            inside = allowance.member(member.name)
            if not (member.isfile() or member.isdir()):
                raise allowance.refuse(member.name, "a link or a device")
            if member.isfile():
                allowance.copy(archive.extractfile(member), target / inside)
    target.mkdir(parents=True, exist_ok=True)


def _members(archive: tarfile.TarFile, most: int) -> Iterator[tarfile.TarInfo]:
    """The members of a tar opened as a stream. Raises ReadError where its end is missing: `tarfile` takes a cut header for the end.

    Raises it for a member of more than `most` bytes too: `tarfile` passes over it block by block, also where the file has ended. A sparse
    member has two sizes, of which the one in the file counts for that.
    """
    end = 0
    for member in archive:
        size, end = max(member.size, archive.offset - end), archive.offset
        if size > most + MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a member unpacks to more than {most:,} bytes")
        yield member
    if archive.fileobj is None or archive.fileobj.tell() < archive.offset + tarfile.BLOCKSIZE:
        raise tarfile.ReadError("its end is missing")


def is_webdataset(path: Path) -> bool:
    """Whether a tar's first samples are files of one name with different endings, of which one is JSON. Raises UserError if damaged."""
    with _sound(path), _opened(path) as archive:
        names = [member.name for member in itertools.islice(_members(archive, Bounds().most(path)), 64) if member.isfile()]
    keys: dict[str, set[str]] = {}
    for name in names:
        key, ending = _split_name(name)
        keys.setdefault(key, set()).add(ending)
    return bool(keys) and sum("json" in endings for endings in keys.values()) * 2 >= len(keys)


def samples(path: Path) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
    """The samples of a WebDataset tar, numbered from 1: the fields of its JSON, with its pictures' bytes as `image` or `images`.

    A picture that the JSON names itself takes the name's place; other pictures follow in the order of their endings.
    Raises UserError where the archive is damaged.
    """
    with _sound(path), _opened(path) as archive:
        members = (member for member in _members(archive, Bounds().most(path)) if member.isfile())
        for number, (_, group) in enumerate(itertools.groupby(members, key=lambda member: _split_name(member.name)[0]), start=1):
            try:
                yield number, _sample((member, archive.extractfile(member)) for member in group)
            except RowError as fault:
                yield number, fault


def _sample(members: Iterator[tuple[tarfile.TarInfo, Any]]) -> dict[str, Any]:
    row: dict[str, Any] | None = None
    pictures: dict[str, bytes] = {}
    for member, stream in members:
        ending = _split_name(member.name)[1]
        if ending == "json":
            row = parse_row(_read(stream, member, MAX_LINE_BYTES))
        elif f".{ending.rsplit('.', 1)[-1]}" in PICTURES:
            pictures[PurePosixPath(member.name).name] = _read(stream, member, MAX_IMAGE_BYTES)
    if row is None:
        raise RowError("json", "", "the sample has no .json file")
    return row if not pictures else row | _media_fields(row, pictures)


def _media_fields(row: dict[str, Any], pictures: dict[str, bytes]) -> dict[str, Any]:
    """The fields of a sample that name media, with the bytes beside each name."""
    field = next((name for name in ("images", "image", "img", "img_path", "image_path") if row.get(name)), None)
    named = row[field] if field is not None else None
    names = [item for item in (named if isinstance(named, list) else [named]) if isinstance(item, str)]
    by_name = [pictures.get(PurePosixPath(name).name) for name in names]
    values = by_name if names and all(by_name) else list(pictures.values())
    media = [{"bytes": value, "path": None} for value in values]
    if field is None:
        field = "image" if len(media) == 1 and not isinstance(row.get("messages"), list) else "images"
    return {field: media if isinstance(named, list) or field == "images" else media[0] if len(media) == 1 else media}


def _read(stream: BinaryIO, member: tarfile.TarInfo, most: int) -> bytes:
    if member.size > most:
        raise RowError("media_too_large", "", f"{shorten(member.name)} has {member.size:,} bytes, more than {most:,}")
    return stream.read()


def _split_name(name: str) -> tuple[str, str]:
    """A member's key and ending, as WebDataset divides them: at the first point of the file's name."""
    path = PurePosixPath(name)
    stem, _, ending = path.name.partition(".")
    return str(path.parent / (stem or path.name)), ending.lower()
