"""A slot is a file that its holder locks (flock), in a folder that all users and checkouts of this machine share.

- The system releases the lock when its holder ends. The file names the holder for people; no code trusts that text.
- The folder is root's and sticky, so nobody can replace a locked file. `try_slot` refuses links, pipes and other special files. It locks
  another user's file even where it cannot write to it.
- A killed holder may leave ranks that still use the GPU. The file names their mark: the slot is free once they have ended.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import re
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from components.checkout import Checkout
from components.errors import UserError
from components.processes.marks import STAGE_MARK, marked

FOLDER = "MMALIGN_SLOTS"  # names another folder: for containers that share GPUs, and for tests
SHARED_FOLDERS = (Path("/run/lock"), Path("/tmp"))  # noqa: S108 -- files in it are opened with care, see `_open`
PREFIX, SUFFIX = "mmalign-", ".lock"
TEXT_BYTES = 4096  # of a file that others may have written


@dataclass(frozen=True)
class Holder:
    """The holder of a slot: its pid (in its own namespace), checkout, stage, start (UTC, ISO) and user."""

    checkout: str
    stage: str
    pid: int
    since: str
    user: str
    mark: str = ""  # in the environment of all processes of the stage

    @classmethod
    def here(cls, checkout: Checkout, stage: str) -> Holder:
        """This process, for `stage` of `checkout`."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(str(checkout.root.resolve()), stage, os.getpid(), since, _user(), os.environ.get(STAGE_MARK, ""))

    def __str__(self) -> str:
        return f"stage {self.stage} of {self.checkout} (process {self.pid} of {self.user}, since {self.since})"


class Slot:
    """A slot that this process holds until `release`, or until it ends."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the slot."""
        with suppress(OSError):  # another user's file, which this process never wrote
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def slots_folder() -> Path:
    """The folder of the slots' files, the same for every user. Raises UserError where no folder is safe."""
    named = os.environ.get(FOLDER)
    if named:
        folder = Path(named)
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o1777)
        return folder
    for folder in (shared.resolve() for shared in SHARED_FOLDERS):
        if folder.is_dir() and _is_shared(folder.stat()):
            return folder
    names = " nor ".join(str(folder) for folder in SHARED_FOLDERS)
    raise UserError(f"neither {names} is a sticky folder of root (mode 1777) for locks: name another folder in {FOLDER}")


def slot_file(name: str) -> Path:
    """The file of a slot such as `gpu-0` or `cpu`."""
    return slots_folder() / f"{PREFIX}{re.sub(r'[^A-Za-z0-9._-]', '_', name)}{SUFFIX}"


def slot_names() -> list[str]:
    """The slots that any process on this machine ever took."""
    return sorted(path.name.removeprefix(PREFIX).removesuffix(SUFFIX) for path in slots_folder().glob(f"{PREFIX}*{SUFFIX}"))


def try_slot(name: str, holder: Holder) -> Slot | None:
    """Take a slot; None while a process holds it, or ranks of its killed holder live. Raises UserError for a file that can't be locked."""
    path = slot_file(name)
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(descriptor, path):
                os.close(descriptor)
                continue  # somebody removed the file meanwhile: the next process would lock a new one
        except BlockingIOError:
            os.close(descriptor)
            return None
        before = _read(descriptor)
        # This stage's own mark stands in a slot that the stage held before.
        if before is not None and before.mark and before.mark != holder.mark and marked(STAGE_MARK, before.mark):
            os.close(descriptor)
            return None
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(holder)).encode(), 0)
        return Slot(name, descriptor)


def slot_holder(name: str) -> Holder | None:
    """The holder of a slot; None for a free one. On a free slot this takes a shared lock for an instant."""
    path = slot_file(name)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(descriptor) or Holder("an unknown checkout", "unknown", 0, "an unknown time", _owner(descriptor))
    finally:
        os.close(descriptor)
    return None


def _open(path: Path) -> int:
    """Open a slot's file, or create it. An existing file is opened without O_CREAT, which the kernel refuses for another user's file."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            try:
                descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
                os.fchmod(descriptor, 0o666)  # whatever the umask: other users write their names into it
            except FileExistsError:
                descriptor = os.open(path, flags)
        except PermissionError:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise UserError(f"{path} can't be locked ({error.strerror}): remove it, or name another folder for locks in {FOLDER}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise UserError(f"{path} is a link or no plain file: remove it, or name another folder for locks in {FOLDER}")
    return descriptor


def _is_shared(status: os.stat_result) -> bool:
    return status.st_uid == 0 and status.st_mode & 0o1002 == 0o1002


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> Holder | None:
    try:
        noted = json.loads(os.pread(descriptor, TEXT_BYTES, 0))
        texts = {name: _plain(noted[name]) for name in ("checkout", "stage", "since", "user", "mark")}
        return Holder(pid=int(noted["pid"]), **texts)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _plain(text: object) -> str:
    """Text from a file that any user may write, cut and without control characters."""
    return "".join(character for character in str(text)[:500] if character.isprintable())


def _user() -> str:
    return _name_of(os.geteuid())


def _owner(descriptor: int) -> str:
    return _name_of(os.fstat(descriptor).st_uid)


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
