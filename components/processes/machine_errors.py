"""Sentences for errors of the operating system that a person can repair: a full disk, a folder of another user, too few open files.

- Python's own text names the file at most, and often nothing: a write that fails on a full disk has no name.
- A full disk ends a run as a fault of the machine, which a schedule tries again. The other two are mistakes: a retry changes nothing.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import tempfile
from pathlib import Path

from components.checkout import Checkout

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
FULL_OF_SQLITE = "database or disk is full"
REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
TOO_MANY_FILES = frozenset({errno.EMFILE})
LIMIT_CURE = "raise the limit (ulimit -n 4096 in the shell, LimitNOFILE of a systemd unit, --ulimit nofile of a container), and start again"
WANTED_FILES = 4096
SMALL_BYTES = 50_000_000  # with less free, a file system counts as full: a write of some megabytes failed on it


def is_refused(error: BaseException) -> bool:
    """Whether the system refused a file to this user, or one more open file to this process."""
    return isinstance(error, OSError) and (error.errno in TOO_MANY_FILES or (error.errno in REFUSED and error.filename is not None))


def described(error: BaseException) -> str | None:
    """What went wrong and what to do, in one sentence; None for every other error."""
    if not isinstance(error, OSError):
        return described(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) if FULL_OF_SQLITE in str(error) else None
    if error.errno in FULL:
        return f"{_full_disk(error)}: make room (mmalign clean), and start again, finished work stays"
    if error.errno in TOO_MANY_FILES:
        return f"a process may have {open_file_limit()} files open here, which are too few: {LIMIT_CURE}"
    if error.errno == errno.EROFS and error.filename is not None:
        return f"{error.filename} lies on a file system without the right to write: mount it with that right, or work in another clone"
    if error.errno in REFUSED and error.filename is not None:
        return f"this user may not open or change {error.filename}: have its owner grant the right (chown, chmod), or work in a clone of your own"
    return None


def described_by_words(text: str) -> str | None:
    """As `described` for a full disk, by the text that another program wrote."""
    return next((described(OSError(number, os.strerror(number))) for number in sorted(FULL) if os.strerror(number) in text), None)


def full_disk_of(log: Path) -> str | None:
    """As `described` where the disk of a log has no room, so that the log itself can't tell."""
    full = log.parent.is_dir() and shutil.disk_usage(log.parent).free < SMALL_BYTES
    return described(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) if full else None


def open_file_limit() -> int:
    """Files that a process may have open at a time."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 2**31


def raise_open_file_limit() -> None:
    """Let this process and its children have more files open, as far as the system allows without rights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < WANTED_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_FILES), hard))


def _full_disk(error: OSError) -> str:
    """The disk of the file that could not be written. Without its name: the disks of this checkout and of temporary files that have no room."""
    reason = (error.strerror or "no space left").lower()
    if error.filename is not None:
        return f"the disk of {error.filename} is full ({reason})"
    here = Checkout(Path()).absolute()
    folders = (here.root, here.state, here.dvc / "cache", here.artifacts, here.logs, here.mlruns, here.reports, Path(tempfile.gettempdir()))
    full = dict.fromkeys(str(folder) for folder in folders if folder.is_dir() and shutil.disk_usage(folder).free < SMALL_BYTES)
    return f"a disk is full ({reason})" + (f", that of {' or '.join(full)}" if full else "")
