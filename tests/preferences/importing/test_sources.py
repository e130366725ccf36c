import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.checkout import Checkout
from components.errors import UserError
from components.preferences.importing.report import ImportReport
from components.preferences.importing.sources import open_source, rows_of
from tests.preferences.conftest import read_target, write_lines
from tests.preferences.formats.samples import SAMPLES, parts, spoken

Bring = Callable[..., ImportReport]
TEXTS = [{"question": f"Item {n}?", "chosen": "Yes.", "rejected": "No."} for n in range(5)]


def questions(checkout: Checkout) -> list[str]:
    return [row["question"] for row in read_target(checkout)]


def with_bytes(source: Path) -> list[dict[str, Any]]:
    """Rows as `datasets` stores pictures: bytes and the name of the file."""
    names = ("one.png", "pictures/two.png", "one.png", "three.png", "one.png")
    return [row | {"image": {"bytes": (source / name).read_bytes(), "path": name}} for row, name in zip(TEXTS, names, strict=True)]


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("indent", [None, 2])
def test_json_array_comes_in(source: Path, checkout: Checkout, bring: Bring, indent: int | None) -> None:
    (source / "data.json").write_text(json.dumps(TEXTS, indent=indent))
    assert bring(source / "data.json").queries == 5
    assert questions(checkout) == [row["question"] for row in TEXTS]


def test_lines_with_mark_crlf_and_commas_come_in(source: Path, checkout: Checkout, bring: Bring) -> None:
    (source / "data.jsonl").write_bytes(b"\xef\xbb\xbf" + ",\r\n".join(map(json.dumps, TEXTS)).encode())
    assert bring(source / "data.jsonl").refused == {}
    assert len(read_target(checkout)) == 5


def test_parquet_with_pictures_comes_in(source: Path, checkout: Checkout, bring: Bring) -> None:
    pq.write_table(pa.Table.from_pylist(with_bytes(source)), source / "train.parquet", row_group_size=2)
    report = bring(source / "train.parquet")
    assert (report.format, report.queries, report.media) == ("rlaif_v", 5, 3)
    assert [(checkout.preferences / row["image"]).read_bytes() for row in read_target(checkout)] == [
        row["image"]["bytes"] for row in with_bytes(source)
    ]


def test_nested_columns_of_parquet_come_in(source: Path, checkout: Checkout, bring: Bring) -> None:
    rows = [
        {
            "images": [{"bytes": (source / "one.png").read_bytes(), "path": None}],
            "prompt": [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}]}],
            "chosen": [{"role": "assistant", "content": parts("A kettle.")}],
            "rejected": [{"role": "assistant", "content": parts("A dog.")}],
        }
    ]
    pq.write_table(pa.Table.from_pylist(rows), source / "train.parquet")
    assert bring(source / "train.parquet").format == "trl"
    assert questions(checkout) == ["<image>What is it?"]


def test_ratings_of_parquet_come_in(source: Path, checkout: Checkout, bring: Bring) -> None:
    rows = [dict(SAMPLES["vlfeedback"][1][0]) | {"models": ["a", "b"]}]
    pq.write_table(pa.Table.from_pylist(rows), source / "train.parquet")
    assert bring(source / "train.parquet").format == "vlfeedback"
    assert read_target(checkout)[0]["final_ranking"] == [1, 2]


def test_saved_dataset_comes_in(source: Path, checkout: Checkout, bring: Bring) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"question": datasets.Value("string"), "chosen": datasets.Value("string"), "rejected": datasets.Value("string")}
        | {"image": datasets.Image()}
    )
    data = datasets.Dataset.from_list(with_bytes(source), features=features)
    data.save_to_disk(str(source / "saved"), num_shards=2)
    assert bring(f"hf:{source / 'saved'}", format="hf").queries == 5
    assert questions(checkout) == [row["question"] for row in TEXTS]
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(str(source / "splits"))
    report = bring(source / "splits", mode="replace")
    assert report.queries == 5
    assert any("of the splits train, test, train is imported" in note for note in report.notes)
    assert bring(source / "splits", split="test", target="heldout.jsonl").queries == 1


def test_folder_of_parquet_shards_comes_in_by_split(source: Path, checkout: Checkout, bring: Bring) -> None:
    folder = source / "repository"
    (folder / "data").mkdir(parents=True)
    for number, rows in enumerate((TEXTS[:2], TEXTS[2:4])):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"data/train-0000{number}-of-00002.parquet")
    pq.write_table(pa.Table.from_pylist(TEXTS[4:]), folder / "data/test-00000-of-00001.parquet")
    (folder / "README.md").write_text("---\n")
    report = bring(folder)
    assert (report.queries, questions(checkout)) == (4, [row["question"] for row in TEXTS[:4]])
    with pytest.raises(UserError, match="holds the splits test, train: name one with --split"):
        bring(folder, split="other", mode="replace")


def test_files_that_are_no_shards_are_asked_about(source: Path, bring: Bring) -> None:
    write_lines(source / "data.jsonl", SAMPLES["mm_rlhf"][0])
    write_lines(source / "dpo_pairs.jsonl", SAMPLES["mm_rlhf_pairs"][0])
    with pytest.raises(UserError, match=r"no shards of one set \(data.jsonl, dpo_pairs.jsonl\): name one"):
        bring(source)


