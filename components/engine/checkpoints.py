"""Checkpoints that count only when they are whole.

- A checkpoint is a folder `checkpoint-N` of the scratch folder. It counts once its COMMITTED.json, which lists every file with size and
  sha256, is there: written last, atomically, after all ranks have written their part.
- Resuming takes the newest committed one whose files verify, each rank a part of them. What is unfinished or damaged is removed, with a
  sentence that says why.
- The scratch folder's name is a digest of the inputs' key, the training settings, the number of ranks and the library versions, since a
  resumed run gives the same bits only where all of them are the same.
- The folders hold torch pickles (DeepSpeed's own format), so they are read from the checkout's scratch only and never carried elsewhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.checkout import Checkout
from components.closures import code_digest
from components.errors import StageFault
from components.files import digest_bytes, digest_file, read_json, write_json

if TYPE_CHECKING:
    from components.config.section import Section
    from components.config.training import TrainingSettings
    from components.engine.ranks import RankContext
    from components.stages import StageName

COMMITTED = "COMMITTED.json"
FINISHED = "finished.json"
PREFIX = "checkpoint-"
LIBRARIES = ("torch", "transformers", "deepspeed")


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: where it lies, the steps it has behind it, and what the task asked to carry."""

    folder: Path
    step: int
    world: int
    extra: dict[str, Any]


def training_key(checkout: Checkout, stage: StageName, *, settings: Iterable[str], inputs: Iterable[Path]) -> str:
    """Digest of the stage's code, settings (as JSON), and input files and folders relative to the checkout; 16 hex digits."""
    parts = [code_digest(stage), *settings]
    for path in inputs:
        files = (
            sorted(p for p in (checkout.root / path).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
            if (checkout.root / path).is_dir()
            else [checkout.root / path]
        )
        parts += [part for file in files for part in (file.relative_to(checkout.root).as_posix(), digest_file(file))]
    return digest_bytes(*parts)[:16]


def scratch_root(checkout: Checkout, stage: str) -> Path:
    """The folder that holds the scratch folders of a stage."""
    return checkout.scratch() / stage


def scratch_folder(checkout: Checkout, stage: str, key: str, training: TrainingSettings, section: Section) -> Path:
    """The scratch folder of a run: equal inputs, settings, ranks and libraries give the same one."""
    # How often and how many checkpoints are kept does not change what is trained.
    settings = training.model_dump_json(exclude={"checkpoint_every", "keep_checkpoints"})
    name = digest_bytes(key, settings, section.model_dump_json(), *(version(library) for library in LIBRARIES))
    return scratch_root(checkout, stage) / name[:24]


def commit(folder: Path, step: int, world: int, extra: dict[str, Any], written: Mapping[str, dict[str, Any]] | None = None) -> None:
    """Mark `folder` as whole. Every rank must have finished writing into it; files in `written` were hashed by the ranks that wrote them."""
    files = dict(written or {})
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != COMMITTED)
    names = [name for path in paths if (name := path.relative_to(folder).as_posix()) not in files]
    for name, digest in zip(names, _digests(folder, names), strict=True):
        files[name] = {"bytes": (folder / name).stat().st_size, "sha256": digest}
    write_json(folder / COMMITTED, {"step": step, "world": world, "extra": extra, "files": files})


def newest(scratch: Path, context: RankContext, log: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is committed and undamaged, or None: all ranks verify its files together.

    Rank 0 removes newer ones that are neither, and its `log` gets the reason.
    """
    folders: list[Path] = context.gather(sorted(_folders(scratch), key=_step, reverse=True) if context.rank == 0 else [])[0]
    for folder in folders:
        checkpoint, fault = None, None
        try:
            checkpoint = read(folder, context.rank, context.world)
        except (OSError, ValueError, KeyError) as error:
            fault = str(error)
        faults = [other for other in context.gather(fault) if other is not None]
        if not faults:
            return checkpoint
        if context.rank == 0:
            log(f"{folder.name} is not used: {faults[0]}")
            shutil.rmtree(folder)
    return None


def resume(scratch: Path, context: RankContext, log: Callable[[str], None]) -> Checkpoint | None:
    """The checkpoint that all ranks continue from. Raises StageFault where another number of ranks wrote it."""
    checkpoint = newest(scratch, context, log)
    if checkpoint is not None and checkpoint.world != context.world:
        raise StageFault(f"{checkpoint.folder} was written by {checkpoint.world} ranks, not {context.world}: remove it to start again")
    return checkpoint


def read(folder: Path, rank: int = 0, ranks: int = 1) -> Checkpoint:
    """Read a checkpoint and verify the part of its files that falls to `rank`; all sizes.

    Raises ValueError, OSError or KeyError with the reason where it does not count.
    """
    if not (folder / COMMITTED).is_file():
        raise ValueError("it was not finished")
    mark = read_json(folder / COMMITTED)
    files: dict[str, dict[str, Any]] = mark["files"]
    for name, expected in files.items():
        if not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
        size = (folder / name).stat().st_size
        if size != expected["bytes"]:
            raise ValueError(f"{name} has {size} bytes, not {expected['bytes']}")
    own = sorted(files, key=lambda name: -files[name]["bytes"])[rank::ranks]
    for name, digest in zip(own, _digests(folder, own), strict=True):
        if digest != files[name]["sha256"]:
            raise ValueError(f"{name} is damaged")
    return Checkpoint(folder, int(mark["step"]), int(mark["world"]), dict(mark["extra"]))


def rotate(scratch: Path, keep: int) -> None:
    """Remove all but the newest `keep` committed checkpoints."""
    committed = sorted((folder for folder in _folders(scratch) if (folder / COMMITTED).is_file()), key=_step)
    for folder in committed[:-keep]:
        # Without its mark first: a kill while the folder is removed must not leave a half that looks whole.
        (folder / COMMITTED).unlink()
        shutil.rmtree(folder)


def remove_finished(checkout: Checkout, stage: str, but: Path | None = None) -> list[Path]:
    """Remove the scratch folders of a stage whose runs have ended well, except `but`. Returns what was removed."""
    folders = sorted(path.parent for path in scratch_root(checkout, stage).glob(f"*/{FINISHED}") if path.parent != but)
    for folder in folders:
        shutil.rmtree(folder)
    return folders


def _folders(scratch: Path) -> list[Path]:
    return [path for path in scratch.glob(f"{PREFIX}*") if path.is_dir() and path.name.removeprefix(PREFIX).isdecimal()]


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix(PREFIX))


def _digests(folder: Path, names: list[str]) -> list[str]:
    with ThreadPoolExecutor(max_workers=4) as pool:  # hashing releases the interpreter's lock
        return list(pool.map(lambda name: digest_file(folder / name), names))
