"""The parsers of strangers' input, each with what it may raise. Any other exception is a finding."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from components.config.overrides import changed_settings
from components.errors import UserError
from components.evaluation.judge import read_ground_truth
from components.families.hub.files import check_config, check_folder
from components.preferences.faults import RowError
from components.preferences.formats.detection import FORMATS, seems
from components.preferences.importing.archives import Bounds, is_archive, is_webdataset, samples, unpack
from components.preferences.json_rows import read_rows
from components.preferences.ranking import parse_ranking
from components.preferences.release import query_from_row

ROOT = Path(__file__).resolve().parents[2]
SMALL = Bounds(members=100, bytes=2**20, ratio=100, least=2**18)
WORDS = (
    *(
        "id",
        "question",
        "models_output",
        "final_ranking",
        "image",
        "images",
        "video",
        "faithfulness",
        "helpfulness",
        "ethical",
        "score_reasons",
    ),
    *("conversations", "messages", "prompt", "chosen", "rejected", "content", "role", "from", "value", "text", "completions", "response"),
    *("annotations", "must", "must_not", "source", "group", "safety", "category", "clusters", "ds_name", "rejected_response", "type"),
)
TEXTS = st.one_of(
    st.sampled_from(["", "a", "user", "assistant", "human", "gpt", "<image>", "1>2", "0", "x.png", "../x", "\ud800", "\0"]), st.text()
)
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([0, 1, 2, -1, 10**400, 2**63]))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.one_of(st.sampled_from(WORDS), TEXTS), inner, max_size=5)),
    max_leaves=25,
)
ROWS = st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=9)


def changed(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes, and good files with parts cut, repeated and replaced."""
    edits = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 64), st.binary(max_size=16)), max_size=6)

    def edited(seed: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
        for start, length, content in changes:
            at = start % (len(seed) + 1)
            seed = seed[:at] + content + seed[at + length :]
        return seed

    return st.one_of(st.binary(max_size=400), st.builds(edited, st.sampled_from(seeds), edits))


@dataclass(frozen=True)
class Target:
    """A parser: what it is given, and the exceptions that it documents."""

    inputs: st.SearchStrategy[Any]
    parse: Callable[[Any], object]
    documented: tuple[type[Exception], ...]


GOOD_ROW = {
    "id": "a",
    "question": "<image>What?",
    "models_output": ["A dog.", "A cat."],
    "final_ranking": [1, 2],
    "image": "a.png",
    "score_reasons": ["Right.", None],
}
GOOD_PAIRS: tuple[dict[str, Any], ...] = (
    {"prompt": "What?", "chosen": "A dog.", "rejected": "A cat.", "images": ["a.png"]},
    {
        "conversations": [{"from": "human", "value": "What?"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    },
    {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "a"}], "rejected_response": "b"},
    {"ds_name": "RLHF-V", "image": "a.png", "text": '{"question": "What?", "chosen": "a", "rejected": "b"}'},
    {"ds_name": "RLAIF-V", "image": "a.png", "question": "What?", "chosen": "a", "rejected": "b"},
)


def in_file(content: bytes, name: str, parse: Callable[[Path], object]) -> None:
    """Give a parser of files these bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        parse(path)


def read_file_of_rows(content: bytes) -> None:
    """All rows of a file, as queries."""

    def parse(path: Path) -> None:
        for line in read_rows(path):
            if line.row is not None:
                try:
                    query_from_row(line.row)
                except RowError:
                    continue

    in_file(content, "data.jsonl", parse)


def read_pair(row: dict[str, Any]) -> None:
    """A row in every format that takes it."""
    seems([row])
    for form in FORMATS.values():
        if form.against(row) is None:
            try:
                form.read(row)
            except RowError:
                continue


def open_archive(content: bytes) -> None:
    """Unpack an archive, and read it as samples. Nothing may come to lie beside the target."""

    def parse(path: Path) -> None:
        if not is_archive(path):
            return
        try:
            unpack(path, path.parent / "unpacked", SMALL)
        except UserError:
            pass
        finally:
            assert {item.name for item in path.parent.iterdir()} <= {path.name, "unpacked"}
        if not zipfile.is_zipfile(path):
            is_webdataset(path)
            list(samples(path))

    in_file(content, "archive", parse)


def check_checkpoint(files: dict[str, bytes]) -> None:
    """A folder whose files are these."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        check_folder(Path(folder), "the checkpoint")


def safetensors(header: object, size: int) -> bytes:
    """A file with this header, followed by so many bytes."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


def archives() -> list[bytes]:
    """A good tar, a good zip, and a tar of samples, plain and compressed."""
    made = []
    for names, mode in ((names, mode) for names in (("data.jsonl", "a/b.png"), ("1.json", "1.png")) for mode in ("", "gz", "bz2", "xz")):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode=f"w:{mode}", format=tarfile.USTAR_FORMAT) as packed:
            for name in names:
                entry = tarfile.TarInfo(name)
                entry.size = 2
                packed.addfile(entry, io.BytesIO(b"{}"))
        made.append(stream.getvalue()[:2048])
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("data.jsonl", "{}")
        archive.writestr("a/b.png", "x")
    return [*made, stream.getvalue()]


CONFIG = {"model_type": "llava_onevision", "text_config": {"hidden_size": 8, "vocab_size": 9}, "vision_config": {}}
HEADERS = st.dictionaries(
    st.one_of(st.sampled_from(["weight", "__metadata__"]), st.text(max_size=5)),
    st.one_of(
        VALUES,
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "BF16", "I64", "?", 7]),
                "shape": st.one_of(st.lists(st.integers(-2, 2**70), max_size=3), VALUES),
                "data_offsets": st.one_of(st.lists(st.integers(-8, 64), min_size=2, max_size=2), VALUES),
            }
        ),
    ),
    max_size=4,
)
JSON = st.one_of(VALUES.map(lambda value: json.dumps(value).encode()), changed([json.dumps(CONFIG).encode()]))
WEIGHTS = st.one_of(
    st.builds(safetensors, HEADERS, st.integers(0, 64)),
    changed([safetensors({"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, 8)]),
)
INDEXES = st.one_of(
    JSON,
    st.dictionaries(TEXTS, st.one_of(st.just("model.safetensors"), VALUES), max_size=3).map(
        lambda value: json.dumps({"weight_map": value}).encode()
    ),
)
CONFIGS = st.recursive(
    SCALARS, lambda inner: st.dictionaries(st.sampled_from(["text_config", "hidden_size", "vocab_size", "depth", "x"]), inner, max_size=4)
)


def run_parameters(values: object) -> None:
    """Parameters of a run as Prefect's form sends them."""
    from flows.parameters import RunParameters

    RunParameters.model_validate(values)


PARAMETERS = st.dictionaries(
    st.sampled_from(["overrides", "stages", "source", "ref", "repository", "promote", "goes_on_from", "started", "recovers", "x"]),
    VALUES,
    max_size=5,
)
ASSIGNMENTS = st.lists(
    st.one_of(
        st.builds(
            "{}={}".format,
            st.sampled_from(["alignment.beta", "model.base", "validate.min_responses", "training.checkpoint_every", "deployments.cron"]),
            TEXTS,
        ),
        st.text(),
        st.builds("{}={}".format, TEXTS, st.one_of(TEXTS, VALUES.map(repr))),
    ),
    max_size=3,
)


def of_folder(names: dict[str, st.SearchStrategy[bytes]]) -> st.SearchStrategy[dict[str, bytes]]:
    """Files of a checkpoint that is good in all others."""
    good = {
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors": safetensors({"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, 8),
    }
    return st.fixed_dictionaries({name: st.just(content) for name, content in good.items()} | names)


