"""Reads untrusted JSON Lines, one line at a time: each line is a row, or a fault with its reason.

- Memory has at most `MAX_LINE_BYTES` of a line, whatever the file contains.
- The reader refuses ambiguous JSON: NaN, infinities, repeated keys, lone surrogates, excessive nesting.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from components.preferences.faults import RowError, shorten

MAX_LINE_BYTES = 8 * 2**20
MAX_DEPTH = 8  # the deepest known field is a list in the row: 2
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Line:
    """A line's number (from 1), and either its row or its fault."""

    number: int
    row: dict[str, Any] | None
    fault: RowError | None


def read_lines(path: Path) -> Iterator[Line]:
    """All lines of a file but blank ones."""
    with path.open("rb") as stream:
        for number, raw in _raw_lines(stream):
            try:
                yield Line(number, parse_line(raw), None)
            except RowError as fault:
                yield Line(number, None, fault)


def parse_line(raw: bytes | None) -> dict[str, Any]:
    """The JSON object on one line; None means an overlong line. Raises RowError."""
    if raw is None:
        raise RowError("line_too_long", "", f"the line has more than {MAX_LINE_BYTES} bytes")
    if raw.startswith(BYTE_ORDER_MARK):
        raise RowError("encoding", "", "the line begins with a byte order mark: save the file as UTF-8 without one")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowError("encoding", "", f"the line is not UTF-8: byte {error.start + 1} is 0x{raw[error.start]:02x}") from error
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise RowError(
            "json", "", f"the line is not valid JSON: {error.msg.removesuffix(' starting at')} at character {error.pos + 1}"
        ) from error
    except RecursionError as error:
        raise RowError("nesting", "", "the line is nested too deeply") from error
    except RowError:
        raise
    except ValueError as error:  # the interpreter's limit on the digits of an integer
        raise RowError("json", "", "the line holds a number with too many digits") from error
    if not isinstance(value, dict):
        raise RowError("type", "", f"the line holds a {type(value).__name__}, not an object")
    for field, item in value.items():
        _check_texts(field, field, 0)
        _check_texts(item, field, 1)
    return value


def _raw_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    number = 0
    while raw := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            while raw and not raw.endswith(b"\n"):
                raw = stream.readline(MAX_LINE_BYTES)
            yield number, None
        elif raw.strip():
            yield number, raw.rstrip(b"\r\n")


def _refuse_constant(name: str) -> NoReturn:
    raise RowError("not_a_number", "", f"the line holds {name}, which is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise RowError("not_a_number", "", f"the line holds {shorten(text)}, which is too large for a number")
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
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise RowError("encoding", field if field.isprintable() else "", "holds half a surrogate pair, which is no character")
    elif isinstance(value, list | dict):
        if depth >= MAX_DEPTH:
            raise RowError("nesting", field, f"is nested more than {MAX_DEPTH} levels deep")
        for item in value if isinstance(value, list) else (*value, *value.values()):
            _check_texts(item, field, depth + 1)
