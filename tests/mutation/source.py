"""A source file under mutation: offsets, tokens, and what the operators must know of the code around it."""

from __future__ import annotations

import ast
import bisect
import io
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path


class Source:
    """A parsed file. Positions of the tree (line, UTF-8 column) become offsets of characters, in which edits are written."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self.tree = ast.parse(text)
        self._lines = text.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        self._tokens = [(self._starts[t.start[0] - 1] + t.start[1], t.string) for t in tokens if t.type in {tokenize.OP, tokenize.NAME}]
        self._token_starts = [start for start, _ in self._tokens]

    def start(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        """Where a node begins."""
        return self._offset(node.lineno, node.col_offset)

    def end(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        """Where a node ends."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._offset(node.end_lineno, node.end_col_offset)

    def line(self, offset: int) -> int:
        """The line of an offset, from 1."""
        return bisect.bisect_right(self._starts, offset)

    def lines(self, start: int, end: int) -> tuple[int, int]:
        """Offsets of the whole lines that the characters from `start` to `end` lie on, without the last newline."""
        last = self.line(max(start, end - 1)) - 1
        return self._starts[self.line(start) - 1], self._starts[last] + len(self._lines[last].rstrip("\n"))

    def token(self, words: str, start: int, end: int) -> tuple[int, int]:
        """Offsets of the first occurrence between two offsets of an operator, which may be two words ("not in")."""
        parts = words.split()
        first = bisect.bisect_left(self._token_starts, start)
        for number in range(first, len(self._tokens)):
            texts = [text for _, text in self._tokens[number : number + len(parts)]]
            if texts == parts:
                last, text = self._tokens[number + len(parts) - 1]
                if last + len(text) <= end:
                    return self._tokens[number][0], last + len(text)
        raise AssertionError(f"{self.path}:{self.line(start)} has no {words!r} where the tree has one")

    def _offset(self, line: int, column: int) -> int:
        text = self._lines[line - 1]
        return self._starts[line - 1] + (column if text.isascii() else len(text.encode()[:column].decode()))


@dataclass(frozen=True)
class Project:
    """What the operators know of the code beside a file.

    `required` has for each function and class name the arguments that every definition of that name requires: without one of them a call raises
    TypeError, which says nothing about the tests. `texts` are names of constants, arguments and fields that are a str or a Path.
    """

    required: Mapping[str, AbstractSet[str]]
    texts: AbstractSet[str]


def read_project(paths: Iterable[Path]) -> Project:
    """Gather that from source files."""
    definitions: defaultdict[str, list[set[str]]] = defaultdict(list)
    texts: set[str] = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    definitions[node.name].append(_required(node.args))
                case ast.ClassDef():
                    definitions[node.name].append(_required_fields(node))
                case ast.arg(annotation=ast.expr() as annotation) if _is_text_type(annotation):
                    texts.add(node.arg)
                case ast.AnnAssign(target=ast.Name() as target) if _is_text_type(node.annotation):
                    texts.add(target.id)
                case ast.Assign(targets=[ast.Name() as target], value=ast.Constant(value=str())):
                    texts.add(target.id)
    return Project({name: set.intersection(*sets) for name, sets in definitions.items()}, texts)


def _is_text_type(annotation: ast.expr) -> bool:
    return ast.unparse(annotation) in {"str", "Path", "Path | None", "str | None"}


def _required_fields(node: ast.ClassDef) -> set[str]:
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return _required(part.args)
    fields = (part for part in node.body if isinstance(part, ast.AnnAssign) and part.value is None)
    return {field.target.id for field in fields if isinstance(field.target, ast.Name)}


def _required(arguments: ast.arguments) -> set[str]:
    positional = [*arguments.posonlyargs, *arguments.args]
    required = {argument.arg for argument in positional[: len(positional) - len(arguments.defaults)]}
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return required | {argument.arg for argument, default in pairs if default is None}
