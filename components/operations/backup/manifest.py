"""The list of what a backup holds, with checksums. It is written last: a folder without it is no backup."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from components.errors import UserError
from components.files import digest_bytes, digest_file, read_json, write_json

MANIFEST = "manifest.json"
FORMAT = 1
Kind = Literal["services", "sqlite"]  # where the record is kept: by `mmalign up`, or in mlflow.db
PROGRAMS = {"prefect": "Prefect", "mlflow": "MLflow"}


@dataclass(frozen=True)
class Manifest:
    """`files` maps each file's path in the backup to its sha256; `versions` names the programs whose tables are in it."""

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
        """What tells this backup from all others."""
        return digest_bytes(self.made, *(part for name in sorted(self.files) for part in (name, self.files[name])))

    def below(self, folder: str) -> Iterator[tuple[str, str]]:
        """Path in `folder`, and sha256, of each file there."""
        for name, sha256 in self.files.items():
            if name.startswith(f"{folder}/"):
                yield name.removeprefix(f"{folder}/"), sha256


def installed_versions() -> dict[str, str]:
    """Versions of the programs that read the tables of a backup."""
    return {name: metadata.version(name) for name in PROGRAMS}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Make the backup in `folder` one."""
    write_json(folder / MANIFEST, asdict(manifest))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a backup. Raises UserError where there is none, or one that this version can't read."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise UserError(f"{folder} is not there: name the folder of a backup")
    if not path.is_file():
        raise UserError(f"{folder} has no {MANIFEST}: it is no backup, or one that was cut short before its end; take another one")
    try:
        values: dict[str, Any] = read_json(path)
        if values["format"] != FORMAT:
            raise UserError(f"{path} has format {values['format']}, and this version reads {FORMAT}: restore with the version that made it")
        manifest = Manifest(**values)
        names = [PurePosixPath(name) for name in manifest.files]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged ({type(error).__name__}): take another backup") from error
    strange = [str(name) for name in names if name.is_absolute() or ".." in name.parts]
    if strange:
        raise UserError(f"{path} names {strange[0]}, which lies outside of the backup: it was not made by `mmalign backup`")
    return manifest


def verify(folder: Path, manifest: Manifest, say: Callable[[str], None]) -> None:
    """Compare every file with its checksum. Raises UserError that names the first that is missing or differs."""
    say(f"checking {len(manifest.files):,} files")
    for name, sha256 in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise UserError(f"{path} is missing from the backup: nothing was restored; take another backup")
        if digest_file(path) != sha256:
            raise UserError(f"{path} is not what was backed up (its checksum differs): nothing was restored; take another backup")


def check_versions(manifest: Manifest, postgres: str | None) -> None:
    """Raises UserError where the tables of the backup can't be read by what is installed. `postgres` is the server's version here.

    A newer version of the same major one migrates tables that it is given; an older one can't read them. PostgreSQL's dumps go into every
    newer server.
    """
    for name, here in installed_versions().items():
        there = manifest.versions[name]
        if numbers(there)[0] != numbers(here)[0] or numbers(there) > numbers(here):
            raise UserError(
                f"the backup holds tables of {PROGRAMS[name]} {there}, and {here} is installed, which may not read them: "
                f"restore with the version of mmalign that made it (git checkout {manifest.git_sha or 'of that time'}; make install)"
            )
    there = manifest.versions.get("postgresql", "")
    if there and postgres and numbers(there)[0] > numbers(postgres)[0]:
        raise UserError(
            f"the backup comes from PostgreSQL {there}, and here is {postgres}: an older server can't take it; bring a newer one"
        )


def numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: (18, 6) of "18.6 (Debian)"."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split(maxsplit=1)[0])[:3])
