"""The files of rows that a source holds, and their rows: JSON, Parquet, the folders of Hugging Face's `datasets`, WebDataset tars.

All are streamed. A row of a table has the number of its row in the file, a row of JSON that of its line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.errors import UserError
from components.files import is_file_name, read_json
from components.preferences.faults import RowError
from components.preferences.importing.archives import is_archive, is_webdataset, samples, unpack
from components.preferences.json_rows import raw_rows

Container = Literal["json", "parquet", "arrow", "webdataset"]
Raw = bytes | dict[str, Any] | RowError | None  # JSON text not yet parsed, a table's row, or a fault; None is an overlong row

SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
DEFAULT_SPLIT = "train"
HUB = "hf:"
BATCH_ROWS = 64  # of a table; rows with pictures are large
_DESCRIPTIONS = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "package.json"})
_SPLIT = re.compile(rf"(?:^|[/_-])({'|'.join(SPLITS)})(?=$|[/_.-])")


@dataclass(frozen=True)
class RowFile:
    """One file of rows; `name` is what messages call it."""

    path: Path
    container: Container
    name: str


@dataclass(frozen=True)
class Source:
    """The files of rows in their order, the folder that holds all media, and sentences about what is left out.

    Media paths are relative to that folder, or to the one that holds the files of rows.
    """

    files: tuple[RowFile, ...]
    media: Path
    notes: tuple[str, ...] = ()

    @property
    def beside(self) -> Path:
        """The folder that holds the files of rows."""
        return Path(os.path.commonpath([file.path.absolute().parent for file in self.files]))


def open_source(source: str, unpacked: Path, split: str | None = None) -> Source:
    """The rows of a file, a folder, an archive, or `hf:ID`. An archive is unpacked into `unpacked`. Raises UserError."""
    if source.startswith(HUB):
        return _folder(_fetched(source.removeprefix(HUB)), split)
    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(f"{source} does not exist: name a file, a folder, an archive, or {HUB}OWNER/NAME")
    if path.is_dir():
        return _folder(path, split)
    if not path.is_file():
        raise UserError(f"{source} is no regular file: name a file, a folder or an archive")
    container = _container(path)
    if container is not None:
        return Source((RowFile(path, container, path.name),), path.parent)
    if not unpacked.is_dir():
        unpack(path, unpacked)
    return _folder(unpacked, split)


def rows_of(file: RowFile) -> Iterator[tuple[int, Raw]]:
    """The rows of a file with their numbers."""
    if file.container == "json":
        with file.path.open("rb") as stream:
            yield from raw_rows(stream)
    elif file.container == "webdataset":
        yield from samples(file.path)
    else:
        for number, row in enumerate(_table_rows(file), start=1):
            yield number, {name: value for name, value in row.items() if value is not None}


def _table_rows(file: RowFile) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet or Arrow file. Raises UserError for a damaged one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.container == "parquet":
            with pq.ParquetFile(file.path, memory_map=True) as table:
                for batch in table.iter_batches(BATCH_ROWS):
                    yield from batch.to_pylist()
            return
        with pa.memory_map(str(file.path)) as mapped:
            for batch in _arrow_batches(mapped):
                batch.validate(full=True)  # Arrow trusts the file, and reads beyond its memory where an offset is wrong
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    yield from batch.slice(start, BATCH_ROWS).to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{file.name} can't be read ({' '.join(str(error).split())}): it is damaged, or no table") from error


def _arrow_batches(mapped: Any) -> Iterator[Any]:
    """The batches of either of Arrow's two layouts."""
    import pyarrow as pa

    try:
        stream = pa.ipc.open_stream(mapped)
    except pa.ArrowInvalid:
        layout = pa.ipc.open_file(mapped)
        return (layout.get_batch(index) for index in range(layout.num_record_batches))
    return iter(stream)


def _container(path: Path) -> Container | None:
    """How a file holds its rows, by its content; None for an archive that must be unpacked."""
    with path.open("rb") as stream:
        beginning = stream.read(8)
    if beginning.startswith(b"PAR1"):
        return "parquet"
    if beginning.startswith((b"ARROW1", b"\xff\xff\xff\xff")) and path.suffix in {".arrow", ".feather"}:
        return "arrow"
    if path.suffix in {".jsonl", ".json", ".ndjson"} or not is_archive(path):
        return "json"
    return "webdataset" if path.suffix != ".zip" and not beginning.startswith(b"PK") and is_webdataset(path) else None


