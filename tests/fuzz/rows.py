"""Parsers of rows: preferences and pairs, tables, ground truth, labels, benchmarks, expansions."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.benches.reward_bench import read_rows as read_bench_rows
from components.benches.reward_rows import FORMATS as BENCH_FORMATS
from components.critique.expansion import read_reasons
from components.evaluation.calibration import _by_labels as judge_by_labels
from components.evaluation.judge import read_ground_truth
from components.evaluation.labels import read_labels
from components.preferences.expansions import read_expansions
from components.preferences.faults import RowError
from components.preferences.formats.detection import FORMATS, seems
from components.preferences.importing.sources import open_source, rows_of
from components.preferences.json_rows import parse_row, read_rows
from components.preferences.ranking import parse_ranking
from components.preferences.release import query_from_row

ROW: dict[str, Any] = {
    "id": "a",
    "question": "<image>What?",
    "models_output": ["A dog.", "A cat."],
    "final_ranking": [1, 2],
    "image": "a.png",
    "score_reasons": ["Right.", None],
    "faithfulness": [5, None],
    "safety": None,
    "clusters": {"picture": "a"},
}
VIDEO_ROW = ROW | {"question": "What?", "video": "clip", "image": None, "final_ranking": "2>1", "group": "b", "category": "video"}
CHAT_ROW = ROW | {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]}
PAIRS: tuple[dict[str, Any], ...] = (
    {"prompt": "What?", "chosen": "A dog.", "rejected": "A cat.", "images": ["a.png"]},
    {
        "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}],
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
        "images": [{"bytes": "AA==", "path": None}],
    },
    {
        "conversations": [{"from": "human", "value": "<image>What?"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
        "images": ["a.png"],
    },
    {
        "messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "a"}],
        "rejected_response": "b",
        "rejected_images": [],
        "objects": {"ref": [], "bbox": []},
    },
    {"ds_name": "RLHF-V", "image": "a.png", "text": '{"question": "What?", "chosen": "a", "rejected": "b"}'},
    {"ds_name": "RLAIF-V", "image": "a.png", "question": "What?", "chosen": "a", "rejected": "b", "origin_dataset": "x"},
    {
        "id": "a",
        "prompt": "What?",
        "image": "a.png",
        "models": ["m", "n"],
        "completions": [
            {
                "model": name,
                "response": name,
                "annotations": {
                    part: {"Rating": rating, "Rationale": "Good."}
                    for part in ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
                },
            }
            for name, rating in (("m", "4"), ("n", "2"))
        ],
    },
    {"image": "a.png", "question": "What?", "chosen": "a", "rejected": "b", "chosen_reason": "Good.", "rejected_reason": "Bad."},
)
GROUND_TRUTH = {"id": "a", "must": [["yes", "yeah"]], "must_not": ["no"]}
LABEL = {"id": "a", "language": "en", "kind": "option", "question": "What?", "reference": "A", "answer": "B.", "label": "wrong"}
LABELS = (
    LABEL | {"options": {"A": "a dog", "B": "a cat"}, "image": "a.png"},
    {"id": "b", "language": "en", "kind": "refusal", "question": "How?", "safety": "harmful", "answer": "No.", "label": "refusal"},
    LABEL | {"must": [["yes"]], "must_not": ["no"], "label": "right"},
)
EXPANSION = {"id": "a", "response": 0, "source": "s", "critique": "c", "prompt_version": "1", "prompt": "p", "model": "m"}
BENCHES = (
    {"format": "mm_rlhf", "id": 7, "image": "long/a.png", "prompt": "What?", "chosen": "a", "rejected": "b", "clusters": {"picture": "a"}},
    {"format": "vl_rewardbench", "id": "a-1", "query": "What?", "image": "a", "response": ["a", "b"], "human_ranking": [0, 1]},
    {
        "format": "mm_rewardbench",
        "ID": "math-1",
        "Text": "What?",
        "Image": "a.png",
        "Output1": "a",
        "Output2": "b",
        "Better": "Output2",
        "Category": "reasoning",
    },
)


def in_file(content: bytes, name: str, parse: Callable[[Path], object]) -> None:
    """Give a parser of files these bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        parse(path)


