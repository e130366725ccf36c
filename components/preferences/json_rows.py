"""Reads untrusted JSON rows as people have them: a row a line, or one JSON array. Each row is an object, or a fault with its reason.

- A byte order mark, CRLF and commas after rows say nothing and are dropped. An array is streamed, and its rows may span lines.
- Memory has at most `MAX_LINE_BYTES` of a row, whatever the file contains.
- The reader refuses ambiguous JSON: NaN, infinities, repeated keys, lone surrogates, excessive nesting.
- `raw_rows` only splits a file, which is cheap; `parse_row` may then run in another process.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn

from components.preferences.faults import RowError, shorten

MAX_LINE_BYTES = 8 * 2**20
MAX_DEPTH = 8  # the deepest known field is a part of a message's content: 4
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
CHUNK_BYTES = 2**18
SHAPE_BYTES = 2**12  # of a file's beginning, which tell whether it is an array

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_SPACE = b" \t\r\n"
_BETWEEN = re.compile(rb"[ \t\r\n,\[\]]*")  # what may stand before a row of an array
_TOKEN = re.compile(rb'"[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+"?|[{}\[\]]')  # what decides where it ends: brackets outside of strings
_STRAY = re.compile(rb"[^\n{]+")
_ROW_START = re.compile(rb"\n[ \t]*\{")
_CLOSED_BY = {ord("{"): ord("}"), ord("["): ord("]")}
_CLOSING = b"}]"
_SURROGATE, _SURROGATE_ESCAPE = re.compile("[\ud800-\udfff]"), re.compile(rb"\\u[dD][89a-fA-F]")
_DEEPEST, _NEVER = 64, -1  # brackets that may be open before a row counts as one that never closes

Shape = Literal["lines", "array", "objects"]


@dataclass(frozen=True)
class JsonRow:
    """The number of a row's first line (from 1), and either the row or its fault."""

    number: int
    row: dict[str, Any] | None
    fault: RowError | None


def read_rows(path: Path) -> Iterator[JsonRow]:
    """All rows of a file. An empty array and blank lines are no rows."""
    with path.open("rb") as stream:
        for number, raw in raw_rows(stream):
            try:
                yield JsonRow(number, parse_row(raw), None)
            except RowError as fault:
                yield JsonRow(number, None, fault)