def _folder(folder: Path, split: str | None) -> Source:
    if (folder / "dataset_dict.json").is_file():  # datasets.DatasetDict.save_to_disk
        names = tuple(_listed(folder / "dataset_dict.json", "splits"))
        if not all(is_file_name(name) for name in names):
            raise UserError(f"{folder}/dataset_dict.json names splits that are no folders of it: don't trust this folder")
        chosen, notes = _choose(names, split, folder)
        return Source(_arrow_files(folder / chosen), folder, notes)
    if (folder / "state.json").is_file():  # datasets.Dataset.save_to_disk
        return Source(_arrow_files(folder), folder)
    for container, endings in (("parquet", (".parquet",)), ("webdataset", (".tar",)), ("json", (".jsonl", ".json", ".ndjson"))):
        paths = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix in endings and path.is_file() and path.name not in _DESCRIPTIONS and not _hidden(path.relative_to(folder))
        )
        if paths:
            return _of_split(folder, paths, container, split)
    raise UserError(f"{folder} holds no rows: no Parquet, Arrow, tar, JSON or JSON Lines file")


def _of_split(folder: Path, paths: list[Path], container: Any, split: str | None) -> Source:
    """The files of one split. Files that are no shards of one another are not mixed: somebody must name one."""
    of_split: dict[str, list[Path]] = {}
    for path in paths:
        matched = _SPLIT.search(path.relative_to(folder).as_posix())
        of_split.setdefault(matched[1] if matched else "", []).append(path)
    notes: tuple[str, ...] = ()
    if len(of_split) > 1 or split is not None:
        chosen, notes = _choose(tuple(of_split), split, folder)
        paths = of_split[chosen]
    stems = {re.sub(r"[\d._-]*\d[\d._-]*(of[\d._-]+)?$", "", path.stem) for path in paths}
    if len(stems) > 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in paths[:6])
        raise UserError(f"{folder} holds {len(paths)} files of rows that are no shards of one set ({names}): name one of them")
    return Source(tuple(RowFile(path, container, path.relative_to(folder).as_posix()) for path in paths), folder, notes)


def _choose(names: tuple[str, ...], split: str | None, folder: Path) -> tuple[str, tuple[str, ...]]:
    chosen = split or (DEFAULT_SPLIT if DEFAULT_SPLIT in names else names[0] if len(names) == 1 else None)
    shown = ", ".join(name or "without a split's name" for name in names)
    if chosen not in names:
        raise UserError(f"{folder} holds the splits {shown}: name one with --split")
    left = [name for name in names if name != chosen]
    return chosen, (f"of the splits {shown}, {chosen} is imported (--split names another)",) if left else ()


def _arrow_files(folder: Path) -> tuple[RowFile, ...]:
    if not (folder / "state.json").is_file():
        raise UserError(f"{folder} holds no state.json: it is no folder of datasets.save_to_disk")
    names: list[Any] = [
        entry.get("filename") if isinstance(entry, dict) else None for entry in _listed(folder / "state.json", "_data_files")
    ]
    if not all(is_file_name(name) for name in names):
        raise UserError(f"{folder}/state.json names files of other folders: don't trust this folder")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} lacks {missing[0]}, which its state.json names: fetch the data again")
    return tuple(RowFile(folder / name, "arrow", name) for name in names)


def _listed(path: Path, key: str) -> list[Any]:
    """A list in a description of datasets.save_to_disk. Raises UserError where there is none."""
    try:
        values = read_json(path)
        names = values[key]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(f"{path} lists no {key}: it is damaged, or no description of datasets.save_to_disk") from error
    if not isinstance(names, list):
        raise UserError(f"{path} lists no {key}: it is damaged, or no description of datasets.save_to_disk")
    return names


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)


def _fetched(name: str) -> Path:
    """The folder of a data set on the hub, in the hub's own cache; a folder on this machine is itself."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"{HUB}{name} is neither a folder nor the id of a data set on the hub (owner/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(name, repo_type="dataset"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name} can't be fetched from the hub ({reason}): download it, and import the folder") from error
