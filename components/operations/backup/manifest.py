"""The list of a backup's files, with checksums. It is written last: a folder without it is no backup."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import TypeAdapter

from components.errors import UserError
from components.files import digest_bytes, digest_file, read_json, write_json
from components.operations.backup.contents import SETTINGS, STATE_FILES

MANIFEST = "manifest.json"
FORMAT = 1
Kind = Literal["services", "sqlite"]  # holds the record: the services of `mmalign up`, or mlflow.db
PROGRAMS = {"prefect": "Prefect", "mlflow": "MLflow"}
# Where a backup has files, and so where a restore writes: settings and state by name, databases, artifacts, objects of DVC's cache.
PLACES = re.compile(
    rf"checkout/(?:{'|'.join(re.escape(name) for name in SETTINGS)})|state/(?:{'|'.join(re.escape(name) for name in STATE_FILES)})"
    r"|databases/[a-z_]+\.(?:db|dump)|artifacts\.json|artifacts/[^/](?:.*[^/])?|cache/[0-9a-f]{2}/[0-9a-f]{30}(?:\.dir)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Manifest:
    """`files` maps each path in the backup to its sha256; `versions` gives the version of each program with tables in it."""

    kind: Kind
    made: str
    root: str
    git_sha: str | None
    versions: dict[str, str]
    bucket: str | None
    external_database: bool
    files: dict[str, str]
    format: int = FORMAT

    @property
    def identity(self) -> str:
        """A digest that no other backup has."""
        return digest_bytes(self.made, *(part for name in sorted(self.files) for part in (name, self.files[name])))

    def below(self, folder: str) -> Iterator[tuple[str, str]]:
        """The path in `folder` and the sha256 of each file below it."""
        for name, sha256 in self.files.items():
            if name.startswith(f"{folder}/"):
                yield name.removeprefix(f"{folder}/"), sha256


def installed_versions() -> dict[str, str]:
    """The installed versions of the programs that read a backup's tables."""
    return {name: metadata.version(name) for name in PROGRAMS}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, which makes `folder` a backup."""
    write_json(folder / MANIFEST, asdict(manifest))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a backup. Raises UserError where it is missing, damaged, or of another format."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: name the folder of a backup")
    if not path.is_file():
        raise UserError(f"{folder} has no {MANIFEST}: it is no backup, or its backup was cut short; name another one")
    try:
        values: dict[str, Any] = read_json(path)
        if values["format"] != FORMAT:
            raise UserError(
                f"{path} has format {values['format']}, and this version reads {FORMAT}: restore with the version that wrote it"
            )
        manifest = TypeAdapter(Manifest).validate_python(values)
        names = [str(name) for name in manifest.files]
        for name in PROGRAMS:
            _ = numbers(manifest.versions[name])[0]
    except (ValueError, LookupError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged ({type(error).__name__}): name another backup") from error
    strange = [name for name in names if ".." in PurePosixPath(name).parts or not PLACES.fullmatch(name)]
    if strange:
        raise UserError(f"{path} names {strange[0]!r}, where no backup has a file: name a backup that `mmalign backup` made")
    return manifest


def verify(folder: Path, manifest: Manifest, log: Callable[[str], None]) -> None:
    """Compare every file with its checksum. Raises UserError, which names the first file that is missing or differs."""
    log(f"checking {len(manifest.files):,} files")
    for name, sha256 in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise UserError(f"{path} is missing from the backup, so nothing was restored: name another backup")
        if digest_file(path) != sha256:
            raise UserError(f"{path} is damaged (its checksum differs), so nothing was restored: name another backup")


def check_versions(manifest: Manifest, postgres: str | None) -> None:
    """Raises UserError where the installed programs can't read the backup's tables. `postgres` is the version of this server.

    A newer program of the same major version migrates older tables; an older program can't read newer ones. Every newer PostgreSQL server
    loads dumps of an older one.
    """
    for name, installed in installed_versions().items():
        saved = manifest.versions[name]
        if numbers(saved)[0] != numbers(installed)[0] or numbers(saved) > numbers(installed):
            raise UserError(
                f"the backup holds tables of {PROGRAMS[name]} {saved}, and the installed {installed} may not read them: "
                f"restore with the version of mmalign that made it (git checkout {manifest.git_sha or 'THAT_COMMIT'}; make install)"
            )
    saved = manifest.versions.get("postgresql", "")
    if saved and postgres and numbers(saved)[:1] > numbers(postgres)[:1]:
        raise UserError(f"the backup comes from PostgreSQL {saved}, and this older server {postgres} can't load it: use a newer server")


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (18, 6) for "18.6 (Debian)"."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition(" ")[0])[:3])
