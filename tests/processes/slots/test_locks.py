from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.processes.slots import locks
from components.processes.slots.locks import Holder, slot_file, slot_holder, slot_names, slots_folder, try_slot

NOBODY = 65534


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of slots for all users."""
    made = Path(tempfile.mkdtemp(prefix="mmalign-slots-"))
    made.chmod(0o1777)
    monkeypatch.setenv("MMALIGN_SLOTS", str(made))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def me(tmp_path: Path) -> Holder:
    return Holder.here(Checkout(tmp_path), "reward")


def test_slot_is_taken_once_and_file_names_holder(folder: Path, me: Holder) -> None:
    assert slot_holder("gpu-0") is None
    slot = try_slot("gpu-0", me)
    assert slot is not None
    assert try_slot("gpu-0", me) is None
    assert slot_holder("gpu-0") == me
    assert (me.pid, me.stage) == (os.getpid(), "reward")
    assert json.loads((folder / "mmalign-gpu-0.lock").read_text()) == asdict(me)
    slot.release()
    assert slot_holder("gpu-0") is None
    second = try_slot("gpu-0", me)
    assert second is not None
    second.release()
    assert slot_names() == ["gpu-0"]


def test_gpu_names_cannot_leave_slots_folder(folder: Path) -> None:
    assert slot_file("gpu-../../etc/x").parent == folder
    assert slot_file("gpu-../../etc/x").name == "mmalign-gpu-.._.._etc_x.lock"


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe", "folder"])
def test_special_files_are_refused_and_unchanged(folder: Path, me: Holder, kind: str) -> None:
    precious, path = folder / "precious", folder / "mmalign-cpu.lock"
    precious.write_text("kept")
    {
        "link": lambda: path.symlink_to(precious),
        "dangling link": lambda: path.symlink_to(folder / "made"),
        "hard link": lambda: path.hardlink_to(precious),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[kind]()
    with pytest.raises(UserError, match=r"mmalign-cpu\.lock .*MMALIGN_SLOTS"):
        try_slot("cpu", me)
    assert precious.read_text() == "kept"
    assert not (folder / "made").exists()


def test_slot_file_is_writable_for_all_despite_umask(folder: Path, me: Holder) -> None:
    before = os.umask(0o077)
    try:
        slot = try_slot("cpu", me)
    finally:
        os.umask(before)
    assert slot is not None
    assert stat.S_IMODE((folder / "mmalign-cpu.lock").stat().st_mode) == 0o666
    slot.release()


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed")
def test_unwritable_slot_file_is_locked_anyway(folder: Path) -> None:
    path = folder / "mmalign-cpu.lock"
    path.touch()
    path.chmod(0o644)
    # The imports come before setuid, since the other user may not read this checkout.
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom components.checkout import Checkout\nfrom components.processes.slots.locks import Holder, try_slot\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "slot = try_slot('cpu', Holder.here(Checkout(Path('/')), 'align'))\nprint(slot is not None, flush=True)\nsys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(locks.__file__).parents[3])}
    holding = subprocess.Popen([sys.executable, "-c", script], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holding.stdout is not None
    assert holding.stdout.readline() == "True\n"
    holder = slot_holder("cpu")
    assert holder is not None
    assert (holder.stage, holder.pid) == ("unknown", 0)
    assert path.read_bytes() == b""
    holding.communicate("")
    assert holding.returncode == 0
    assert slot_holder("cpu") is None


def test_foreign_text_is_cut_and_without_control_codes(folder: Path, me: Holder) -> None:
    slot = try_slot("cpu", me)
    assert slot is not None
    path = folder / "mmalign-cpu.lock"
    path.write_text(json.dumps({**asdict(me), "checkout": "\x1b[31m" + "x" * 900}))
    holder = slot_holder("cpu")
    assert holder is not None
    assert holder.checkout == "[31m" + "x" * 495
    path.write_text("{")
    unknown = slot_holder("cpu")
    assert unknown is not None
    assert unknown.stage == "unknown"
    slot.release()


def test_removed_slot_file_is_locked_anew(folder: Path, me: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on a removed file is worthless, since the next process locks a new file of that name."""
    path = folder / "mmalign-cpu.lock"
    opened = locks._open

    def open_and_lose(at: Path) -> int:
        descriptor = opened(at)
        monkeypatch.setattr(locks, "_open", opened)
        path.unlink()
        return descriptor

    monkeypatch.setattr(locks, "_open", open_and_lose)
    slot = try_slot("cpu", me)
    assert slot is not None
    assert slot_holder("cpu") == me
    slot.release()


def test_default_folder_is_sticky_and_owned_by_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MMALIGN_SLOTS")
    mine = tmp_path / "mine"
    mine.mkdir()
    mine.chmod(0o777)
    sticky = next(shared for shared in (Path("/run/lock"), Path("/tmp")) if shared.is_dir() and shared.stat().st_mode & 0o1777 == 0o1777)  # noqa: S108
    monkeypatch.setattr(locks, "SHARED_FOLDERS", (mine, tmp_path / "missing", sticky))
    assert slots_folder() == sticky.resolve()
    monkeypatch.setattr(locks, "SHARED_FOLDERS", (mine,))
    with pytest.raises(UserError, match="name another folder in MMALIGN_SLOTS"):
        slots_folder()


def test_named_folder_is_created_for_all_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MMALIGN_SLOTS", str(tmp_path / "a/slots"))
    assert stat.S_IMODE(slots_folder().stat().st_mode) == 0o1777