def test_webdataset_comes_in(source: Path, checkout: Checkout, bring: Bring) -> None:
    with tarfile.open(source / "shard-000.tar", "w") as archive:
        for number, row in enumerate(with_bytes(source)):
            add(archive, f"{number:04d}.png", row["image"]["bytes"])
            add(archive, f"{number:04d}.json", json.dumps(TEXTS[number]).encode())
        conversation = {
            "conversations": [spoken("human", "<image>Which?<image>")],
            "chosen": spoken("gpt", "First."),
            "rejected": spoken("gpt", "Last."),
        }
        add(archive, "broken.json", b"{")
    report = bring(source / "shard-000.tar")
    assert (report.format, report.queries, report.media) == ("rlaif_v", 5, 3)
    assert report.refused["json"].places[0]["line"] == 6
    with tarfile.open(source / "two.tar", "w") as archive:
        for ending, name in (("0.png", "one.png"), ("1.png", "three.png")):
            add(archive, f"a.{ending}", (source / name).read_bytes())
        add(archive, "a.json", json.dumps(conversation | {"images": ["x/a.0.png", "x/a.1.png"]}).encode())
    bring(source / "two.tar", mode="replace")
    (row,) = read_target(checkout)
    assert [(checkout.preferences / name).read_bytes() for name in row["image"]] == [
        (source / name).read_bytes() for name in ("one.png", "three.png")
    ]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archive_of_rows_and_pictures_comes_in(source: Path, checkout: Checkout, bring: Bring, kind: str) -> None:
    write_lines(source / "rows.jsonl", [row | {"image": "one.png"} for row in TEXTS])
    path = source.parent / f"theirs.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("rows.jsonl", "one.png"):
                archive.write(source / name, f"theirs/{name}")
    else:
        with tarfile.open(path, "w:gz") as tar:
            for name in ("rows.jsonl", "one.png"):
                tar.add(source / name, f"theirs/{name}")
    report = bring(path)
    assert (report.queries, report.media, report.refused) == (5, 1, {})
    assert not any(checkout.imports.iterdir())
    assert questions(checkout) == [row["question"] for row in TEXTS]


def test_source_that_is_nothing_is_refused(tmp_path: Path) -> None:
    for source, words in (
        ("none.jsonl", "does not exist"),
        ("hf:a/b/c", "neither a folder nor the id"),
        (str(tmp_path), "holds no rows"),
    ):
        with pytest.raises(UserError, match=words):
            open_source(source, tmp_path / "unpacked")


def test_hub_that_cannot_be_reached_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"owner/name can't be fetched from the hub .* import the folder"):
        open_source("hf:owner/name", tmp_path / "unpacked")


def test_damaged_parquet_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"x" * 100)
    (file,) = open_source(str(tmp_path / "a.parquet"), tmp_path / "unpacked").files
    with pytest.raises(UserError, match=r"a.parquet can't be read"):
        list(rows_of(file))


@pytest.mark.parametrize("layout", [pa.ipc.new_file, pa.ipc.new_stream])
@pytest.mark.parametrize("name", ["rows.arrow", "rows.feather"])
def test_both_layouts_of_arrow_are_read(tmp_path: Path, layout: Any, name: str) -> None:
    table = pa.table({"prompt": ["What?"] * 100, "chosen": list(map(str, range(100)))})
    with pa.OSFile(str(tmp_path / name), "wb") as sink, layout(sink, table.schema) as writer:
        writer.write_table(table)
    (file,) = open_source(str(tmp_path / name), tmp_path / "unpacked").files
    rows = list(rows_of(file))
    assert (file.container, len(rows), rows[99]) == ("arrow", 100, (100, {"prompt": "What?", "chosen": "99"}))


def test_arrow_file_with_wrong_offsets_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    table = pa.table({"prompt": ["a dog"]})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content = path.read_bytes()
    at = content.rindex((0).to_bytes(4, "little") + (5).to_bytes(4, "little"))
    path.write_bytes(content[: at + 4] + (2**30).to_bytes(4, "little") + content[at + 8 :])
    (file,) = open_source(str(path), tmp_path / "unpacked").files
    with pytest.raises(UserError, match=r"rows.arrow can't be read"):
        list(rows_of(file))


@pytest.mark.parametrize(
    ("descriptions", "reason"),
    [
        ({"dataset_dict.json": "[]"}, "lists no splits"),
        ({"dataset_dict.json": "{"}, "lists no splits"),
        ({"dataset_dict.json": '{"splits": 7}'}, "lists no splits"),
        ({"dataset_dict.json": '{"splits": ["../x"]}'}, "don't trust"),
        ({"dataset_dict.json": '{"splits": [[]]}'}, "don't trust"),
        ({"state.json": "null"}, "lists no _data_files"),
        ({"state.json": '{"_data_files": [7]}'}, "names files of other folders"),
        ({"state.json": "[" * 100_000}, "lists no _data_files"),
    ],
)
def test_damaged_description_of_a_data_set_is_refused(tmp_path: Path, descriptions: dict[str, str], reason: str) -> None:
    for name, text in descriptions.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=reason):
        open_source(str(tmp_path), tmp_path / "unpacked")
