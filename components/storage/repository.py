"""Opens the checkout as a DVC repository, in this process.

`open_repository` can replace the text of params.yaml in memory: DVC then resolves templates, settings and run-cache keys by that text. The
file on disk stays unchanged, so a kill at any point leaves nothing to undo.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from dvc.fs import LocalFileSystem

from components.checkout import Checkout
from components.errors import UserError
from components.files import is_writable


class _WithSettings(LocalFileSystem):  # type: ignore[misc]
    """The local file system with a replaced text for one file."""

    replaced_path: str
    replaced_text: str

    def open(self, path: Any, mode: str = "r", **kwargs: Any) -> IO[Any]:
        """Open a file. Reading the replaced file returns `replaced_text`."""
        if mode in {"r", "rt", "rb"} and Path(path).absolute() == Path(self.replaced_path):
            return io.BytesIO(self.replaced_text.encode()) if "b" in mode else io.StringIO(self.replaced_text)
        return super().open(path, mode, **kwargs)  # type: ignore[no-any-return]


MERGED = ("dvc.yaml", "dvc.lock", "data.dvc")
CONFLICT = re.compile(rb"^(<{7}|>{7}) ", re.MULTILINE)


@contextmanager
def open_repository(checkout: Checkout, settings_text: str | None = None, *, wait_for_lock: bool = False) -> Iterator[Any]:
    """The `dvc.repo.Repo` of a checkout, with `settings_text` instead of params.yaml where given; closed afterwards."""
    from dvc.utils.strictyaml import YAMLSyntaxError, YAMLValidationError

    refuse_damaged(checkout)
    refuse_conflicts(checkout)
    logging.getLogger("dvc").setLevel(logging.ERROR)  # mmalign reports reasons itself
    file_system = None
    if settings_text is not None:
        file_system = _WithSettings()
        file_system.replaced_path = str(checkout.root.resolve() / "params.yaml")
        file_system.replaced_text = settings_text
    with ExitStack() as cleanup:
        repository = _opened(checkout, file_system, cleanup, wait_for_lock=wait_for_lock)
        cleanup.callback(repository.close)
        try:
            yield repository
        except (YAMLSyntaxError, YAMLValidationError) as error:  # DVC's schemas
            raise UserError(f"{' '.join(str(error).split())}: restore the file with git") from error
        except UnicodeEncodeError:  # DVC stores names as UTF-8, and stumbles over others wherever it meets them first
            refuse_unstorable(checkout)
            raise


def _opened(checkout: Checkout, file_system: LocalFileSystem | None, cleanup: ExitStack, *, wait_for_lock: bool) -> Any:
    """The repository. Where this user can't write to the checkout, readers take no lock, and DVC's notes lie in a folder of this process."""
    from dvc.config import ConfigError
    from dvc.exceptions import NotDvcRepoError
    from dvc.lock import LockNoop
    from dvc.repo import Repo

    root, notes = str(checkout.root.resolve()), checkout.dvc / "tmp"
    try:
        if wait_for_lock or is_writable(notes):
            return Repo(root, fs=file_system, _wait_for_lock=wait_for_lock)
        if notes.is_dir():
            repository = Repo(root, fs=file_system)
        else:
            temporary = cleanup.enter_context(TemporaryDirectory(prefix="mmalign-"))
            kind = type("ReadOnlyRepo", (Repo,), {"tmp_dir": temporary, "_ignore": lambda _: None})  # nor does git learn of that folder
            repository = kind(root, fs=file_system, config={"core": {"site_cache_dir": temporary}})
    except NotDvcRepoError as error:
        raise UserError(f"{root} has no .dvc folder, so DVC knows no stage here: run the command in a clone") from error
    except ConfigError as error:
        raise UserError(
            f"DVC can't read its settings ({' '.join(str(error).split())}): repair .dvc/config and .dvc/config.local"
        ) from error
    repository.lock = LockNoop()
    return repository


def refuse_damaged(checkout: Checkout) -> None:
    """Raises UserError for a file of DVC that is no YAML, or lacks what this checkout's files of DVC have."""
    import yaml

    for name in MERGED:
        path = checkout.root / name
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            if not CONFLICT.search(path.read_bytes()):
                raise UserError(f"{name} is damaged ({_first_words(error)}): restore it with git") from error
            continue
        if path.is_file() and not _is_whole(name, values):
            raise UserError(f"{name} {_WHOLE[name]}: restore it with git")


_WHOLE = {
    "dvc.yaml": "does not hold stages of which each lists its outs",
    "dvc.lock": "does not hold stages",
    "data.dvc": "does not name data as its one out",
}


def _is_whole(name: str, values: Any) -> bool:
    if not isinstance(values, dict):
        return False
    if name == "data.dvc":
        outs = values.get("outs")
        return isinstance(outs, list) and len(outs) == 1 and isinstance(outs[0], dict) and outs[0].get("path") == "data"
    stages = values.get("stages", {})
    return isinstance(stages, dict) and (
        name == "dvc.lock" or all(isinstance(stage, dict) and "outs" in stage for stage in stages.values())
    )


def _first_words(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def refuse_conflicts(checkout: Checkout) -> None:
    """Raises UserError for files of DVC that hold the marks of a merge; it names all of them."""
    names = [name for name in MERGED if (checkout.root / name).is_file() and CONFLICT.search((checkout.root / name).read_bytes())]
    if names:
        raise UserError(
            f"{', '.join(names)} {'holds' if len(names) == 1 else 'hold'} the marks of a merge conflict (<<<<<<<): resolve it, or take one side "
            f"whole with `git checkout --ours -- {' '.join(names)}` or --theirs; `mmalign run` then makes anew what differs"
        )


def refuse_unstorable(checkout: Checkout) -> None:
    """Raises UserError for the first file below data/ whose name is not UTF-8."""
    walked = os.walk(checkout.data)
    names = sorted(str(Path(above, name)) for above, folders, files in walked for name in (*folders, *files) if not _is_utf8(name))
    if names:
        first = ascii(os.path.relpath(names[0], checkout.root))
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise UserError(f"{first}{more} has a name that is not UTF-8, which DVC can't store: rename the file, or remove it")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
