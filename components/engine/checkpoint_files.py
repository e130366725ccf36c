"""Writes this rank's files of a checkpoint, behind training where the machine's memory has room for a copy of them.

- A file's tensors are copied to the machine's memory; a thread writes the copy and hashes the file while training continues.
- A small file, and one whose copy has no room, is written from the tensors themselves, and training waits.
- Each rank hashes what it wrote itself, so that no rank reads another's files.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.files import digest_file
from components.processes.host import available_memory

SMALL_BYTES = 1 << 25  # a file is written as fast as copied
ROOM = 2.0  # free memory a copy needs, in its size: the step that runs meanwhile allocates too

Files = dict[str, dict[str, Any]]  # by path in the checkpoint: bytes, sha256


class CheckpointFiles:
    """The files of one checkpoint after the other. Ranks that share this machine's memory are counted by `ranks`."""

    def __init__(self, ranks: int | None = None) -> None:
        self._ranks = ranks or int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._written: list[Future[tuple[str, dict[str, Any]]]] = []
        self._folder = Path()

    def begin(self, folder: Path) -> None:
        """The next files are those of the checkpoint `folder`."""
        assert not self._written, "the files of the checkpoint before were not taken"
        self._folder = folder

    def write(self, state: Any, path: Path) -> None:
        """Write `state`, nested dictionaries and lists with tensors, as torch.save does. The caller may change the tensors at once."""
        name = path.relative_to(self._folder).as_posix()
        size = tensor_bytes(state)
        if size >= SMALL_BYTES and size * self._ranks * ROOM <= available_memory()[0]:
            self._written.append(self._thread.submit(_write, copied(state), path, name))
        else:
            for earlier in self._written:
                earlier.result()  # and with it its copy is freed
            finished: Future[tuple[str, dict[str, Any]]] = Future()
            finished.set_result(_write(compact(state), path, name))
            self._written.append(finished)

    @property
    def unfinished(self) -> bool:
        """Whether files are still being written."""
        return not all(file.done() for file in self._written)

    def take(self) -> Files:
        """The files of the checkpoint, once all are written. Raises what writing one raised."""
        written, self._written = self._written, []
        return dict(file.result() for file in written)


def copied(state: Any) -> Any:
    """`state` with its tensors copied to memory that nothing else changes. Views of one storage that are the same stay one tensor."""
    copies: dict[Any, Tensor] = {}

    def copy_once(tensor: Tensor) -> Tensor:
        key = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if key not in copies or not tensor.numel():
            copies[key] = tensor.detach().to("cpu", copy=True)
        return copies[key]

    return _mapped(state, copy_once)


def compact(state: Any) -> Any:
    """`state` with a copy in place of each view of a larger storage, which torch.save would write whole."""
    return _mapped(state, lambda tensor: tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor)


def tensor_bytes(state: Any) -> int:
    """Bytes of all tensors in `state`."""
    total = 0

    def add(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.nbytes
        return tensor

    _mapped(state, add)
    return total


def _mapped(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, dict):
        mapped = copy.copy(state)  # of its own type, with what torch attaches to it
        for key, value in state.items():
            mapped[key] = _mapped(value, change)
        return mapped
    if type(state) in (list, tuple):
        return type(state)(_mapped(value, change) for value in state)
    return state


def _write(state: Any, path: Path, name: str) -> tuple[str, dict[str, Any]]:
    torch.save(state, path)
    return name, {"bytes": path.stat().st_size, "sha256": digest_file(path)}