def _targets() -> dict[str, Target]:
    from pydantic import ValidationError

    user = (UserError,)
    rows = [json.dumps(GOOD_ROW).encode() + b"\n", b"[" + json.dumps(GOOD_ROW).encode() + b"]"]
    ground_truths = [b'{"id": "a", "must": [["yes"]], "must_not": ["no"]}\n']
    return {
        "rows": Target(st.one_of(changed(rows), ROWS.map(lambda row: json.dumps(GOOD_ROW | row).encode())), read_file_of_rows, user),
        "rankings": Target(
            st.tuples(VALUES, st.integers(0, 6), st.sampled_from(["ranks", "order"])), lambda v: parse_ranking(*v), (RowError, UserError)
        ),
        "pairs": Target(st.builds(lambda good, row: good | row, st.sampled_from(GOOD_PAIRS), ROWS), read_pair, user),
        "ground_truth": Target(
            st.one_of(changed(ground_truths), ROWS.map(lambda row: json.dumps(row).encode())),
            lambda content: in_file(content, "truth.jsonl", read_ground_truth),
            user,
        ),
        "config": Target(CONFIGS.filter(lambda value: isinstance(value, dict)), lambda value: check_config(value, "config.json"), user),
        "checkpoint": Target(
            st.one_of(
                of_folder({"config.json": JSON}),
                of_folder({"model.safetensors": WEIGHTS}),
                of_folder({"model.safetensors.index.json": INDEXES}),
            ),
            check_checkpoint,
            user,
        ),
        "archives": Target(changed(archives()), open_archive, (UserError, RowError)),
        "settings": Target(ASSIGNMENTS, lambda values: changed_settings(ROOT / "params.yaml", values), user),
        "run_parameters": Target(PARAMETERS, run_parameters, (ValidationError, UserError)),
    }


TARGETS = _targets()
