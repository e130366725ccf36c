"""What the fuzzers feed to parsers: bytes, made of good files with parts changed, or of values that no good file has.

Every input is bytes, also where a parser takes values: those come as JSON. So both engines begin from the same files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

LONG = "x" * 300  # longer than a name on a disk may be
TEXTS = st.one_of(
    st.sampled_from(
        ["", "a", "user", "assistant", "human", "<image>", "1>2", "0", "x.png", "../x", "/x", "\ud800", "\0", LONG, "NaN", "a.b"]
    ),
    st.text(),
)
NUMBERS = st.one_of(st.sampled_from([0, 1, 2, -1, 2**31, 2**63, 10**400, 1e308, 5e-324]), st.integers(), st.floats())
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=20,
)
DEEP = ['{"a":' * 3000 + "1" + "}" * 3000, "[" * 100_000, '{"a":' * 70 + "1" + "}" * 70]
PIECES = [
    b"",
    b"\0",
    b"\n",
    b'"',
    b"{",
    b"]",
    b"PK\x01\x02",
    b"NaN",
    b"1e999",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x80",
    b"-",
    b"&a *a",
    b"!!x",
]
REMOVED = object()  # a change that takes a value away


def encoded(value: Any) -> bytes:
    """A value as JSON, whatever texts and numbers are in it."""
    return json.dumps(value).encode()


def changed_bytes(good: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes, and good files with parts cut, repeated and replaced."""
    content = st.one_of(st.sampled_from(PIECES), st.binary(max_size=16))
    edits = st.lists(st.tuples(st.integers(0, 2**16), st.sampled_from([0, 0, 1, 2, 4, 8, 64, 512]), content), max_size=6)

    def edited(start: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
        for position, length, piece in changes:
            at = position % (len(start) + 1)
            start = start[:at] + piece + start[at + length :]
        return start

    return st.one_of(st.binary(max_size=200), st.builds(edited, st.sampled_from(good), edits))


def changed_values(good: Sequence[Any]) -> st.SearchStrategy[Any]:
    """Good values with some of their parts replaced, removed, or added to."""
    return st.one_of([_changed(value) for value in good])


def _changed(good: Any) -> st.SearchStrategy[Any]:
    changes = st.lists(st.tuples(st.sampled_from(list(_paths(good))), st.one_of(VALUES, st.just(REMOVED)), TEXTS), max_size=3)

    def apply(several: list[tuple[tuple[Any, ...], Any, str]]) -> Any:
        value = json.loads(json.dumps(good))
        for path, change, name in several:
            value = _replaced(value, path, change, name)
        return value

    return changes.map(apply)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(one for key, item in inner for one in _paths(item, (*path, key)))]


def _replaced(value: Any, path: tuple[Any, ...], change: Any, name: str) -> Any:
    """`value` with `change` at `path`; an object may get it under another name beside what is there."""
    if not path:
        if change is REMOVED:
            return None
        return value | {name: change} if isinstance(value, dict) else change
    key, *rest = path
    if (isinstance(value, dict) and key in value) or (isinstance(value, list) and isinstance(key, int) and key < len(value)):
        if change is REMOVED and not rest:
            del value[key]
        else:
            value[key] = _replaced(value[key], tuple(rest), change, name)
    return value


def json_files(*good: Any, form: Callable[[Any], bytes] = encoded) -> st.SearchStrategy[bytes]:
    """Files of JSON: good values changed, any values, texts changed, and nesting without end."""
    files = [form(value) for value in good]
    return st.one_of(
        changed_values(good).map(form),
        changed_values(good).map(form),
        VALUES.map(form),
        changed_bytes(files),
        st.sampled_from(DEEP).map(str.encode),
    )
