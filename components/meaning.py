"""What a source file means: its syntax tree without what changes no result.

Left out: comments and formatting (the tree has none), docstrings, annotations, messages (the texts of raised errors, asserts, warnings,
logs, prints and progress bars, and statements that do nothing but log), the order within a block of imports, `if TYPE_CHECKING` blocks.
Everything else counts: names, order, operators, constants, defaults, decorators.

- A class's field counts by its name, since dataclasses are made of fields; its annotation counts where it acts at run time: in sections of
  settings (components/config), which convert and refuse by it, and for ClassVar, InitVar and KW_ONLY.
- The tree is written by `_Writer`, not by `ast.dump`, so that Python 3.11 to 3.13 give the same digest.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

PACKAGE = "components"  # imports of other packages are no files of this one
SECTIONS = "components/config/"  # where annotations convert and refuse
ACTING = {"ClassVar", "InitVar", "KW_ONLY"}  # annotations that dataclasses read
LOGGING = {"debug", "info", "warning", "error", "exception", "critical"}
LOGGERS = {"log", "logger", "logging"}
MESSAGES = {"print", "warn", "_warn", "_log", "log_line"}
STREAMS = {"stdout", "stderr"}  # of sys; what is written to them is printed
# Calls that a message may hold and still do nothing but say something.
PURE = {"abs", "all", "any", "bool", "float", "int", "len", "list", "max", "min", "repr", "round", "set", "sorted", "str", "sum", "type"}
PURE_METHODS = {"as_posix", "format", "items", "join", "keys", "lower", "relative_to", "removeprefix", "removesuffix", "strip", "values"}
UNREAD = {"ctx", "kind", "returns", "type_comment", "type_ignores", "type_params"}

Import = tuple[str, tuple[str, ...]]  # module of this package, and the names that are imported from it


@dataclass(frozen=True)
class Meaning:
    """Digest of a file, the modules of this package that it imports, and the names that it binds itself at its top."""

    digest: str
    imports: tuple[Import, ...]
    names: frozenset[str]

    def to_json(self) -> list[Any]:
        """As JSON holds it."""
        return [self.digest, [[module, list(names)] for module, names in self.imports], sorted(self.names)]

    @classmethod
    def from_json(cls, stored: list[Any]) -> Meaning:
        """What `to_json` gave."""
        digest, imports, names = stored
        return cls(digest, tuple((module, tuple(imported)) for module, imported in imports), frozenset(names))


def read_meaning(source: bytes | str, path: str) -> Meaning:
    """The meaning of a file's source; `path` is relative to the root, with slashes. Raises SyntaxError."""
    tree = ast.parse(source, path)
    writer = _Writer(sections=path.startswith(SECTIONS))
    writer.body(tree.body, in_class=False)
    digest = hashlib.sha256("\n".join(writer.parts).encode()).hexdigest()
    return Meaning(digest, tuple(sorted(set(_imports(tree.body, path)))), frozenset(_bound(tree.body)))


