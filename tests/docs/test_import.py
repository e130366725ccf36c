"""The commands of docs/import.md, each on the rows that its section shows."""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.cli.main import app
from components.preferences.formats.detection import FORMATS
from tests.checkout import ROOT
from tests.preferences.conftest import save_media, write_lines
from tests.preferences.formats.samples import SAMPLES

PAGE = (ROOT / "docs/import.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
OF_FORMATS = [title for title in SECTIONS if ": " in title]


def commands(text: str) -> list[list[str]]:
    blocks = [body for kind, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if not kind]
    return [line.split()[1:] for block in blocks for line in block.splitlines() if line.startswith("mmalign ")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout that imports can work in, with media beside the rows."""
    for name in ("dvc.yaml", "params.yaml", "ops.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    save_media(tmp_path / "theirs")
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


def run(arguments: list[str]) -> None:
    app(arguments, standalone_mode=False)


def test_page_has_section_of_each_format() -> None:
    assert [title.rpartition(": ")[2] for title in OF_FORMATS] == list(FORMATS)


@pytest.mark.parametrize("title", OF_FORMATS)
def test_commands_of_format_work_on_its_rows(title: str, folder: Path) -> None:
    name = title.rpartition(": ")[2]
    (block,) = re.findall(r"^```json\n(.*?)^```$", SECTIONS[title], re.MULTILINE | re.DOTALL)
    rows = [json.loads(line) for line in block.splitlines()]
    bring, take = commands(SECTIONS[title])
    path = folder / bring[2]
    path.write_text(json.dumps(rows)) if path.suffix == ".json" else write_lines(path, rows)
    run(bring)
    report = json.loads((folder / "reports/import.json").read_text())
    assert (report["format"], report["rows"], report["refused"], report["changed"]) == (name, len(rows), {}, {})
    run(take)
    out = folder / take[-1]
    back = [json.loads(line) for line in next(out.glob("*.jsonl")).read_text(encoding="utf-8").splitlines()]
    assert len(back) == len(rows)
    if name.startswith("mm_rlhf"):
        assert back == rows


def test_commands_of_files_work(folder: Path) -> None:
    theirs = folder / "theirs"
    rows = SAMPLES["rlaif_v"][2]
    write_lines(theirs / "rows.jsonl", rows)
    (theirs / "array.json").write_text(json.dumps(rows))
    pictures = [{"image": {"bytes": (theirs / row["image_path"]).read_bytes(), "path": row["image_path"]}} for row in rows]
    pq.write_table(pa.Table.from_pylist([row | picture for row, picture in zip(rows, pictures, strict=True)]), theirs / "train.parquet")
    with tarfile.open(theirs / "shard-000.tar", "w") as archive:
        for number, row in enumerate(rows):
            write_lines(theirs / "sample.json", [row])
            archive.add(theirs / "sample.json", f"{number}.json")
            archive.add(theirs / row["image_path"], f"{number}.png")
    with zipfile.ZipFile(theirs / "theirs.zip", "w") as packed:
        for name in ("rows.jsonl", *(row["image_path"] for row in rows)):
            packed.write(theirs / name, name)
    datasets = pytest.importorskip("datasets")
    datasets.load_dataset("parquet", data_files=str(theirs / "train.parquet"), cache_dir=str(folder / "cache"))["train"].save_to_disk(
        str(theirs / "saved")
    )
    for split in ("train", "test"):
        (theirs / "repository").mkdir(exist_ok=True)
        shutil.copy(theirs / "train.parquet", theirs / f"repository/{split}-00000-of-00001.parquet")
    for command in commands(SECTIONS["Files"]):
        run(command)
        report = json.loads((folder / "reports/import.json").read_text())
        assert (report["format"], report["queries"], report["media"], report["refused"]) == ("rlaif_v", 3, 3, {})
    assert {path.name for path in (folder / "data/preferences").glob("*.jsonl")} == {"data.jsonl", "heldout.jsonl"}


def test_commands_of_beginning_are_those_of_the_tool() -> None:
    assert commands(PAGE.partition("## ")[0]) == [["data", "new"], ["data", "import", "theirs/rows.jsonl"], ["run"]]
