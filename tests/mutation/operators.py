"""Mutants of a source file: seven operators on its syntax tree, each a small edit of its text.

Never mutated: strings, f-strings, docstrings, annotations, decorators, type aliases, `__all__`, TYPE_CHECKING blocks, printing and logging, the
arguments of a raised error, `strict=` of zip and assertions. The last two state what always holds: correct code can't show a weaker one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from tests.mutation.mutant import Mutant, digested
from tests.mutation.source import Project, Source

COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
NEGATIONS = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Pow: ("**", "*"),
    ast.MatMult: ("@", "*"),
    ast.Mod: ("%", "*"),
}
# How many positional arguments a call needs at least, where its name alone says that there is a default for one more.
OPTIONAL_POSITIONAL = {"get": 1, "pop": 1, "next": 1, "getattr": 2, "round": 1, "enumerate": 1, "sum": 0, "mean": 0, "squeeze": 0}
OPTIONAL_POSITIONAL |= {"any": 0, "all": 0, "cumsum": 0, "reshape": 1, "flatten": 0, "argmax": 0}
QUIET = re.compile(r"^(print|warn|TypeVar|NewType|cast|(log|logger|logging|warnings)\..*)$")
ALIAS = re.compile(r"^_?[A-Z]+[a-z]\w*$|^[A-Z]$")


def mutants(source: Source, project: Project) -> list[Mutant]:
    """All mutants of a file, in the order of their lines."""
    finder = _Finder(source, project)
    finder.visit_body(source.tree.body, None)
    return digested(sorted(finder.edits.values(), key=lambda mutant: (mutant.start, mutant.end, mutant.text)))


class _Finder(ast.NodeVisitor):
    """Walks a file and collects edits."""

    def __init__(self, source: Source, project: Project) -> None:
        self.source = source
        self.edits: dict[tuple[int, int, str], Mutant] = {}
        self._project = project
        self._span = (1, 1)
        self._function: ast.FunctionDef | ast.AsyncFunctionDef | None = None
        self._shared = True

    def _edit(self, operator: str, start: int, end: int, text: str) -> None:
        low, high = self.source.lines(start, end)
        whole = self.source.text
        before, after = whole[low:high], whole[low:start] + text + whole[end:high]
        entry = Mutant(
            self.source.path,
            self.source.line(start),
            operator,
            start,
            end,
            text,
            " ".join(before.split()),
            " ".join(after.split()),
            *self._span,
            self._shared,
        )
        self.edits.setdefault((start, end, text), entry)

    # Statements

    def visit_body(self, body: Sequence[ast.stmt], owner: ast.AST | None) -> None:
        """Statements of one block; `owner` is the statement that the block belongs to."""
        outer = self._span
        for statement in body:
            self._span = _header(statement)
            if not self._is_declaration(statement):
                if self._is_droppable(statement, owner):
                    self._edit("dropped statement", self.source.start(statement), self.source.end(statement), "pass")
                self.visit(statement)
        self._span = outer

    def _is_declaration(self, statement: ast.stmt) -> bool:
        """What isn't mutated at all."""
        if isinstance(statement, ast.Assert | ast.Import | ast.ImportFrom | ast.Global | ast.Nonlocal):
            return True
        if isinstance(statement, ast.Assign) and self._function is None and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            return name == "__all__" or bool(ALIAS.match(name))
        return isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test)

    def _is_droppable(self, statement: ast.stmt, owner: ast.AST | None) -> bool:
        match statement:
            case ast.Assign(targets=targets):
                return all(self._outlives(target, statement.lineno) for target in targets)
            case ast.AnnAssign(target=target, value=ast.expr()):
                return isinstance(target, ast.Attribute | ast.Subscript)
            case ast.Expr(value=ast.Call() as call):
                return not _is_quiet(call)
            case ast.Return(value=value):
                # Without it the function goes on: somewhere below it there is more.
                early = isinstance(owner, ast.If) and self._function is not None and owner is not self._function.body[-1]
                return early or (value is None and owner is not self._function)
            case ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break() | ast.Delete():
                return True
        return False

    def _outlives(self, target: ast.expr, line: int) -> bool:
        """Whether code below an assignment still has something to read when it is dropped."""
        if isinstance(target, ast.Tuple | ast.List):
            return all(self._outlives(part, line) for part in target.elts)
        if isinstance(target, ast.Name):
            if self._function is None:
                return False
            arguments = self._function.args
            names = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
            stores = (n for n in ast.walk(self._function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
            return target.id in names or any(n.id == target.id and n.lineno < line for n in stores)
        return isinstance(target, ast.Attribute | ast.Subscript)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        outer = self._function, self._shared
        cached = any("cache" in ast.unparse(decorator) for decorator in node.decorator_list)
        self._function, self._shared = node, cached or (outer[0] is not None and outer[1])
        self.visit_body(node.body, node)
        self._function, self._shared = outer

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer = self._function, self._shared
        self._function = None
        self.visit_body(node.body, node)
        self._function, self._shared = outer

    def visit_If(self, node: ast.If) -> None:
        self._branch(node.test)
        self.visit(node.test)
        self.visit_body(node.body, node)
        self.visit_body(node.orelse, node)

    def visit_While(self, node: ast.While) -> None:
        self.visit(node.test)
        self.visit_body(node.body, node)
        self.visit_body(node.orelse, node)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self.visit_body(node.body, node)
        self.visit_body(node.orelse, node)

    visit_AsyncFor = visit_For

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            self.visit(item.context_expr)
        self.visit_body(node.body, node)

    visit_AsyncWith = visit_With

    def visit_Try(self, node: ast.Try) -> None:
        for body in (node.body, *(handler.body for handler in node.handlers), node.orelse, node.finalbody):
            self.visit_body(body, node)

    def visit_Match(self, node: ast.Match) -> None:
        self.visit(node.subject)
        for case in node.cases:
            if case.guard is not None:
                self.visit(case.guard)
            self.visit_body(case.body, node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and "TypeAlias" not in ast.unparse(node.annotation):
            self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if type(node.op) in ARITHMETIC and not self._is_text(node.value):
            old, new = ARITHMETIC[type(node.op)]
            self._edit("arithmetic", *self.source.token(f"{old}=", self.source.end(node.target), self.source.start(node.value)), f"{new}=")
        self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        """An error's message is no behavior."""

    # Expressions

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        for number, operator in enumerate(node.ops):
            old, new = COMPARISONS[type(operator)]
            between = self.source.end(sides[number]), self.source.start(sides[number + 1])
            self._edit("comparison", *self.source.token(old, *between), new)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        # Texts and paths are put together with + and /: their mutants die of a TypeError.
        if type(node.op) in ARITHMETIC and not (self._is_text(node.left) or self._is_text(node.right)):
            old, new = ARITHMETIC[type(node.op)]
            self._edit("arithmetic", *self.source.token(old, self.source.end(node.left), self.source.start(node.right)), new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        start = self.source.start(node)
        if isinstance(node.op, ast.USub):
            self._edit("arithmetic", start, start + 1, "")
        elif isinstance(node.op, ast.Not):
            self._edit("boolean", start, start + 3, "")
        self.visit(node.operand)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._edit("boolean", *self.source.token(old, self.source.end(left), self.source.start(right)), new)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        span = self.source.start(node), self.source.end(node)
        value = node.value
        if isinstance(value, bool):
            self._edit("boolean", *span, str(not value))
        elif isinstance(value, int):
            self._edit("constant number", *span, str(value + 1))
        elif isinstance(value, float):
            self._edit("constant number", *span, repr(2 * value if value else 1.0))

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._branch(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self.visit(node.iter)
        for condition in node.ifs:
            self._edit("boolean", self.source.start(condition), self.source.end(condition), "True")
            self.visit(condition)

    def visit_Call(self, node: ast.Call) -> None:
        if _is_quiet(node):
            return
        name = _called(node).rpartition(".")[2]
        keywords = [k for k in node.keywords if k.arg is not None and not (name == "zip" and k.arg == "strict")]
        starts = [self.source.start(k) for k in node.keywords]
        for keyword in keywords:
            following = [start for start in starts if start > self.source.start(keyword)]
            if keyword.arg not in self._project.required.get(name, ()):
                end = min(following, default=self._past_comma(self.source.end(keyword)))
                self._edit("dropped argument", self.source.start(keyword), end, "")
        if not node.keywords and len(node.args) > OPTIONAL_POSITIONAL.get(name, len(node.args)):
            last = node.args[-1]
            if not isinstance(last, ast.Starred | ast.GeneratorExp) and self._is_bare(last):
                self._edit("dropped argument", self.source.start(last), self.source.end(last), "")
        self.visit(node.func)
        for argument in (*node.args, *(k.value for k in keywords)):
            self.visit(argument)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        outer = self._shared
        self._shared = False
        self.visit(node.body)
        self._shared = outer

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if ast.unparse(node.value) not in {"Literal", "Annotated"}:
            self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Texts are not mutated, nor what stands in them."""

    def _branch(self, test: ast.expr) -> None:
        """The negated test swaps the branches, unless an operator on the test does just that."""
        negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
        if not negated and not (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], NEGATIONS)):
            start, end = self.source.start(test), self.source.end(test)
            self._edit("swapped branch", start, end, f"not ({self.source.text[start:end]})")

    def _is_text(self, node: ast.expr) -> bool:
        """Whether an operand is a text or a path, as far as its name says."""
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        return (
            isinstance(node, ast.JoinedStr)
            or (isinstance(node, ast.Constant) and isinstance(node.value, str))
            or name in self._project.texts
        )

    def _past_comma(self, end: int) -> int:
        """Past the comma that may follow a last argument."""
        rest = self.source.text[end:]
        return end + len(rest) - len(rest.lstrip()[1:]) if rest.lstrip().startswith(",") else end

    def _is_bare(self, argument: ast.expr) -> bool:
        """Whether an argument stands between commas or the call's own parentheses."""
        text = self.source.text
        left, right = text[: self.source.start(argument)].rstrip(), text[self.source.end(argument) :].lstrip()
        return left.endswith((",", "(")) and not left.endswith("((") and right.startswith((",", ")"))


def _header(statement: ast.stmt) -> tuple[int, int]:
    """First and last line of a statement, without the blocks in it."""
    assert statement.end_lineno is not None
    body = getattr(statement, "body", None)
    return statement.lineno, max(statement.lineno, body[0].lineno - 1) if body else statement.end_lineno


def _called(call: ast.Call) -> str:
    return ast.unparse(call.func) if isinstance(call.func, ast.Name | ast.Attribute) else ""


def _is_quiet(call: ast.Call) -> bool:
    return bool(QUIET.match(_called(call)))