class _Writer:
    """Writes nodes as lines of text into `parts`."""

    def __init__(self, *, sections: bool) -> None:
        self.parts: list[str] = []
        self._sections = sections
        self._message = False  # whether what is written is part of a message

    def body(self, statements: Sequence[ast.stmt], *, in_class: bool) -> None:
        """Write a block."""
        self.parts.append("{")
        imports: list[str] = []
        for statement in statements:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                imports += _import_lines(statement)
                continue
            self.parts += sorted(imports)
            imports = []
            self._statement(statement, in_class=in_class)
        self.parts += sorted(imports)
        self.parts.append("}")

    def _statement(self, node: ast.stmt, *, in_class: bool) -> None:
        if isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) or _only_logs(node):
            return
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            for statement in node.orelse:
                self._statement(statement, in_class=in_class)
        elif isinstance(node, ast.AnnAssign):
            self._annotated(node, in_class=in_class)
        else:
            self._node(node)

    def _annotated(self, node: ast.AnnAssign, *, in_class: bool) -> None:
        if in_class:
            self.parts.append("field")
            self._node(node.target)
            if self._sections or any(
                isinstance(part, ast.Name | ast.Attribute) and _last(part) in ACTING for part in ast.walk(node.annotation)
            ):
                self._node(node.annotation)
            if node.value is not None:
                self._node(node.value)
        elif node.value is not None:
            self._node(ast.Assign([node.target], node.value))

    def _node(self, node: ast.AST) -> None:
        if self._message and (isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))):
            self.parts.append("message")
            return
        if isinstance(node, ast.Constant):
            self.parts.append(f"{type(node.value).__name__} {node.value!a}")
            return
        self.parts.append(type(node).__name__)
        if isinstance(node, ast.Raise):
            self._raise(node)
        elif isinstance(node, ast.Assert):
            self._node(node.test)
        elif isinstance(node, ast.Call):
            self._call(node)
        elif isinstance(node, ast.JoinedStr):
            self._joined(node)
        elif isinstance(node, ast.arg):
            self.parts.append(node.arg)
        else:
            self._fields(node)

    def _fields(self, node: ast.AST) -> None:
        for name in node._fields:
            value = getattr(node, name, None)
            if name in UNREAD or value is None:
                continue
            self.parts.append(f".{name}")
            if not isinstance(value, list):
                self._value(value)
            elif value and isinstance(value[0], ast.stmt):
                self.body(value, in_class=isinstance(node, ast.ClassDef))
            else:
                self.parts.append(f"[{len(value)}")
                for item in value:
                    self._value(item)

    def _value(self, value: object) -> None:
        if isinstance(value, ast.AST):
            self._node(value)
        else:
            self.parts.append(ascii(value))

    def _raise(self, node: ast.Raise) -> None:
        if isinstance(node.exc, ast.Call):
            self._node(node.exc.func)
            self._arguments(node.exc, message=True)
        elif node.exc is not None:
            self._node(node.exc)
        if node.cause is not None:
            self.parts.append("from")
            self._node(node.cause)

    def _call(self, node: ast.Call) -> None:
        self._node(node.func)
        self._arguments(node, message=_is_message(node))

    def _arguments(self, node: ast.Call, *, message: bool) -> None:
        outer, self._message = self._message, self._message or message
        shown = _last(node.func) == "tqdm"
        self.parts.append(f"({len(node.args)}")
        for argument in node.args:
            self._node(argument)
        for keyword in node.keywords:
            if not (shown and keyword.arg == "desc"):
                self.parts.append(f"{keyword.arg}=")
                self._node(keyword.value)
        self._message = outer

    def _joined(self, node: ast.JoinedStr) -> None:
        text = ""
        for value in node.values:
            if isinstance(value, ast.Constant):
                text += str(value.value)
                continue
            self.parts.append(ascii(text))
            text = ""
            self._fields(value)
        self.parts.append(ascii(text))


def _import_lines(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [f"import {alias.name} as {alias.asname}" for alias in node.names]
    if node.module == "__future__":
        return []
    return [f"from {'.' * node.level}{node.module or ''} import {alias.name} as {alias.asname}" for alias in node.names]


def _last(node: ast.expr) -> str:
    """The last name of a dotted one; nothing for another expression."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _is_type_checking(test: ast.expr) -> bool:
    return _last(test) == "TYPE_CHECKING"


def _is_message(node: ast.Call) -> bool:
    name = _last(node.func)
    if isinstance(node.func, ast.Attribute) and name in LOGGING:
        return _last(node.func.value).lower().lstrip("_") in LOGGERS
    if isinstance(node.func, ast.Attribute) and name == "write":
        return _last(node.func.value) in STREAMS
    return name in MESSAGES


def _only_logs(node: ast.stmt) -> bool:
    """Whether a statement does nothing but log: a call whose arguments do nothing themselves, or a condition around such calls."""
    if isinstance(node, ast.If):
        return _does_nothing(node.test) and all(_only_logs(statement) for statement in [*node.body, *node.orelse])
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call) or not _is_message(node.value):
        return False
    return all(_does_nothing(argument) for argument in [*node.value.args, *(keyword.value for keyword in node.value.keywords)])


def _does_nothing(node: ast.expr) -> bool:
    for part in ast.walk(node):
        if isinstance(part, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom):
            return False
        if isinstance(part, ast.Call):
            pure = part.func.id in PURE if isinstance(part.func, ast.Name) else _last(part.func) in PURE_METHODS
            if not pure:
                return False
    return True


def _imports(statements: Sequence[ast.stmt], path: str) -> Iterator[Import]:
    package = path.rpartition("/")[0].split("/")
    for node in _running(statements):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names if alias.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            if module.split(".")[0] == PACKAGE:
                yield module, tuple(sorted(alias.name for alias in node.names))


def _running(statements: Sequence[ast.stmt]) -> Iterator[ast.AST]:
    """Every node of a block but those under `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = list(statements)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            waiting += node.orelse
            continue
        yield node
        if not isinstance(node, ast.expr):  # expressions hold no imports
            waiting += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]


def _bound(statements: Sequence[ast.stmt]) -> Iterator[str]:
    """Names that a module's own top-level statements bind."""
    for node in statements:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))