def value_of(content: bytes) -> Any:
    """The JSON value of an input of a parser of values; None for all else."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def row_file(content: bytes) -> None:
    """All rows of a file, as queries, and the reasons in it."""

    def parse(path: Path) -> None:
        for line in read_rows(path):
            if line.row is not None:
                try:
                    query_from_row(line.row)
                except RowError:
                    continue
        read_reasons(path)

    in_file(content, "data.jsonl", parse)


def ranking(content: bytes) -> None:
    """A ranking of so many answers, in one of the two styles."""
    match value_of(content):
        case [value, int(answers), bool(order)]:
            parse_ranking(value, answers % 7, "order" if order else "ranks")


def pair(content: bytes) -> None:
    """A row in every format that takes it."""
    try:
        row = parse_row(content)
    except RowError:
        return
    seems([row])
    for form in FORMATS.values():
        if form.against(row) is None:
            try:
                form.read(row)
            except RowError:
                continue


def labels(content: bytes) -> None:
    """Labelled answers, and the judge by the ground truth in them."""
    in_file(content, "labels.jsonl", lambda path: judge_by_labels(read_labels(path)))


def bench(content: bytes) -> None:
    """Rows of a benchmark of reward models in the three formats."""

    def parse(path: Path) -> None:
        for name in BENCH_FORMATS:
            try:
                read_bench_rows(path, name, None)
            except ValueError as error:
                if type(error).__name__ != "UserError":
                    raise

    in_file(content, "bench.jsonl", parse)


def expansions(content: bytes) -> None:
    """Critiques that were made of reasons."""
    in_file(content, "expanded.jsonl", read_expansions)


def ground_truth(content: bytes) -> None:
    """A file of ground truth."""
    in_file(content, "truth.jsonl", read_ground_truth)


def table(content: bytes) -> None:
    """A file of rows in any container, by its content; Arrow's files are told by their names."""

    def parse(path: Path) -> None:
        for file in open_source(str(path), path.parent / "unpacked").files:
            for _ in rows_of(file):
                pass

    in_file(content, "rows.arrow" if content.startswith((b"ARROW1", b"\xff\xff\xff\xff")) else "rows.parquet", parse)


def saved_data_set(content: bytes) -> None:
    """A folder of datasets.save_to_disk with these descriptions: {"dataset_dict.json": ..., "train/state.json": ...}."""
    descriptions = value_of(content)
    if not isinstance(descriptions, dict):
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in ("dataset_dict.json", "train/state.json", "state.json"):
            if name in descriptions:
                path = Path(folder) / name
                path.parent.mkdir(exist_ok=True)
                path.write_text(json.dumps(descriptions[name]))
        for file in open_source(folder, Path(folder) / "unpacked").files:
            for _ in rows_of(file):
                pass


def tables() -> list[bytes]:
    """Good tables: Parquet plain and compressed, and both of Arrow's layouts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.Table.from_pylist(
        [{"prompt": "What?", "chosen": "a", "images": [{"bytes": b"x", "path": "a.png"}], "scores": [1.5, None]}] * 3
    )
    files = []
    for options in ({}, {"compression": "zstd", "data_page_version": "2.0"}, {"use_dictionary": False, "compression": "gzip"}):
        stream = io.BytesIO()
        pq.write_table(rows, stream, **options)
        files.append(stream.getvalue())
    for opened in (pa.ipc.new_file, pa.ipc.new_stream):
        sink = pa.BufferOutputStream()
        with opened(sink, rows.schema) as writer:
            writer.write_table(rows)
        files.append(sink.getvalue().to_pybytes())
    return files
