import json
from pathlib import Path

import pytest

from components.preferences import json_rows
from components.preferences.faults import RowError
from components.preferences.json_rows import parse_row, read_rows


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
        ('{"id": "ä"}'.encode("utf-16"), "encoding", "UTF-16: save it as UTF-8"),
        ('{"id": "ä"}'.encode("utf-16-le")[1:], "encoding", "not UTF-8"),
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
        parse_row(raw)
    assert caught.value.kind == kind


def test_pair_of_surrogates_is_character() -> None:
    assert parse_row(b'{"id": "\\ud83d\\ude00"}') == {"id": "😀"}


def test_lines_count_from_one_and_blank_ones_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "a"}\n\n  \n{"id": "b"}\r\n{"id"\n{"id": "c"}')
    assert [(line.number, line.row, line.fault is None) for line in read_rows(path)] == [
        (1, {"id": "a"}, True),
        (4, {"id": "b"}, True),
        (5, None, False),
        (6, {"id": "c"}, True),
    ]


def test_huge_line_is_one_fault_and_next_line_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": text}) + "\n" for text in ("a", "x" * 5000, "b")) + json.dumps({"id": "y" * 5000}))
    read = list(read_rows(path))
    assert [(line.number, line.row, line.fault and line.fault.kind) for line in read] == [
        (1, {"id": "a"}, None),
        (2, None, "line_too_long"),
        (3, {"id": "b"}, None),
        (4, None, "line_too_long"),
    ]


def test_line_of_exactly_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = json.dumps({"id": "x" * 100}).encode() + b"\n"
    monkeypatch.setattr(json_rows, "MAX_LINE_BYTES", len(raw))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(raw + raw)
    assert [line.fault for line in read_rows(path)] == [None, None]


def rows_of(path: Path, content: bytes) -> list[tuple[int, object]]:
    path.write_bytes(content)
    return [(row.number, row.row if row.fault is None else row.fault.kind) for row in read_rows(path)]


def test_byte_order_mark_crlf_and_commas_are_dropped(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"id": "a"}\r\n{"id": "b"},\r\n{"id": "c"} , \n'
    assert rows_of(tmp_path / "rows.jsonl", content) == [(1, {"id": "a"}), (2, {"id": "b"}), (3, {"id": "c"})]


@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize("chunk", [1, 7, 64, 2**18])
def test_array_is_read_by_its_elements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None, chunk: int) -> None:
    monkeypatch.setattr(json_rows, "CHUNK_BYTES", chunk)
    values = [{"id": f"row {n}", "text": 'a "quoted" }]\\ {[', "nested": {"list": [1, {"x": "é"}]}} for n in range(5)]
    content = json.dumps(values, indent=indent, ensure_ascii=False)
    assert [row for _, row in rows_of(tmp_path / "array.json", b"\xef\xbb\xbf" + content.encode())] == values
    lines = [content[: content.index(f'"row {n}"')].rindex("{") for n in range(5)]
    assert [number for number, _ in rows_of(tmp_path / "array.json", content.encode())] == [1 + content[:at].count("\n") for at in lines]


def test_rows_of_array_on_lines_and_last_comma(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "a.json", b'[\n{"id": 1},\n\n{"id": 2},\n]\n') == [(2, {"id": 1}), (4, {"id": 2})]
    assert rows_of(tmp_path / "a.json", b"[]") == []
    assert rows_of(tmp_path / "a.json", b"") == []


def test_objects_over_several_lines_are_rows(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "a.json", b'{\n  "id": 1\n}\n{\n  "id": 2\n}\n') == [(1, {"id": 1}), (4, {"id": 2})]


def test_broken_element_costs_one_row(tmp_path: Path) -> None:
    content = b'[\n{"id": "a"},\n{"id": "b, "x": 1},\n{"id": [1},\n{"id": "d", "y": {},\n{"id": "e"}, oops,\n{"id": "f"}]'
    assert rows_of(tmp_path / "a.json", content) == [
        (2, {"id": "a"}),
        (3, "json"),
        (4, "json"),
        (5, "json"),
        (6, {"id": "e"}),
        (6, "json"),
        (7, {"id": "f"}),
    ]


def test_huge_element_is_one_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(json_rows, "CHUNK_BYTES", 100)
    content = json.dumps([{"id": text} for text in ("a", "x" * 5000, "b")], indent=1).encode()
    assert rows_of(tmp_path / "a.json", content)[0] == (2, {"id": "a"})
    assert [kind for _, kind in rows_of(tmp_path / "a.json", content)] == [{"id": "a"}, "line_too_long", {"id": "b"}]


def test_deep_element_costs_its_line(tmp_path: Path) -> None:
    content = b'[{"x": ' + b"[" * 100_000 + b'\n{"id": 1}]'
    assert rows_of(tmp_path / "a.json", content) == [(1, "nesting"), (2, {"id": 1})]


def test_row_that_ends_in_comma_inside_is_named(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "a.jsonl", b'{"id": 1,}\n{"id": 2}') == [(1, "json"), (2, {"id": 2})]


@pytest.mark.parametrize(
    ("name", "count"), [("15-bom-crlf/rows.jsonl", 3), ("17-array-and-commas/array.jsonl", 3), ("17-array-and-commas/commas.jsonl", 3)]
)
def test_cases_are_read_whole(name: str, count: int) -> None:
    rows = list(read_rows(Path(__file__).parents[1] / "cases" / name))
    assert [row.fault for row in rows] == [None] * count