def raw_rows(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """The line number and bytes of each row of a seekable stream, not yet parsed; None for a row of more than `MAX_LINE_BYTES`."""
    beginning = stream.read(SHAPE_BYTES)
    stream.seek(0)
    return _lines(stream) if shape_of(beginning) == "lines" else _elements(stream)


def shape_of(beginning: bytes) -> Shape:
    """How a file that begins so holds its rows: one a line, in an array, or as objects that span lines (as jq prints them)."""
    text = beginning.removeprefix(BYTE_ORDER_MARK).lstrip(_SPACE)
    if text.startswith(b"["):
        return "array" if text[1:].lstrip(_SPACE)[:1] in {b"{", b"]", b""} else "lines"
    first = text.split(b"\n", 1)[0].rstrip(_SPACE + b",")
    return "objects" if first == b"{" else "lines"


def parse_row(raw: bytes | None) -> dict[str, Any]:
    """The JSON object of one row; None means an overlong row. Raises RowError."""
    if raw is None:
        raise RowError("line_too_long", "", f"the row has more than {MAX_LINE_BYTES} bytes")
    if raw.startswith(_UTF_16):
        raise RowError("encoding", "", "the file is not UTF-8 but UTF-16: save it as UTF-8")
    raw = raw.removeprefix(BYTE_ORDER_MARK).strip(_SPACE).removesuffix(b",")
    value = _decode(raw)
    if not isinstance(value, dict):
        raise RowError("type", "", f"the row holds a {type(value).__name__}, not an object")
    if _SURROGATE_ESCAPE.search(raw) or raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:  # others hold no half pair, and aren't too deep
        for field, item in value.items():
            _check_texts(field, field, 0)
            _check_texts(item, field, 1)
    return value


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    number = 0
    while raw := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            while raw and not raw.endswith(b"\n"):
                raw = stream.readline(MAX_LINE_BYTES)
            yield number, None
        elif raw.strip(_SPACE):
            yield number, raw.rstrip(b"\r\n")


class _Window:
    """The part of a stream that is in memory: `at` is where the next row begins, in line `number`."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.bytes, self.at, self.number, self.ended = stream.read(len(BYTE_ORDER_MARK)).removeprefix(BYTE_ORDER_MARK), 0, 1, False

    def fill(self) -> None:
        """Read on, as much as there is of the row, so that a long row is searched a few times only."""
        rest = self.bytes[self.at :]
        more = self._stream.read(max(CHUNK_BYTES, len(rest)))
        self.bytes, self.at, self.ended = rest + more, 0, not more

    def take(self, end: int) -> bytes:
        """What stands before `end`, and leave it behind."""
        taken = self.bytes[self.at : end]
        self.number += taken.count(b"\n")
        self.at = end
        return taken

    def skip_unclosed(self) -> bytes | None:
        """Leave a row that never closes behind: reading resumes at the next line that begins with a brace. None for a long one."""
        skipped: bytes | None = b""
        while (resumed := _ROW_START.search(self.bytes, self.at)) is None and not self.ended:
            last_line = self.bytes.rfind(b"\n", self.at)  # a brace may follow it
            self.take(last_line if last_line >= 0 else len(self.bytes))
            self.fill()
            skipped = None
        taken = self.take(resumed.start() if resumed is not None else len(self.bytes))
        return None if skipped is None else taken

    def overlong(self) -> bool:
        """Whether a row that has not ended yet is too long."""
        return len(self.bytes) - self.at > MAX_LINE_BYTES


def _elements(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """The objects of an array, or of a file of objects, by their brackets; what stands between them and is no comma is a row too.

    A row that never closes is one fault: reading resumes at the next line that begins with a brace.
    """
    window = _Window(stream)
    while True:
        begin = _BETWEEN.match(window.bytes, window.at)
        assert begin is not None
        window.take(begin.end())
        if window.at == len(window.bytes):
            if window.ended:
                return
            window.fill()
            continue
        end = _row_end(window.bytes, window.at)
        while end is None and not window.ended and not window.overlong():
            window.fill()
            end = _row_end(window.bytes, window.at)
        number = window.number
        raw = window.skip_unclosed() if end is None or end == _NEVER else window.take(end)
        yield number, raw if raw is not None and len(raw) <= MAX_LINE_BYTES else None


def _row_end(text: bytes, at: int) -> int | None:
    """Where the row that begins at `at` ends; None where it does not within `text`, _NEVER where its brackets can't match."""
    if text[at] != ord("{"):
        stray = _STRAY.match(text, at)
        assert stray is not None
        return stray.end() if stray.end() < len(text) else None
    opened = bytearray()
    for token in _TOKEN.finditer(text, at):
        first = text[token.start()]
        if first in _CLOSED_BY:
            opened.append(_CLOSED_BY[first])
            if len(opened) > _DEEPEST:
                return _NEVER
        elif first in _CLOSING:
            if opened.pop() != first:
                return _NEVER
            if not opened:
                return token.end()
    return None


def _decode(raw: bytes) -> Any:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowError("encoding", "", f"the row is not UTF-8: byte {error.start + 1} is 0x{raw[error.start]:02x}") from error
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise RowError(
            "json", "", f"the row is not valid JSON: {error.msg.removesuffix(' starting at')} at character {error.pos + 1}"
        ) from error
    except RecursionError as error:
        raise RowError("nesting", "", "the row is nested too deeply") from error
    except RowError:
        raise
    except ValueError as error:  # the interpreter's limit on the digits of an integer
        raise RowError("json", "", "the row holds a number with too many digits") from error


def _refuse_constant(name: str) -> NoReturn:
    raise RowError("not_a_number", "", f"the row holds {name}, which is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise RowError("not_a_number", "", f"the row holds {shorten(text)}, which is too large for a number")
    return number


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RowError(
            "duplicate_key", twice if twice.isprintable() else "", f"the key {shorten(twice)} stands more than once in an object"
        )
    return row


def _check_texts(value: Any, field: str, depth: int) -> None:
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise RowError("encoding", field if field.isprintable() else "", "holds half a surrogate pair, which is no character")
    elif isinstance(value, list | dict):
        if depth >= MAX_DEPTH:
            raise RowError("nesting", field, f"is nested more than {MAX_DEPTH} levels deep")
        for item in value if isinstance(value, list) else (*value, *value.values()):
            _check_texts(item, field, depth + 1)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique_keys, parse_float=_finite)
