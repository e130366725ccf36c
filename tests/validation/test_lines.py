import json
from pathlib import Path

import pytest

from components.preferences.faults import RowError
from components.validation import lines
from components.validation.lines import parse_line, read_lines


@pytest.mark.parametrize(
    ("raw", "kind", "reason"),
    [
        (b'{"id": "a", "question": "wh', "json", "Unterminated string at character 25"),
        (b"{'id': 'a'}", "json", "not valid JSON"),
        (b'{"id": "a"} {"id": "b"}', "json", "Extra data"),
        (b"[1, 2]", "type", "list, not an object"),
        (b'"text"', "type", "str, not an object"),
        (b"null", "type", "NoneType, not an object"),
        (b'{"id": "\xff"}', "encoding", "byte 9 is 0xff"),
        (b'\xef\xbb\xbf{"id": "a"}', "encoding", "byte order mark"),
        ('{"id": "ä"}'.encode("utf-16"), "encoding", "not UTF-8"),
        (b'{"id": "\\ud800"}', "encoding", "surrogate"),
        (b'{"\\udfff": 1}', "encoding", "surrogate"),
        (b'{"ethical": [NaN]}', "not_a_number", "NaN"),
        (b'{"ethical": [-Infinity]}', "not_a_number", "Infinity"),
        (b'{"ethical": [1e999]}', "not_a_number", "1e999"),
        (b'{"id": "a", "id": "b"}', "duplicate_key", "'id'"),
        (b'{"x": {"y": 1, "y": 2}}', "duplicate_key", "'y'"),
        (b'{"x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nesting", "deep"),
        (b'{"x": ' + b"[" * 20 + b"]" * 20 + b"}", "nesting", "levels"),
        (b'{"x": ' + b"9" * 10_000 + b"}", "json", "digits"),
        (b"\x00", "json", "not valid JSON"),
    ],
)
def test_malformed_line_is_a_fault(raw: bytes, kind: str, reason: str) -> None:
    with pytest.raises(RowError, match=reason) as caught:
        parse_line(raw)
    assert caught.value.kind == kind


def test_pair_of_surrogates_is_character() -> None:
    assert parse_line(b'{"id": "\\ud83d\\ude00"}') == {"id": "😀"}


def test_lines_count_from_one_and_blank_ones_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "a"}\n\n  \n{"id": "b"}\r\n{"id"\n{"id": "c"}')
    assert [(line.number, line.row, line.fault is None) for line in read_lines(path)] == [
        (1, {"id": "a"}, True),
        (4, {"id": "b"}, True),
        (5, None, False),
        (6, {"id": "c"}, True),
    ]


def test_huge_line_is_one_fault_and_next_line_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": text}) + "\n" for text in ("a", "x" * 5000, "b")) + json.dumps({"id": "y" * 5000}))
    read = list(read_lines(path))
    assert [(line.number, line.row, line.fault and line.fault.kind) for line in read] == [
        (1, {"id": "a"}, None),
        (2, None, "line_too_long"),
        (3, {"id": "b"}, None),
        (4, None, "line_too_long"),
    ]


def test_line_of_exactly_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = json.dumps({"id": "x" * 100}).encode() + b"\n"
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", len(raw))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(raw + raw)
    assert [line.fault for line in read_lines(path)] == [None, None]
